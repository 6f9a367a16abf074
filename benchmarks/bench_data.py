"""Does the data side keep up with real sizes? A manifest of a million clips.

    python benchmarks/bench_data.py

Each measurement is a process of its own. The peer is Python's `csv`, which understands nothing of what it reads. How
soon training begins with millions of utterances is measured by `bench_corpus.py`.
"""

import csv
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from side_by_side import alone, benchmark_arguments, in_turns, ratio, versions, write_results

from hf_mlpl.corpora.preparation.prepare import Part, prepare
from hf_mlpl.corpora.reading import ReadingReport, with_durations
from hf_mlpl.corpora.tables import read_table
from hf_mlpl.model.text import normalize_text

ROUNDS = 1  # of minutes
CLIPS = 1_000_000  # rows of the manifest
FILES = 1000  # real ones, of CLIP_SECONDS
CLIP_SECONDS = 5
SENTENCE = "Vsak začetek je težak, pravi pregovor številka {}."
COLUMNS = "client_id path sentence up_votes down_votes age gender accent locale segment".split()


def read_release(folder: Path, report: ReadingReport, measured: bool) -> Iterator[dict]:
    """A Common Voice table, durations from `clip_durations.tsv`, as later releases have it, or the files."""
    durations = {}
    if not measured:
        rows = read_table(folder / "clip_durations.tsv", ["clip", "duration[ms]"])
        durations = {row["clip"]: int(row["duration[ms]"]) / 1000 for _, row in rows}

    def rows() -> Iterator[tuple[str, dict]]:
        for where, row in read_table(folder / "train.tsv", COLUMNS):
            report.read += 1
            audio = {"path": f"{folder}/clips/{row['path']}", "start": None, "end": None}
            utterance = {"id": row["path"][:-4], "audio": audio, "language": row["locale"], "source": "human"}
            yield where, utterance | {"text": normalize_text(row["sentence"]), "speaker": row["client_id"]}

    if measured:
        yield from with_durations(rows(), report)
    else:
        for _, row in rows():
            yield row | {"duration_seconds": durations[f"{row['id']}.mp3"]}


def write_release(folder: Path, clips: int, measured: bool) -> None:
    (folder / "clips").mkdir(parents=True)
    with open(folder / "train.tsv", "w") as table, open(folder / "clip_durations.tsv", "w") as durations:
        table.write("\t".join(COLUMNS) + "\n")
        durations.write("clip\tduration[ms]\n")
        for number in range(clips):
            name = f"common_voice_sl_{number:08d}.mp3"
            table.write(f"{number % 10_000:0128x}\t{name}\t{SENTENCE.format(number)}\t2\t0\t\t\t\tsl\t\n")
            durations.write(f"{name}\t{3000 + number % 5000}\n")
    for number in range(clips if measured else 0):
        tone = 0.1 * np.sin(np.arange(32_000 * CLIP_SECONDS) * (number + 100) / 5000)
        soundfile.write(folder / "clips" / f"common_voice_sl_{number:08d}.mp3", tone, 32_000)


def manifest(folder: Path, measured: bool) -> dict:
    start = time.perf_counter()
    part = Part("train", partial(read_release, folder, measured=measured), "train")
    with tempfile.TemporaryDirectory() as output:
        kept = prepare([part], Path(output)).splits["train"].utterances.total()
    return {"rows": kept, "rows/s": kept / (time.perf_counter() - start)}


def bare_csv(folder: Path) -> dict:
    start = time.perf_counter()
    with open(folder / "train.tsv", encoding="utf-8", newline="") as file:
        rows = sum(1 for _ in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return {"rows": rows, "rows/s": rows / (time.perf_counter() - start)}


def main() -> None:
    options = benchmark_arguments(__doc__).parse_args()
    rows, rates = [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        write_release(folder / "million", CLIPS, measured=False)
        write_release(folder / "files", FILES, measured=True)

        def rate(what: str, function: Callable, *arguments) -> float:
            told, peak = alone(function, *arguments)
            rows.append({"what": what} | told | {"peak, MB": peak})
            return told["rows/s"]

        measurements = {
            "manifest": (manifest, folder / "million", False),
            "csv": (bare_csv, folder / "million"),
            "manifest, headers read": (manifest, folder / "files", True),
        }
        candidates = {name: partial(rate, name, *call) for name, call in measurements.items()}
        rates = in_turns(candidates, ROUNDS, warm_up=False)
    ratios = {"manifest over bare csv": ratio(rates["manifest"], rates["csv"])}
    used = {"hf_mlpl": versions(["pyarrow", "datasets", "soundfile"])}
    write_results(options.results, "data", ROUNDS, sorted(rows, key=lambda row: row["what"]), ratios, used)


if __name__ == "__main__":
    main()
