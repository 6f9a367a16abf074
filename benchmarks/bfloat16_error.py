"""Measures what bfloat16 changes in labels: the texts that are others, and the character error rate.

    python benchmarks/bfloat16_error.py

Trains the small model of the tests on their tones, in seconds, and decodes 320 other recordings of tones on the CPU
in float32 and in bfloat16: as the tests make them, and with noise that is 10 and 20 times as loud. The character
error rate is that against the letters that were spoken.
"""

import argparse
import random
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
import torch
import yaml
from rapidfuzz.distance import Levenshtein
from side_by_side import print_table

from hf_mlpl import MlplForCTC, MlplProcessor
from hf_mlpl.data.utterances import FEATURES, read_utterances, write_utterances
from hf_mlpl.inference.decoding import transcribe
from hf_mlpl.inference.precision import convert
from hf_mlpl.model.text import build_vocabulary, write_tokens
from hf_mlpl.training.loop import train
from hf_mlpl.training_config import load_config

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.tones import LETTERS, RATE, SETTINGS, random_text, speak

RECORDINGS = 160  # of each language
LOUDER = (0, 10, 20)  # noise that is added, in times of that of the tests


def write_tones(folder: Path, name: str, count: int, seed: int, louder: float = 0) -> dict[str, str]:
    """Writes `name.parquet` and its recordings; returns id -> text."""
    letters, noise, rows = random.Random(seed), np.random.default_rng(seed), []
    for language in LETTERS:
        for number in range(count):
            text, path = random_text(language, letters), folder / f"{name}-{language}-{number}.wav"
            samples = speak(text, noise)
            samples += (0.01 * louder * noise.standard_normal(len(samples))).astype(np.float32)
            soundfile.write(path, samples, RATE)
            row = {"id": path.stem, "duration_seconds": len(samples) / RATE, "language": language, "text": text}
            rows.append(row | {"audio": dict.fromkeys(FEATURES["audio"]) | {"path": str(path)}, "speaker": None})
    write_utterances([row | {"source": "human"} for row in rows], folder / f"{name}.parquet")
    return {row["id"]: row["text"] for row in rows}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    rows = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        texts = write_tones(folder, "train", 32, 0)
        write_tokens(folder / "tokens.lst", build_vocabulary(texts.values()))
        paths = {"output_dir": str(folder / "run"), "tokens": str(folder / "tokens.lst")}
        settings = {**SETTINGS, **paths, "train": [str(folder / "train.parquet")]}
        (folder / "tones.yaml").write_text(yaml.safe_dump(settings))
        train(load_config(folder / "tones.yaml"))
        processor = MlplProcessor.from_pretrained(folder / "run" / "model")
        for louder in LOUDER:
            spoken = write_tones(folder, "test", RECORDINGS, 1, louder)
            dataset, made = read_utterances([folder / "test.parquet"]), {}
            for dtype in ("float32", "bfloat16"):
                model = convert(MlplForCTC.from_pretrained(folder / "run" / "model").eval(), dtype)
                made[dtype] = {each.row: each.text for each in transcribe(model, processor, dataset, num_workers=0)}
            exact = made["float32"]
            for dtype, found in made.items():
                edits = sum(Levenshtein.distance(found[row], spoken[id_]) for row, id_ in enumerate(dataset["id"]))
                rows.append(
                    {
                        "noise": f"{1 + louder}x",
                        "precision": dtype,
                        "texts that are others": sum(found[row] != exact[row] for row in exact),
                        "CER between them, %": 100
                        * sum(Levenshtein.distance(found[row], exact[row]) for row in exact)
                        / sum(map(len, exact.values())),
                        "CER, %": 100 * edits / sum(map(len, spoken.values())),
                    }
                )
    print_table(rows)


if __name__ == "__main__":
    main()
