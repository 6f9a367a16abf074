"""How long does training take to begin? From utterance files to the first planned batch, of 10^3 to 10^7 utterances.

    python benchmarks/bench_corpus.py --rows 10000000

On one thread; each corpus in a process of its own. It is read for the first time and again, the characters of its
languages are learned, what training cannot use is left out, ids and texts are hashed for the checkpoints, hours are
counted for the log and the card, and batches are planned. All of it must look at each utterance: at its id, which may
occur once, at its text, and at its duration. `slimipl` is what a slimIPL run does besides, with the same utterances as
its unlabelled speech. `anonymous, MB` is the most memory, without and with slimIPL, that is no page of a mapped file:
those the system takes back when it needs them.
"""

import logging
import tempfile
import threading
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from side_by_side import alone, benchmark_arguments, versions, write_results

from hf_mlpl.data.batches import BatchPlan, repetitions
from hf_mlpl.data.rows import durations_of
from hf_mlpl.data.selection import select_for_training, select_unlabelled
from hf_mlpl.data.utterances import FEATURES, read_utterances
from hf_mlpl.model.text import build_vocabulary, write_tokens
from hf_mlpl.training.checkpoints import digest
from hf_mlpl.training.label_health import LabelHealth
from hf_mlpl.training.model_setup import build_model
from hf_mlpl.training.run_record import training_data
from hf_mlpl.training_config import TrainingConfig

SENTENCE = "Vsak začetek je težak, pravi pregovor številka {}."
ROWS_WRITTEN = 100_000  # at a time


def write_corpus(path: Path, rows: int) -> None:
    """Utterances of about 55 characters and, in the median, 4.8 s; one in 10,000 has no text."""
    with pq.ParquetWriter(path, FEATURES.arrow_schema) as writer:
        for first in range(0, rows, ROWS_WRITTEN):
            count = min(ROWS_WRITTEN, rows - first)
            numbers = pc.cast(pa.array(np.arange(first, first + count)), pa.string())
            ids = pc.binary_join_element_wise("common_voice_sl", numbers, "_")
            paths = pc.binary_join_element_wise("/cv/sl/clips/common_voice_sl", numbers, "_")
            texts = pc.binary_join_element_wise(SENTENCE.removesuffix(" {}."), numbers, " ")
            texts = pc.if_else(pa.array(np.arange(count) % 10_000 > 0), texts, None)
            nothing, human = pa.nulls(count, pa.int64()), pa.array(["human"]).take(pa.array([0] * count))
            audio = pa.StructArray.from_arrays(
                [paths, nothing, nothing, nothing.cast(pa.float64()), nothing.cast(pa.float64())],
                ["path", "offset", "size", "start", "end"],
            )
            durations = np.random.default_rng(first).lognormal(np.log(4.8), 0.35, count).clip(2, 15)
            columns = [ids, audio, durations, pa.array(["sl"]).take(pa.array([0] * count)), texts, ids, human]
            writer.write_table(pa.table(columns, schema=FEATURES.arrow_schema))


class AnonymousMemory(threading.Thread):
    """The most memory that this process has had beside mapped files, looked at every 10 ms."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most_mb = 0.0

    def run(self) -> None:
        while True:
            status = Path("/proc/self/status").read_text(encoding="utf-8").partition("RssAnon:")[2]
            self.most_mb = max(self.most_mb, int(status.split()[0]) / 1024)
            time.sleep(0.01)


def start_up(folder: Path, rows: int) -> dict:
    """What training does before its first batch is decoded."""
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    logging.basicConfig(filename=folder / "log.txt")
    memory = AnonymousMemory()
    memory.start()
    told, start = {"rows": rows}, time.perf_counter()

    def lap(what: str) -> None:
        nonlocal start
        told[what] = time.perf_counter() - start
        start = time.perf_counter()

    path = folder / f"{rows}.parquet"
    dataset = read_utterances([path])
    lap("read, s")
    read_utterances([path])
    lap("read again, s")
    settings = TrainingConfig(
        output_dir="", model="tiny", train=[str(path)], max_updates=1, tokens=str(folder / "tokens.lst")
    )
    model, processor = build_model(settings, dataset)
    lap("characters, s")
    selected, _ = select_for_training(dataset, processor, model.config, 60)
    lap("select, s")
    digest(processor, train=selected)
    lap("digest, s")
    training_data(selected)
    lap("hours, s")
    plan = BatchPlan(durations_of(selected), 200, 0, repetitions(selected, 0.5))
    plan[0]
    lap("plan, s")
    told["in all, s"] = sum(seconds for what, seconds in told.items() if what not in ("rows", "read again, s"))
    told["anonymous, MB"] = memory.most_mb
    unlabelled = select_unlabelled(dataset, model.config.languages, 60)
    LabelHealth(selected)
    digest(processor, unlabelled=unlabelled)
    BatchPlan(durations_of(unlabelled), 200, 0, repetitions(unlabelled, 0.5))[0]
    lap("slimipl, s")
    return told | {"slimipl anonymous, MB": memory.most_mb}


def corpora(most: int) -> list[dict]:
    told = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tokens(folder / "tokens.lst", build_vocabulary([SENTENCE.format(1234567890)]))
        for rows in (10**power for power in range(3, 8) if 10**power <= most):
            write_corpus(folder / f"{rows}.parquet", rows)
            measured, peak = alone(start_up, folder, rows)
            told.append(measured | {"peak, MB": peak})
            (folder / f"{rows}.parquet").unlink()
    return told


def main() -> None:
    parser = benchmark_arguments(__doc__)
    parser.add_argument("--rows", type=int, default=10**6, help="of the largest corpus (default: 1000000)")
    options = parser.parse_args()
    rows = corpora(options.rows)
    small, large = (next(of["in all, s"] for of in rows if of["rows"] == size) for size in (10**5, 10**6))
    ratios = {"rate of all of it, 10^6 utterances over 10^5": 10 * small / large}
    write_results(options.results, "corpus", 1, rows, ratios, {"hf_mlpl": versions(["datasets", "pyarrow"])})


if __name__ == "__main__":
    main()
