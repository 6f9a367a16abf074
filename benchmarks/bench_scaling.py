"""How does the cost grow? With the length of utterances, the batch, the vocabulary, the corpus and the processes.

    python benchmarks/bench_scaling.py
    python benchmarks/bench_scaling.py --rows 10000000

On one thread, with random weights of the base model's width. The exponent of a curve is the slope of its logarithms:
with the length of an utterance, 1 would be linear and 2 what attention alone costs. A corpus starts up when utterance
files are read, its languages' characters learned, what training cannot use is left out, and batches are planned.
Processes of one thread each share the work, as far as this machine has cores for them.
"""

import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from side_by_side import alone, benchmark_arguments, in_turns, print_table, ratio, seconds, versions, write_results

from hf_mlpl import MlplConfig, MlplForCTC
from hf_mlpl.corpora.utterances import FEATURES, durations_of, read_utterances
from hf_mlpl.data import BatchPlan, repetitions, select_for_training
from hf_mlpl.text import build_vocabulary, write_tokens
from hf_mlpl.training import build_model
from hf_mlpl.training_config import TrainingConfig

ROUNDS = 3
LAYERS = 4
LENGTHS, BATCHES, VOCABULARIES = (5, 10, 15, 30, 60, 120), (1, 2, 4, 8, 16), (100, 1000, 8065)  # s; of 10 s; classes
LABELS = 100
SENTENCE = "Vsak začetek je težak, pravi pregovor številka {}."
BLOCK = 100_000


def base_model(vocab_size: int = 100) -> MlplForCTC:
    torch.manual_seed(0)
    return MlplForCTC(MlplConfig.base(vocab_size, ["sl"], num_hidden_layers=LAYERS)).eval()


def random_features(batch: int, duration: float) -> torch.Tensor:
    return torch.randn(batch, round(100 * duration), 80)


# ---- the model


def forward(model: MlplForCTC, features: torch.Tensor) -> float:
    """Seconds for each second of audio."""
    with torch.inference_mode():
        return seconds(model, features) * 100 / features.shape[:2].numel()


def forward_and_decode(model: MlplForCTC, features: torch.Tensor) -> float:
    with torch.inference_mode():
        return seconds(lambda: model(features).logits.argmax(dim=-1).tolist()) * 100 / features.shape[:2].numel()


def train_step(model: MlplForCTC, features: torch.Tensor) -> float:
    labels = torch.randint(model.config.vocab_size - 1, (len(features), LABELS))
    model.zero_grad()
    return seconds(lambda: model(features, labels=labels).loss.backward()) * 100 / features.shape[:2].numel()


def curves() -> tuple[list[dict], dict[str, float]]:
    torch.set_num_threads(1)
    model, rows = base_model(), []
    by_length = in_turns({d: partial(forward, model, random_features(1, d)) for d in LENGTHS}, ROUNDS)
    by_batch = in_turns({b: partial(forward, model, random_features(b, 10)) for b in BATCHES}, ROUNDS)
    models = {size: base_model(size) for size in VOCABULARIES}
    decoded = in_turns({v: partial(forward_and_decode, m, random_features(1, 10)) for v, m in models.items()}, ROUNDS)
    trained = in_turns({v: partial(train_step, m, random_features(1, 10)) for v, m in models.items()}, ROUNDS)
    measured = {"length, s": by_length, "batch": by_batch, "vocabulary": decoded, "vocabulary, training": trained}
    for what, of in measured.items():
        rows += [{what: x, "ms per s of audio": 1000 * statistics.median(times)} for x, times in of.items()]
    to_60 = [length for length in LENGTHS if length <= 60]
    whole = {length: length * statistics.median(by_length[length]) for length in LENGTHS}
    rows.append({"exponent, 5-60 s": exponent({length: whole[length] for length in to_60})})
    rows.append({"exponent, 60-120 s": exponent({length: whole[length] for length in (60, 120)})})
    return rows, {
        "length: a second of 5 s over one of 60 s": ratio(by_length[5], by_length[60]),
        "batch: a second alone over one of 16": ratio(by_batch[1], by_batch[16]),
        "vocabulary: decoding, 100 over 8065": ratio(decoded[100], decoded[8065]),
        "vocabulary: training, 100 over 8065": ratio(trained[100], trained[8065]),
    }


def exponent(curve: dict[float, float]) -> float:
    return float(np.polyfit(np.log(list(curve)), np.log(list(curve.values())), 1)[0])


# ---- the corpus


def write_corpus(path: Path, rows: int) -> None:
    """Utterances of about 55 characters and, in the median, 4.8 s."""
    with pq.ParquetWriter(path, FEATURES.arrow_schema) as writer:
        for first in range(0, rows, BLOCK):
            count = min(BLOCK, rows - first)
            numbers = pc.cast(pa.array(np.arange(first, first + count)), pa.string())
            ids = pc.binary_join_element_wise("common_voice_sl", numbers, "_")
            paths = pc.binary_join_element_wise("/cv/sl/clips/common_voice_sl", numbers, "_")
            texts = pc.binary_join_element_wise(SENTENCE.removesuffix(" {}."), numbers, " ")
            nothing, human = pa.nulls(count, pa.int64()), pa.array(["human"]).take(pa.array([0] * count))
            audio = pa.StructArray.from_arrays(
                [paths, nothing, nothing, nothing.cast(pa.float64()), nothing.cast(pa.float64())],
                ["path", "offset", "size", "start", "end"],
            )
            durations = np.random.default_rng(first).lognormal(np.log(4.8), 0.35, count).clip(2, 15)
            columns = [ids, audio, durations, pa.array(["sl"]).take(pa.array([0] * count)), texts, ids, human]
            writer.write_table(pa.table(columns, schema=FEATURES.arrow_schema))


def start_up(folder: Path, rows: int) -> dict:
    """What training does before its first batch is decoded."""
    os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
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
    dataset, _ = select_for_training(dataset, processor, model.config, 60)
    lap("select, s")
    plan = BatchPlan(durations_of(dataset), 200, 0, repetitions(dataset, 0.5))
    plan[0]
    lap("plan, s")
    return told


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
    rows, ratios = curves()
    print_table(rows)
    of_corpora = corpora(options.rows)
    small, large = (next(of for of in of_corpora if of["rows"] == size) for size in (10**4, 10**6))
    for what in ("characters, s", "select, s", "plan, s"):
        ratios[f"corpus: rate of {what[:-3]}, 10^6 over 10^4"] = 100 * small[what] / large[what]
    write_results(
        options.results, "scaling", ROUNDS, [*rows, *of_corpora], ratios, {"hf_mlpl": versions(["datasets"])}
    )


if __name__ == "__main__":
    main()
