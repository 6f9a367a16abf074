"""The files of an Inference Endpoint, loaded and called as Hugging Face's toolkit does, without hf_mlpl."""

import importlib.util
import json
import re

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoModelForCTC, AutoProcessor, pipeline

from hf_mlpl.sharing.endpoint import write_endpoint

from ..commands import ROOT
from ..model.test_remote_code import WITHOUT_PACKAGE, run
from ..random_model import LANGUAGES, RATE, save_folder, sweep
from ..small_models import missing, save_small_model

# For each request, the answer or the error; bytes come from files.
CALL = """
import base64, importlib.util, json, sys
from pathlib import Path
folder, requests = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
spec = importlib.util.spec_from_file_location("handler.EndpointHandler", Path(folder) / "handler.py")
sys.path.insert(0, folder)
module = importlib.util.module_from_spec(spec)
sys.modules["handler.EndpointHandler"] = module
spec.loader.exec_module(module)
handler, answers = module.EndpointHandler(folder), []
for kind, inputs, parameters in requests:
    if kind in ("bytes", "base64"):
        inputs = Path(inputs).read_bytes()
    if kind == "base64":
        inputs = base64.b64encode(inputs).decode()
    try:
        answers.append(handler({"inputs": inputs} | ({"parameters": parameters} if parameters else {})))
    except ValueError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


def test_requirements_are_those_of_the_package(tmp_path):
    write_endpoint(tmp_path)
    wanted = (tmp_path / "requirements.txt").read_text().split()
    declared = re.findall(r'^ *"([\w-]+>=[\d.]+)', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert len(wanted) == 2 and set(wanted) <= set(declared)


@pytest.mark.slow
def test_the_handler_answers_without_the_package(plain_python, tmp_path):
    pytest.importorskip("av")
    folder = save_folder(tmp_path / "tiny", LANGUAGES)
    write_endpoint(folder)
    short, long = tmp_path / "short.flac", tmp_path / "long.wav"
    soundfile.write(short, sweep(5.3), RATE)
    soundfile.write(long, np.stack([sweep(80)] * 2, axis=1), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "rate.wav", sweep(4, 44_100), 44_100)
    words = {"return_timestamps": "word"}
    requests = [
        ("bytes", short, None),
        ("base64", short, words),
        ("dict", {"array": sweep(5.3).tolist(), "sampling_rate": RATE}, None),
        ("bytes", long, words),
        ("bytes", tmp_path / "rate.wav", None),
        ("bytes", folder / "config.json", None),
        ("text", "no base64", None),
        ("dict", {"path": "short.flac"}, None),
        ("bytes", short, {"language": "de"}),
    ]
    (tmp_path / "requests.json").write_text(json.dumps(requests, default=str))
    done = run(plain_python, WITHOUT_PACKAGE + CALL, folder, tmp_path / "requests.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    recognize = pipeline("automatic-speech-recognition", model=folder)
    file, samples, timed = recognize(str(short)), recognize(sweep(5.3)), recognize(str(long), return_timestamps="word")
    for answer, expected in zip(answers[:4], (file, file, samples, timed), strict=True):
        assert answer["text"] == expected["text"] and len(answer["text"]) > 20
        assert answer["language"] == expected["language"]
        assert answer["language_probability"] == pytest.approx(expected["language_probability"], rel=1e-3)
    assert [("chunks" in answer) for answer in answers[:4]] == [False, True, False, True]
    assert answers[3]["chunks"] == json.loads(json.dumps(timed["chunks"]))
    assert answers[4]["language"] and len(answers[4]["text"]) > 20  # resampled by another library
    for error in answers[5:8]:
        assert error.startswith("inputs are not audio that can be decoded: they must be") and "\n" not in error
    assert answers[8] == "there is no parameter language; only return_timestamps, word or char"


def test_the_handler_serves_models_of_any_architecture(tmp_path):
    """Long recordings of those that say how long a frame is are cut, as `pipeline` cuts them."""
    pytest.importorskip("av")
    for architecture in ("wav2vec2", "parakeet_ctc", "omniasr_ctc"):
        if missing(architecture):
            continue
        folder = save_small_model(tmp_path / architecture, architecture)
        write_endpoint(folder)
        path = folder / "handler.py"
        spec = importlib.util.spec_from_file_location(f"handler_{architecture}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        handler = module.EndpointHandler(str(folder))
        model, processor = AutoModelForCTC.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
        for seconds in (3, 40):
            samples = sweep(seconds)
            answer = handler({"inputs": {"array": samples, "sampling_rate": RATE}})
            inputs = processor.feature_extractor(samples, sampling_rate=RATE, return_tensors="pt")
            with torch.no_grad():
                expected = processor.decode(model(**inputs).logits[0].argmax(dim=-1))
            if seconds == 40 and architecture == "wav2vec2":
                cut = {"chunk_length_s": 25.0, "stride_length_s": 25.0 / 6}
                expected = pipeline("automatic-speech-recognition", model=folder)(samples, **cut)["text"]
            assert answer == {"text": expected} and len(expected) > 20
