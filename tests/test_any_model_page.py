"""Runs each command of docs/any_model.md, in order, with a small random model in the place of each name."""

import csv
import random
import re
import shutil
from functools import partial
from importlib.util import find_spec

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from transformers import AutoConfig

from hf_mlpl.cli.main import main
from hf_mlpl.training_config import load_config

from . import small_teachers, tones
from .commands import ROOT, read_commands
from .small_models import missing, save_small_encoder, save_small_mms, save_small_model

PAGE = ROOT / "docs" / "any_model.md"
ARCHITECTURES = {
    "facebook/w2v-bert-2.0": "wav2vec2-bert",
    "nvidia/parakeet-ctc-1.1b": "parakeet_ctc",
    "hf-audio/omniasr-ctc-300m-v2": "omniasr_ctc",
}
NAMES = {name: partial(save_small_model, architecture=kind) for name, kind in ARCHITECTURES.items()} | {
    "facebook/w2v-bert-2.0": partial(save_small_encoder, architecture="wav2vec2-bert"),
    "facebook/mms-1b-all": partial(save_small_mms, languages={"eng": "abcdefgh", "bre": "abcdefg"}),
    "openai/whisper-large-v3": small_teachers.make_whisper,
}
RESULTS = {
    "any_model/supervised": "wav2vec2-bert",
    "any_model/language_finetune/br": "wav2vec2-bert",
    "any_model/mixed": "wav2vec2-bert",
    "any_model/final": "wav2vec2-bert",
    "parakeet": "parakeet_ctc",
    "parakeet-characters": "parakeet_ctc",
    "omniasr": "omniasr_ctc",
    "mms": "wav2vec2",
    "lora-merged": "wav2vec2-bert",
    "from-whisper": "wav2vec2-bert",
}
LABELS = ["labels/br/labels.parquet", "labels-of-parakeet/br/labels.parquet", "labels-of-whisper/br/labels.parquet"]
LABELS += ["labels-of-others.parquet"]
# A few updates on a CPU. Nothing is learned, so labels may be all the same.
SMALL = "max_updates=3 max_batch_seconds=3 freeze_encoder_updates=1 log_every=1 eval_every=3 save_every=3"
SMALL += " num_workers=0 allow_collapsed=true"
SMALL_SLIMIPL = "slimipl.start_update=1 slimipl.cache_size=2 slimipl.cache_update_probability=1"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Returns a folder with the recordings, tables and settings that the page names, and small models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(small_teachers, "LANGUAGES", ("en", "br"))
    monkeypatch.setattr(tones, "TONE_SECONDS", 0.24)  # Parakeet's frames have 80 ms
    for name, save in NAMES.items():
        save(tmp_path / "hub" / name)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    letters, noise, rows = random.Random(0), np.random.default_rng(0), []
    (tmp_path / "radio").mkdir()
    for number in range(26):
        text = tones.random_text("de", letters)
        path = f"clip-{number}.wav" if number < 20 else f"radio/talk-{number}.wav"
        soundfile.write(path, tones.speak(text, noise), tones.RATE)
        rows.append([path, text])
    for path, header, table in (
        ("clips.csv", ["path", "sentence"], rows[:20]),
        ("others.csv", ["utt", "prediction"], rows[20:]),
    ):
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *table])
    shutil.copy("clip-0.wav", "recording.mp3")  # formats are told by their content
    files = re.findall(r"```yaml\n(.*?)```\n\nis `(.*?)`", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert [name for _, name in files] == ["agreement.yaml", "normalize.yaml"]
    for text, name in files:
        (tmp_path / name).write_text(text.replace("0.8", "0"), encoding="utf-8")  # random models do not agree
    return tmp_path


def run(words: list[str], python) -> None:
    program, command, *arguments = words
    assert program == "hf-mlpl", words
    if command == "language-finetune":
        arguments += ["--launch", str(python), "--allow-collapsed"]
    if command in ("train", "language-finetune"):
        if not any(word.startswith("model=") for word in arguments):
            named = load_config(arguments[0], ["language=br"]).model
            arguments.append(f"model={named}")
        arguments += SMALL.split() + ("language_finetune" in arguments[0]) * SMALL_SLIMIPL.split()
    elif command in ("pseudo-label", "filter-labels", "join-labels"):
        arguments.append("--allow-collapsed")
    assert main([command, *map(in_hub, arguments)]) == 0, words


def in_hub(word: str) -> str:
    """Returns a word with the folder of a small model in the place of a name."""
    before, equals, name = word.rpartition("=")
    return f"{before}{equals}hub/{name}" if name in NAMES else word


@pytest.mark.slow
@pytest.mark.skipif(find_spec("peft") is None, reason="needs the extra peft")
@pytest.mark.skipif(any(map(missing, ARCHITECTURES.values())), reason="this release of transformers lacks a model")
def test_page(folder, one_thread, capsys, quick_python):
    for kind, text in re.findall(r"```(bash|python)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        if kind == "python":
            exec(text, names := {})
            capsys.readouterr()
            assert main(["transcribe", "--model", "runs/any_model/final/model", "recording.mp3"]) == 0
            # An untrained head says <unk>, which has no text in ours.
            text = names["asr"](names["load_audio"]("recording.mp3"))["text"].replace("<unk>", "")
            assert text in capsys.readouterr().out
        else:
            for words in read_commands(text):
                run(words, quick_python)
    types = {path: AutoConfig.from_pretrained(folder / "runs" / path / "model").model_type for path in RESULTS}
    assert types == RESULTS
    texts = {path: pq.read_table(folder / path)["text"].to_pylist() for path in LABELS}
    assert all(len(labels) == 6 for labels in texts.values())
    with open("others.csv", newline="", encoding="utf-8") as file:
        assert texts["labels-of-others.parquet"] == [row["prediction"] for row in csv.DictReader(file)]
    assert (folder / "runs" / "lora" / "model" / "adapter_config.json").exists()
