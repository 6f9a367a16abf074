"""Measures how far from the truth the times are that `hf-mlpl align` finds for words of people.

    python benchmarks/alignment_error.py FOLDER

FOLDER holds manifest.tsv of the Free Spoken Digit Dataset, with the columns path, speaker and sentence. The script
puts clips together with pauses of up to 0.35 s, trains a model of 2 million parameters on them (ten minutes on one
core), and aligns recordings of other clips, in lines of five words, with pauses of up to 0.6 s between all words. The
true start and end of a word are those of its sound: the first and last 10 ms of the clip that are louder than a
twentieth of its loudest 10 ms. The clips of one speaker are in no training data, and neither are the first five clips
of each digit of the others. For the last rows, the text lacks 30 % of the lines.
"""

import argparse
import csv
import random
import re
from pathlib import Path

import numpy as np
import soundfile
from side_by_side import print_table

from hf_mlpl import MlplForCTC, MlplProcessor
from hf_mlpl.data.utterances import write_utterances
from hf_mlpl.inference import align
from hf_mlpl.model.text import build_vocabulary, write_tokens
from hf_mlpl.training.loop import train
from hf_mlpl.training_config import load_config

RATE = 8000
UNSEEN = "theo"
SETTINGS = """
model: tiny
max_updates: 3000
max_batch_seconds: 12
optimizer: adamw
learning_rate: 0.0015
warmup_updates: 200
schedule: linear
max_grad_norm: 1.0
spec_augment: {start_update: 800, max_frequency_width: 10}
num_workers: 0
"""


def join(clips: list[dict], longest_pause: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sound of clips with pauses before them, and the start and end of each in seconds."""
    pauses, noise = random.Random(seed), np.random.default_rng(seed)
    parts, times, position = [], [], 0
    for clip in clips:
        samples, rate = soundfile.read(clip["path"], dtype="float32")
        assert rate == RATE
        pause = noise.normal(0, 0.002, round(pauses.uniform(0, longest_pause) * RATE)).astype(np.float32)
        loudness = np.sqrt((samples[: len(samples) // 80 * 80].reshape(-1, 80) ** 2).mean(axis=1))
        loud = np.flatnonzero(loudness > 0.05 * loudness.max())
        position += len(pause)
        times.append(((position + 80 * loud[0]) / RATE, (position + 80 * (loud[-1] + 1)) / RATE))
        parts += [pause, samples]
        position += len(samples)
    return np.concatenate(parts), np.array(times)


def train_model(clips: list[dict], folder: Path) -> Path:
    chooser, rows = random.Random(0), []
    for speaker in sorted({clip["speaker"] for clip in clips}):
        own = [clip for clip in clips if clip["speaker"] == speaker]
        for i in range(400):
            chosen, path = chooser.choices(own, k=chooser.choice([1, 1, 2, 3, 4, 5, 6])), folder / f"{speaker}-{i}.wav"
            samples, _ = join(chosen, 0.35, len(rows))
            soundfile.write(path, samples, RATE)
            audio = {"path": str(path.absolute())} | dict.fromkeys(("offset", "size", "start", "end"))
            text = " ".join(clip["sentence"] for clip in chosen)
            rows.append({"id": path.stem, "audio": audio, "duration_seconds": len(samples) / RATE, "language": "en"})
            rows[-1] |= {"text": text, "speaker": speaker, "source": "human"}
    write_utterances(rows, folder / "train.parquet")
    write_tokens(folder / "tokens-all.lst", build_vocabulary(row["text"] for row in rows))
    settings = {
        "output_dir": folder / "run",
        "tokens": folder / "tokens-all.lst",
        "train": [str(folder / "train.parquet")],
    }
    (folder / "settings.yaml").write_text(SETTINGS)
    train(load_config(folder / "settings.yaml", [f"{name}={value}" for name, value in settings.items()]))
    return folder / "run" / "model"


def measure(model_folder: Path, clips: list[dict], left_out: float) -> dict:
    chooser = random.Random(1)
    clips = chooser.sample(clips, len(clips) // 5 * 5)
    samples, times = join(clips, 0.6, 1)
    lines = [i for i in range(0, len(clips), 5) if chooser.random() >= left_out]
    text = [" ".join(clip["sentence"] for clip in clips[i : i + 5]) for i in lines]
    model, processor = MlplForCTC.from_pretrained(model_folder), MlplProcessor.from_pretrained(model_folder)
    alignment = align(model, processor, {"array": samples, "sampling_rate": RATE}, text)
    found = np.array([(word.start, word.end) for word in alignment.words])
    errors = 1000 * abs(found - np.concatenate([times[i : i + 5] for i in lines]))
    row = {"words": len(found), "score": round(alignment.score, 2)}
    for name, column in zip(("start", "end"), errors.T, strict=True):
        row |= {f"{name}, median, ms": np.median(column).round(), f"{name}, 90 %": np.percentile(column, 90).round()}
    return row


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=Path("runs/alignment_error"), help="kept: a trained model")
    options = parser.parse_args()
    with open(options.folder / "manifest.tsv", encoding="utf-8", newline="") as file:
        clips = [row | {"path": options.folder / row["path"]} for row in csv.DictReader(file, delimiter="\t")]
    unseen = [clip for clip in clips if clip["speaker"] == UNSEEN]
    others = [clip for clip in clips if clip["speaker"] != UNSEEN]
    held_out = [clip for clip in others if re.search(r"_[0-4]\.wav", clip["path"].name)]
    options.output.mkdir(parents=True, exist_ok=True)
    model = options.output / "run" / "model"
    if not model.exists():
        train_model([clip for clip in others if clip not in held_out], options.output)
    tests = {"new clips of known speakers": held_out, f"{UNSEEN}, an unknown speaker": unseen}
    rows = [(share, name) for share in (0.0, 0.3) for name in tests]
    print_table([{"": name, "left out": share} | measure(model, tests[name], share) for share, name in rows])
