"""Runs the commands of recipes/own_speech on small data: a quick look at all of them, and all stages for real."""

import re
import shutil

import pytest
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from hf_mlpl import MlplForCTC
from hf_mlpl.evaluation.results import read_results
from hf_mlpl.training_config import load_config

from ..commands import ROOT, check_command, run_command
from ..random_model import LANGUAGES, save_folder

SCRIPT = "recipes/own_speech/run.sh"
STAGES = ["supervised", "language_finetune", "mixed", "final"]
# Few updates of small batches, and no processes that load data
SHORT = ["max_updates=4", "max_batch_seconds=5", "micro_batches_per_update=2", "save_every=4", "num_workers=0"]
SHORT_SLIMIPL = ["slimipl.start_update=1", "slimipl.cache_size=2"]


@pytest.fixture
def data(tone_data, tmp_path):
    """Copies the utterance files of the tones; those of dev are those of the test speakers, too."""
    folder = tmp_path / "data"
    shutil.copytree(tone_data, folder, ignore=shutil.ignore_patterns("*.lst", "*.yaml"))
    shutil.copy(folder / "dev.parquet", folder / "test.parquet")
    return folder


@pytest.mark.parametrize("machine", ["laptop", "gpu"])
def test_the_commands_exist_and_follow_each_other(data, machine, commands_of_script):
    done, commands = commands_of_script(SCRIPT, f"machine={machine}", data)
    assert done.returncode == 0, done.stderr
    commands = [words for words in commands if "-c" not in words]  # which looks for flashlight
    scripts = [next(word for word in words if word.endswith(".py")) for words in commands]
    labelling = "build_lm language_finetune" if machine == "laptop" else "language_finetune"
    names = f"build_tokenizer estimate train {labelling} train train evaluate_model evaluate_model report compare"
    assert scripts == [f"recipes/{name}.py" for name in names.split()]
    written = {"tiny", "speechbrain/m-ctc-t-large"}
    for words in commands:
        check_command(words)
        if not {"recipes/train.py", "recipes/language_finetune.py"}.isdisjoint(words):
            first = next(i for i, word in enumerate(words) if word.startswith("recipes/own_speech/"))
            overrides = [word for word in words[first + 1 :] if re.match(r"[\w.]+=", word)]
            config = load_config(ROOT / words[first], ["language=br", *overrides])
            assert config.model in written
            written.add(f"{config.output_dir}/model")
    (data / "unlabelled.parquet").unlink()
    done, commands = commands_of_script(SCRIPT, data)
    assert done.returncode == 0 and sum("recipes/train.py" in words for words in commands) == 1
    for arguments, message in (([], "DATA: no train.parquet"), (["machine=phone"], "machine=laptop or gpu")):
        done, commands = commands_of_script(SCRIPT, *arguments)
        assert done.returncode == 1 and commands == [] and message in done.stderr


@pytest.mark.slow  # a second process trains and labels
@pytest.mark.parametrize("machine", ["laptop", "gpu"])
def test_all_stages_on_small_data(data, machine, commands_of_script, quick_python, tmp_path, monkeypatch, one_thread):
    done, commands = commands_of_script(SCRIPT, f"machine={machine}", data)
    monkeypatch.chdir(tmp_path)
    for words in commands:
        if "-c" in words:
            continue
        number = next(i for i, word in enumerate(words) if word.endswith(".py"))
        arguments = words[number + 1 :]
        if "--launch" in arguments:
            arguments[arguments.index("--launch") + 1] = str(quick_python)
        if "train.py" in words[number] or "language_finetune" in words[number]:
            arguments += SHORT
            if arguments[0].endswith("laptop/supervised.yaml"):
                arguments.append("model_fields={num_hidden_layers: 2, hidden_size: 64, intermediate_size: 64}")
                AcceleratorState._reset_state(reset_partial_state=True)  # a process has one precision for good
            if arguments[0].endswith("gpu/supervised.yaml"):
                AcceleratorState._reset_state(reset_partial_state=True)  # a small one in place of the released model
                arguments.append(f"model={save_folder(tmp_path / 'released', LANGUAGES)}")
        if "language_finetune" in words[number]:
            arguments += SHORT_SLIMIPL
        if "estimate" not in words[number]:  # it would look for the released model
            assert not run_command(words[number].rpartition("/")[2], *arguments), words
    AcceleratorState._reset_state(reset_partial_state=True)
    run = tmp_path / "runs/own_speech"
    weights = [load_file(run / name / "model" / "model.safetensors") for name in ("supervised", "mixed", "final")]
    assert all(weights) and (run / "labels/sv-SE/labels.parquet").is_file()
    assert MlplForCTC.from_pretrained(run / "final/model").config.languages
    assert read_results(run / "final.json")["languages"]
