"""Writes a tiny corpus that is learned in seconds: two languages of a few letters, each letter a tone of its pitch."""

import csv
import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 16_000
LETTERS = {"de": "abcde", "sv-SE": "defgö"}  # which share two letters
PITCH = {letter: 400 * 1.35**i for i, letter in enumerate("abcdefgö")}  # Hz
TONE_SECONDS = 0.08
CLIPS = {"train": 32, "dev": 8, "test": 8}  # of each language
SUFFIX = {"de": "wav", "sv-SE": "mp3"}
SEGMENTS = 24  # unlabelled, of sv-SE

COMMON_VOICE_COLUMNS = "client_id path sentence up_votes down_votes age gender accent locale segment".split()
EVENT = "20200115-0900-PLENARY_sv"

# 60,000 parameters. All dropout and masks are on, but weaker than usual: an utterance has 6 letters, not 60.
SETTINGS = {
    "model": "tiny",
    "model_fields": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "conv_dropout": 0.05,
        "attention_dropout": 0.1,
        "activation_dropout": 0.1,
        "layerdrop": 0.2,
    },
    "max_updates": 60,
    "max_batch_seconds": 5,
    "micro_batches_per_update": 2,
    "optimizer": "adamw",
    "learning_rate": 0.01,
    "warmup_updates": 10,
    "schedule": "linear",
    "max_grad_norm": 1.0,
    "spec_augment": {"start_update": 2, "max_frequency_width": 6, "num_time_masks": 1, "max_time_width": 3},
    "log_every": 1,
    "eval_every": 30,
    "save_every": 20,
    "num_workers": 0,
}


def without_pictures(patch: pytest.MonkeyPatch) -> None:
    """Lets runs in this process end without a report and draw empty curves: each takes as long as ten updates.

    Also, runs without a dev set transcribe few utterances when they save.
    """
    from matplotlib.figure import Figure

    patch.setattr("hf_mlpl.training.log.draw_curves", lambda rows: Figure(figsize=(1, 1)))
    patch.setattr("hf_mlpl.report.run.write_run_report", lambda folder: None)
    patch.setattr("hf_mlpl.training.silence.NUM_PROBES", 4)


def write_tone_corpus(root: Path) -> None:
    """Writes `root/common-voice` and `root/voxpopuli` in the layouts of those corpora, and `spoken.json`: id -> text.

    The train split of `de` has two more rows: a clip that does not exist, and an empty sentence. The annotations have
    one more segment, after the end of the recording.
    """
    letters, noise, spoken = random.Random(0), np.random.default_rng(0), {}
    for language in LETTERS:
        folder = root / "common-voice" / language
        (folder / "clips").mkdir(parents=True)
        for split, count in CLIPS.items():
            rows = []
            for i in range(count):
                text = random_text(language, letters)
                name = f"common_voice_{language}_{split}{i}.{SUFFIX[language]}"
                soundfile.write(folder / "clips" / name, speak(text, noise), RATE)
                rows.append({"client_id": f"{language}-{split}-{i % 2}", "path": name, "sentence": text})
                spoken[Path(name).stem] = text
            if language == "de" and split == "train":
                rows.append({"client_id": "x", "path": "common_voice_de_lost.wav", "sentence": "ab"})
                rows.append({"client_id": "x", "path": rows[0]["path"], "sentence": ""})
            with open(folder / f"{split}.tsv", "w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, COMMON_VOICE_COLUMNS, restval="", delimiter="\t", lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)

    recording = root / "voxpopuli" / "raw_audios" / "sv" / "2020" / f"{EVENT}.ogg"
    recording.parent.mkdir(parents=True)
    lines, parts, start = ["event_id\tsegment_no\tstart\tend\n"], [], 0.0
    for i in range(SEGMENTS):
        text = random_text("sv-SE", letters)
        parts.append(speak(text, noise))
        end = start + len(parts[-1]) / RATE
        lines.append(f"{EVENT}\t{i}\t{start:.4f}\t{end:.4f}\n")
        spoken[f"{EVENT}_{i}"] = text
        start = end
    lines.append(f"{EVENT}\t{SEGMENTS}\t{start + 1}\t{start + 2}\n")
    soundfile.write(recording, np.concatenate(parts), RATE, format="OGG", subtype="VORBIS")
    (root / "voxpopuli" / "annotations").mkdir()
    with gzip.open(root / "voxpopuli" / "annotations" / "unlabelled_v2.tsv.gz", "wt", encoding="utf-8") as file:
        file.writelines(lines)
    (root / "spoken.json").write_text(json.dumps(spoken), encoding="utf-8")


def random_text(language: str, rng: random.Random) -> str:
    """Returns one or two words of two or three letters, without repeated letters in a word."""
    return " ".join("".join(rng.sample(LETTERS[language], rng.randint(2, 3))) for _ in range(rng.randint(1, 2)))


def speak(text: str, rng: np.random.Generator) -> np.ndarray:
    """Returns samples: a tone for each letter, silence for a space, and noise over all of it."""
    times = np.arange(round(TONE_SECONDS * RATE)) / RATE
    envelope = 0.3 * np.hanning(len(times)) ** 0.3
    tones = [envelope * np.sin(2 * np.pi * PITCH.get(character, 0) * times) for character in text]
    samples = np.concatenate(tones)
    return (samples + 0.01 * rng.standard_normal(len(samples))).astype(np.float32)
