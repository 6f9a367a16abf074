"""How long do commands take to begin? From utterance files to the first planned batch, of 10^3 to 10^7 utterances.

    python benchmarks/bench_corpus.py --rows 10000000

On one thread; each corpus in a process of its own, once as `hf-mlpl prepare-data` writes it, with a summary in its
footer, and once without, as files of earlier versions and of other tools are. It is read for the first time, which
makes the library's cache of it, and again; labels are checked for collapse, and conventions of teachers compared; the
characters of its languages are learned, what training cannot use is left out, ids and texts are hashed for the
checkpoints, hours are counted for the log and the card, and batches are planned. `train` is the sum of this when it is
done again, as after an interruption, and `train at first` that of the first time, without the first reading.
`pseudo-label`, `evaluate` and `estimate` are what these commands do with all utterances before the first batch.
The peer is `read_table`: pyarrow reads the file, and does nothing with it. `slimipl` is what a slimIPL run does
besides, with the same utterances as its unlabelled speech. `anonymous, MB` is the most memory, without and with
slimIPL, beside pages of mapped files, which the system takes back when it needs them.
"""

import logging
import shutil
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
from hf_mlpl.data.summary import ids_sha256, languages_in
from hf_mlpl.data.utterances import FEATURES, read_utterances, speech_totals, write_tables
from hf_mlpl.labels.labelling import ORDERS
from hf_mlpl.model.text import build_vocabulary, write_tokens
from hf_mlpl.training.checkpoints import digest
from hf_mlpl.training.label_health import LabelHealth
from hf_mlpl.training.model_setup import build_model
from hf_mlpl.training.run_data import check_pseudo_labels, compare_conventions
from hf_mlpl.training.run_record import training_data
from hf_mlpl.training_config import TrainingConfig

SENTENCE = "Vsak začetek je težak, pravi pregovor številka {}."
ROWS_WRITTEN = 100_000  # at a time


def write_corpus(path: Path, rows: int, with_summary: bool) -> None:
    """Utterances of about 55 characters and, in the median, 4.8 s; one in 10,000 has no text."""

    def tables():
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
            yield pa.table(columns, schema=FEATURES.arrow_schema)

    write_tables(tables(), path, FEATURES.arrow_schema, summary=None if with_summary else lambda: None)


class AnonymousMemory(threading.Thread):
    """Looks every 10 ms for the most memory that this process has had beside mapped files."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most_mb = 0.0

    def run(self) -> None:
        while True:
            status = Path("/proc/self/status").read_text(encoding="utf-8").partition("RssAnon:")[2]
            self.most_mb = max(self.most_mb, int(status.split()[0]) / 1024)
            time.sleep(0.01)


def start_up(folder: Path, rows: int) -> dict:
    """Does what training does before its first batch is decoded."""
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    logging.basicConfig(filename=folder / "log.txt")
    memory = AnonymousMemory()
    memory.start()
    told, start = {}, time.perf_counter()

    def lap(what: str) -> None:
        nonlocal start
        told[what] = time.perf_counter() - start
        start = time.perf_counter()

    paths = [folder / f"{rows}.parquet"]
    read_utterances(paths)
    lap("read for the first time, s")
    for what in ("train at first, s", "train, s"):
        before = time.perf_counter()
        dataset = read_utterances(paths)
        lap("read, s")
        check_pseudo_labels(dataset)
        compare_conventions(dataset)
        lap("check labels, s")
        settings = TrainingConfig(
            output_dir="", model="tiny", train=[str(paths[0])], max_updates=1, tokens=str(folder / "tokens.lst")
        )
        model, processor = build_model(settings, dataset)
        lap("characters, s")
        selected, _ = select_for_training(dataset, processor, model.config, 60)
        lap("select, s")
        digest(processor, train=selected)
        lap("digest, s")
        training_data(selected)
        lap("hours, s")
        BatchPlan(durations_of(selected), 200, 0, repetitions(selected, 0.5))[0]
        lap("plan, s")
        told[what] = start - before
    told["anonymous, MB"] = memory.most_mb
    start = time.perf_counter()
    unlabelled = select_unlabelled(dataset, model.config.languages, 60)
    LabelHealth(selected)
    digest(processor, unlabelled=unlabelled)
    BatchPlan(durations_of(unlabelled), 200, 0, repetitions(unlabelled, 0.5))[0]
    lap("slimipl, s")
    told["slimipl anonymous, MB"] = memory.most_mb
    start = time.perf_counter()
    labelled = read_utterances(paths)
    languages_in(labelled), ids_sha256(labelled), ORDERS["duration bucket, recording"](labelled)
    lap("pseudo-label, s")
    languages_in(read_utterances(paths))
    lap("evaluate, s")
    speech_totals(paths)
    lap("estimate, s")
    return told


def read_table(path: Path) -> dict:
    start = time.perf_counter()
    pq.read_table(path, use_threads=False)
    return {"read_table, s": time.perf_counter() - start}


def corpora(most: int) -> list[dict]:
    told = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tokens(folder / "tokens.lst", build_vocabulary([SENTENCE.format(1234567890)]))
        for rows in (10**power for power in range(3, 8) if 10**power <= most):
            for with_summary in (True, False):
                write_corpus(folder / f"{rows}.parquet", rows, with_summary)
                peer, _ = alone(read_table, folder / f"{rows}.parquet")
                measured, peak = alone(start_up, folder, rows)
                told.append({"rows": rows, "summary": with_summary} | peer | measured | {"peak, MB": peak})
                print(told[-1], flush=True)
                (folder / f"{rows}.parquet").unlink()
                shutil.rmtree(folder / "cache")
    return told


def main() -> None:
    parser = benchmark_arguments(__doc__)
    parser.add_argument("--rows", type=int, default=10**6, help="of the largest corpus (default: 1000000)")
    options = parser.parse_args()
    rows = corpora(options.rows)
    by_corpus = {(row["rows"], row["summary"]): row for row in rows}
    small, large = (by_corpus[size, True]["train, s"] for size in (10**5, 10**6))
    ratios = {"rate of all of it, 10^6 utterances over 10^5": 10 * small / large}
    for what in ("train", "pseudo-label", "evaluate", "estimate"):
        without, with_summary = (by_corpus[10**6, has][f"{what}, s"] for has in (False, True))
        ratios[f"{what}, 10^6 utterances, without a summary over with it"] = without / with_summary
        ratios[f"reading the table of 10^6 utterances over {what}"] = (
            by_corpus[10**6, True]["read_table, s"] / by_corpus[10**6, True][f"{what}, s"]
        )
    write_results(options.results, "corpus", 1, rows, ratios, {"hf_mlpl": versions(["datasets", "pyarrow"])})


if __name__ == "__main__":
    main()
