"""Does the data side keep up with real sizes? A manifest of a million clips, ten million streamed segments, a loader.

    python benchmarks/bench_data.py

Prints a table and writes benchmarks/results/data.json. Each measurement is a process of its own, so that its peak of
memory is its own; those of clips and loading read real mp3 files, one core each.
"""

import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch
from torch.utils.data import DataLoader

from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplForCTC, MlplProcessor, MlplTokenizer
from hf_mlpl.atomic import write_json
from hf_mlpl.corpora.preparation import Part, prepare
from hf_mlpl.corpora.streaming import StreamedUtterances
from hf_mlpl.corpora.tables import read_table
from hf_mlpl.corpora.utterances import FEATURES, ReadingReport, read_utterances, with_durations, write_utterances
from hf_mlpl.data import BatchPlan, SpeechBatches, select_for_training
from hf_mlpl.text import build_vocabulary, normalize_text, write_tokens

ROUNDS = 3
CLIPS = 1_000_000  # rows of the manifest
FILES = 1000  # real ones, of CLIP_SECONDS
CLIP_SECONDS = 5
SEGMENTS = 10_000_000
SENTENCE = "Vsak začetek je težak, pravi pregovor številka {}."
COLUMNS = "client_id path sentence up_votes down_votes age gender accent locale segment".split()
BATCHES = 20
MEGABYTE = 2**20


def memory(kind: str) -> float:
    """MB of this process: VmRSS, RssAnon and others of Linux."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{kind}:"))
    return int(line.split()[1]) / 1024


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


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
    seconds = time.perf_counter() - start
    used = {"seconds": seconds, "cpu_seconds": time.process_time()}
    return {"rows": kept, **used, "rows_per_second": kept / seconds, "peak_mb": peak_mb()}


def write_segments(path: Path) -> None:
    block = 10_000
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, FEATURES.arrow_schema) as writer:
        for first in range(0, SEGMENTS, block):
            events = [f"20{first // block % 90 + 10:02d}0115-0900-PLENARY_sl_{first + i}" for i in range(block)]
            starts = np.arange(block) * 20.0
            audio = [{"path": f"/voxpopuli/{first}.ogg", "start": s, "end": s + 15} for s in starts]
            columns = {"id": events, "audio": audio, "duration_seconds": rng.uniform(1, 20, block)}
            nothing = pa.nulls(block, pa.string())
            columns |= {"language": ["sl"] * block, "text": nothing, "speaker": nothing, "source": nothing}
            writer.write_table(pa.table(columns, schema=FEATURES.arrow_schema))


def stream(path: Path) -> dict:
    start, rss = time.perf_counter(), []
    for number, _ in enumerate(StreamedUtterances([path], seed=0, passes=1), start=1):
        if number % (SEGMENTS // 100) == 0:
            rss.append(memory("VmRSS"))
    seconds = time.perf_counter() - start
    # The first hundredth fills the buffer, of rows and of the allocator.
    flat = max(rss[1:]) - rss[1]
    used = {"seconds": seconds, "cpu_seconds": time.process_time()}
    return {"segments": number, **used, "per_second": number / seconds, "rss_mb": rss[1], "rss_growth_mb": flat}


def load(folder: Path) -> dict:
    """Forward and backward of a small model on real mp3 files, decoded by one loader worker meanwhile."""
    torch.set_num_threads(1)
    part = list(read_release(folder, ReadingReport(), measured=True))
    write_utterances(part, folder / "clips.parquet")
    write_tokens(folder / "tokens.lst", build_vocabulary(row["text"] for row in part))
    processor = MlplProcessor(MlplFeatureExtractor(), MlplTokenizer(folder / "tokens.lst"))
    config = MlplConfig.tiny(len(processor.tokenizer), ["sl"])
    dataset, _ = select_for_training(read_utterances([folder / "clips.parquet"]), processor, config, 60)
    plan = BatchPlan(np.array(dataset["duration_seconds"]), 60, 0)
    batches = SpeechBatches(dataset, plan, processor, config, with_labels=True)
    model, waited = MlplForCTC(config).train(), 0.0
    loader = iter(DataLoader(batches, batch_size=None, sampler=range(BATCHES + 1), num_workers=1, prefetch_factor=4))
    next(loader)  # starts the worker
    start = time.perf_counter()
    for _ in range(BATCHES):
        before = time.perf_counter()
        batch = next(loader)
        waited += time.perf_counter() - before
        model(**batch.inputs(torch.device("cpu"))).loss.backward()
        model.zero_grad()
    seconds = time.perf_counter() - start
    return {"audio_seconds_per_second": 60 * BATCHES / seconds, "waiting_share": waited / seconds}


def _send(connection, measure: Callable, arguments: tuple) -> None:
    connection.send(measure(*arguments))


def alone(measure: Callable, *arguments, rounds: int = ROUNDS) -> dict:
    """Medians of a measurement in fresh processes."""
    results = []
    for _ in range(rounds):
        receiver, sender = get_context("spawn").Pipe(duplex=False)
        process = get_context("spawn").Process(target=_send, args=(sender, measure, arguments))
        process.start()
        sender.close()
        results.append(receiver.recv())
        process.join()
    row = {name: statistics.median(result[name] for result in results) for name in results[0]}
    print(measure.__name__, "  ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
    return row


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        write_release(folder / "million", CLIPS, measured=False)
        write_release(folder / "files", FILES, measured=True)
        write_segments(folder / "segments.parquet")
        rows = {
            "manifest_with_clip_durations": alone(manifest, folder / "million", False),
            "manifest_with_headers_read": alone(manifest, folder / "files", True),
            "stream": alone(stream, folder / "segments.parquet", rounds=1),
            "loader": alone(load, folder / "files"),
        }
    versions = {"python": platform.python_version(), "torch": torch.__version__, "pyarrow": pa.__version__}
    path = Path(__file__).parent / "results" / "data.json"
    write_json(path, {"machine": {"processor": platform.machine(), **versions}, "rounds": ROUNDS, **rows})
    print(f"results: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    main()
