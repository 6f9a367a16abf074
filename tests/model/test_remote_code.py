"""Loads model folders in processes with and without an installed hf_mlpl."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoModelForCTC, AutoProcessor, pipeline

import hf_mlpl

from ..random_model import LANGUAGES, RATE, save_folder, sweep
from ..test_structure import reachable

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = {
    f"{name}_mlpl.py" for name in ("configuration", "feature_extraction", "modeling", "processing", "tokenization")
}
MODULES = (f"hf_mlpl.model.{entry.removesuffix('.py')}" for entry in ENTRIES)
CODE = {f"{name.rpartition('.')[2]}.py" for module in MODULES for name in reachable(module)}
CLASSES = {"AutoConfig", "AutoModel", "AutoModelForCTC", "AutoProcessor", "AutoTokenizer", "AutoFeatureExtractor"}

# Makes the import of the package fail, wherever it is installed.
WITHOUT_PACKAGE = """
import importlib.util, sys
sys.modules["hf_mlpl"] = None
assert importlib.util.find_spec("hf_mlpl") is None
"""

# For each job, a folder, arguments of from_pretrained and a folder to save to: all that is compared, as JSON.
USE = """
import json, sys
import numpy as np, torch
from transformers import (
    AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForCTC, AutoProcessor, AutoTokenizer, pipeline
)
samples, answers = np.load(sys.argv[1]), []
for folder, arguments, save_to in json.loads(sys.argv[2]):
    loaded = {
        auto.__name__: auto.from_pretrained(folder, **arguments)
        for auto in (AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForCTC, AutoProcessor, AutoTokenizer)
    }
    model, processor = loaded["AutoModelForCTC"], loaded["AutoProcessor"]
    with torch.no_grad():
        inputs = processor(audio=samples, sampling_rate=16000)
        outputs, frames = model(**inputs), loaded["AutoModel"](**inputs).last_hidden_state
    recognize = pipeline("automatic-speech-recognition", model=folder, **arguments)
    answers.append({
        "modules": {name: type(instance).__module__ for name, instance in loaded.items()},
        "language_log_probs": outputs.language_log_probs[0].tolist(),
        "logits_sum": float(outputs.logits.double().abs().sum()),
        "frames_sum": float(frames.double().abs().sum()),
        "decoded": processor.batch_decode(outputs.logits.argmax(-1)),
        "labels": loaded["AutoTokenizer"]("abc ab")["input_ids"],
        "pipeline": recognize(samples)["text"],
        "chunks": recognize(samples, chunk_length_s=3, stride_length_s=0.51, return_timestamps="word"),
        "batch": [answer["text"] for answer in recognize([samples, samples[:20000]], batch_size=2)],
    })
    if save_to:
        model.save_pretrained(save_to)
        processor.save_pretrained(save_to)
        recognize.save_pretrained(save_to + "-by-pipeline")
print(json.dumps(answers))
"""


def run(python, program, *arguments, cwd):
    """Runs a Python program; returns its exit status and output."""
    folders = {"HF_HOME": str(cwd / "hf"), "HF_MODULES_CACHE": str(cwd / "hf" / "modules")}
    environment = os.environ | folders | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [python, "-c", program, *map(str, arguments)]
    # Without standard input, whoever asks there whether to run the code fails.
    return subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_folder(tmp_path_factory.mktemp("models") / "tiny-7b.v1", LANGUAGES)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    path = tmp_path_factory.mktemp("speech") / "samples.npy"
    np.save(path, sweep(7.3))
    return path


@pytest.fixture(scope="module")
def expected(folder, speech):
    """Returns the package's answers, from this process."""
    samples = np.load(speech)
    recognize = pipeline("automatic-speech-recognition", model=folder)
    with torch.no_grad():
        inputs = recognize.feature_extractor(samples, sampling_rate=RATE, return_tensors="pt")
        outputs, frames = recognize.model(**inputs), recognize.model.model(**inputs).last_hidden_state
    chunks = recognize(samples, chunk_length_s=3, stride_length_s=0.51, return_timestamps="word")
    return {
        "language_log_probs": outputs.language_log_probs[0].tolist(),
        "logits_sum": float(outputs.logits.double().abs().sum()),
        "frames_sum": float(frames.double().abs().sum()),
        "decoded": recognize.tokenizer.batch_decode(outputs.logits.argmax(-1)),
        "labels": recognize.tokenizer("abc ab")["input_ids"],
        "pipeline": recognize(samples)["text"],
        "chunks": json.loads(json.dumps({"text": chunks["text"], "chunks": chunks["chunks"]})),
        "batch": [answer["text"] for answer in recognize([samples, samples[:20000]], batch_size=2)],
    }


