"""Loads models of the old port wherever a command takes a model."""

import torch
from huggingface_hub import HfApi

from hf_mlpl import MlplForCTC, MlplProcessor
from hf_mlpl.inference import align
from hf_mlpl.inference.blank_detector import BlankDetector
from hf_mlpl.inference.loading import load_model
from hf_mlpl.interop.mctct import convert_mctct

from ..port_folder import save_port
from ..random_model import RATE, sweep


def test_a_model_of_the_old_port(tmp_path, local_hub):
    folder = save_port(tmp_path / "port")
    repo = HfApi().create_repo("port").repo_id
    HfApi().upload_folder(repo_id=repo, folder_path=folder)
    expected = convert_mctct(folder)[0].state_dict()
    for name in (str(folder), repo):
        model, processor = load_model(name)
        assert isinstance(model, MlplForCTC) and isinstance(processor, MlplProcessor) and not model.training
        assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    samples = sweep(40)
    detector = BlankDetector(repo)
    assert sum(map(len, detector([samples]))) == 1333  # frames of 30 ms
    alignment = align(model, processor, {"array": samples, "sampling_rate": RATE}, "ab cd\nef")
    assert [word.text for word in alignment.words] == ["ab", "cd", "ef"]