def use(python: Path, first_lines: str, speech: Path, jobs: list, cwd: Path) -> list[dict]:
    jobs = json.dumps([[str(folder), arguments, str(save_to or "")] for folder, arguments, save_to in jobs])
    done = run(python, first_lines + USE, speech, jobs, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(answer: dict, expected: dict):
    answer["chunks"] = {key: answer["chunks"][key] for key in ("text", "chunks")}  # ours also says the language
    numbers = ("language_log_probs", "logits_sum", "frames_sum")
    assert {key: answer[key] for key in expected if key not in numbers} == {
        key: expected[key] for key in expected if key not in numbers
    }
    for key in numbers:
        assert answer[key] == pytest.approx(expected[key], rel=1e-4)
    assert len(answer["pipeline"]) > 20


def test_a_saved_folder_has_the_code_of_the_model_side_alone(folder):
    assert {path.name for path in folder.glob("*.py")} == CODE > {"text.py"}
    for name in CODE:
        assert (folder / name).read_bytes() == (ROOT / "hf_mlpl" / "model" / name).read_bytes()
    assert sum((folder / name).stat().st_size for name in CODE) < 200_000
    configs = [json.loads((folder / name).read_text()) for name in ("config.json", "processor_config.json")]
    configs += [json.loads((folder / "tokenizer_config.json").read_text()), configs[1]["feature_extractor"]]
    assert set().union(*(config["auto_map"] for config in configs)) == CLASSES


def test_trusted_code_does_what_the_package_does_where_it_is_not_installed(
    folder, speech, expected, plain_python, tmp_path
):
    trust, again = {"trust_remote_code": True}, tmp_path / "again"
    by_pipeline, by_stock_pipeline = tmp_path / "by-pipeline", tmp_path / "again-by-pipeline"
    pipeline("automatic-speech-recognition", model=folder).save_pretrained(by_pipeline)
    jobs = [(folder, trust, again), (again, trust, None), (by_pipeline, trust, None), (by_stock_pipeline, trust, None)]
    answers = use(plain_python, WITHOUT_PACKAGE, speech, jobs, tmp_path)
    for answer in answers:
        check(answer, expected)
        assert {module.partition(".")[0] for module in answer["modules"].values()} == {"transformers_modules"}
    # What that process has saved is as good a folder as ours.
    names = {path.name for path in folder.iterdir()}
    assert {path.name for path in again.iterdir()} == names
    for name in names:
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name
    assert type(AutoModelForCTC.from_pretrained(again)) is hf_mlpl.MlplForCTC
    for saved in (by_pipeline, by_stock_pipeline):
        assert {path.name for path in saved.iterdir()} == names - {"processor_config.json"} | {
            "preprocessor_config.json"
        }
        assert type(AutoProcessor.from_pretrained(saved)) is hf_mlpl.MlplProcessor


@pytest.mark.slow
def test_the_package_loads_the_folder_without_a_question(folder, speech, expected, tmp_path):
    jobs = [(folder, arguments, None) for arguments in ({}, {"trust_remote_code": False}, {"trust_remote_code": True})]
    answers = use(sys.executable, "import hf_mlpl\n", speech, jobs, tmp_path)
    for (_, arguments, _), answer in zip(jobs, answers, strict=True):
        check(answer, expected)
        ours = {name for name, module in answer["modules"].items() if module.startswith("hf_mlpl.")}
        # AutoTokenizer takes the folder's class if it may, whatever is registered; the others take the package's.
        assert ours == (CLASSES - {"AutoTokenizer"} if arguments.get("trust_remote_code") else CLASSES)


@pytest.mark.slow
def test_without_package_and_trust_the_error_and_the_folder_say_what_to_do(folder, plain_python, tmp_path):
    program = """
import json
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForCTC, AutoProcessor, AutoTokenizer, pipeline
errors = []
for auto in (AutoConfig, AutoFeatureExtractor, AutoModelForCTC, AutoProcessor, AutoTokenizer, None):
    try:
        auto.from_pretrained(sys.argv[1]) if auto else pipeline("automatic-speech-recognition", model=sys.argv[1])
    except ValueError as error:
        errors.append(" ".join(str(error).split()))
import os
os.environ["PATH"] = ""  # ffmpeg may be installed where the tests run
recognize = pipeline("automatic-speech-recognition", model=sys.argv[1], trust_remote_code=True)
try:
    recognize(sys.argv[2])
except ValueError as error:
    errors.append(str(error))
tokenizer = AutoTokenizer.from_pretrained(sys.argv[3], trust_remote_code=True)
alone = [type(tokenizer).__module__.partition(".")[0], tokenizer.encode("abc ab")]
print("\\n" + json.dumps([*alone, *errors]))
"""
    soundfile.write(tmp_path / "a.wav", sweep(1), RATE)
    tokenizer = hf_mlpl.MlplTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    done = run(
        plain_python, WITHOUT_PACKAGE + program, folder, tmp_path / "a.wav", tmp_path / "tokenizer", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    # before it stand the questions that nobody answers
    package, labels, *errors, of_a_path = json.loads(done.stdout.splitlines()[-1])
    assert (package, labels) == ("transformers_modules", tokenizer.encode("abc ab"))
    assert (
        of_a_path.startswith("files are read by ffmpeg, which is not installed, or by hf_mlpl")
        and "\n" not in of_a_path
    )
    assert "`import hf_mlpl`, once installed" in of_a_path
    assert len(errors) == 6
    for error in errors:  # transformers' own words, which name the folder and one of the ways out
        assert f"You can inspect the repository content at {folder} " in error
        assert "Please pass the argument `trust_remote_code=True`" in error
    # The other one stands in the files that one finds there, below the docstring.
    for name in ENTRIES:
        note = (folder / name).read_text().partition('"""\n\n')[2].partition("\n\n")[0]
        assert "`import hf_mlpl` where hf_mlpl is\n# installed" in note and "trust_remote_code=True" in note
