"""How much of a batch is padding, what does planning cost, and how long does training wait for its data?

    python benchmarks/bench_batches.py

Batches of 200 s, padding counted, from 100,000 lengths. They are drawn: like Common Voice, log-normal with a median of
4.8 s and sigma 0.35, between 1 and 15 s; like VoxPopuli, log-normal with a median of 10 s and sigma 0.6, between 1 and
30 s. Both shapes are made to look like the corpora, not measured on them. The peers: random batches and transformers'
`group_by_length`, both of as many utterances as make 200 s on average, and lhotse's `DynamicBucketingSampler` with
`max_duration=200` and 30 buckets.

Planning: a pass over as many utterances as `--rows` says, for a process with two loader workers. Either each worker
plans it, or the process plans it for the workers and for other processes, in a file that they map into their memory.
"kept" is what the three processes hold together, lengths included, beside mapped files, and "peak" what one that plans
has at most. Before planning it has the lengths.

Waiting: forward and backward of a small model on real mp3 files of 5 s, which one loader worker decodes meanwhile.
"""

import hashlib
import itertools
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import soundfile
import torch
from side_by_side import Worker, alone, benchmark_arguments, peer_environment, print_table, versions, write_results
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplForCTC, MlplProcessor, MlplTokenizer
from hf_mlpl.data.batches import BatchPlan, SpeechBatches
from hf_mlpl.data.selection import select_for_training
from hf_mlpl.data.shared_arrays import SharedArrays
from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.model.text import build_vocabulary, write_tokens

ROUNDS = 3
UTTERANCES, BUDGET = 100_000, 200.0
LENGTHS = {"like Common Voice": (4.8, 0.35, 1, 15), "like VoxPopuli": (10, 0.6, 1, 30)}
CLIPS, CLIP_SECONDS, BATCHES, BATCH_SECONDS = 300, 5, 20, 60
SENTENCE = "Vsak začetek je težak, pravi pregovor številka {}."
LHOTSE = """
from lhotse import CutSet, MonoCut
from lhotse.dataset import DynamicBucketingSampler
def answer(request):
    cuts = CutSet.from_cuts([MonoCut(str(i), 0, d, 0) for i, d in enumerate(request["durations"])])
    sampler = DynamicBucketingSampler(
        cuts, max_duration=request["budget"], num_buckets=30, shuffle=True, drop_last=False, seed=request["seed"]
    )
    return [[cut.duration for cut in batch] for batch in sampler]
"""


def draw(median: float, sigma: float, least: float, most: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(np.log(median), sigma, UTTERANCES).clip(least, most).round(3)


def planned(durations: np.ndarray, seed: int) -> list:
    plan = BatchPlan(durations, BUDGET, seed)
    plan[0]
    return [durations[plan[number]] for number in range(len(plan.passes[0]))]


def random(durations: np.ndarray, seed: int) -> list:
    return in_pieces(durations[np.random.default_rng(seed).permutation(len(durations))])


def group_by_length(durations: np.ndarray, seed: int) -> list:
    generator = torch.Generator().manual_seed(seed)
    size = round(BUDGET / durations.mean())
    sampler = LengthGroupedSampler(size, lengths=durations.tolist(), generator=generator)
    return in_pieces(durations[list(sampler)])


def in_pieces(durations: np.ndarray) -> list:
    size = round(BUDGET / durations.mean())
    return [durations[first : first + size] for first in range(0, len(durations), size)]


def padding(lhotse: Worker) -> tuple[list[dict], dict[str, float]]:
    def of_lhotse(durations, seed):
        return lhotse.ask({"durations": durations.tolist(), "budget": BUDGET, "seed": seed})["answer"]

    rows, ratios = [], {}
    peers = {"hf_mlpl": planned, "random": random, "group_by_length": group_by_length, "lhotse": of_lhotse}
    for lengths, shape in LENGTHS.items():
        useful = {}
        for name, batches_of in peers.items():
            shares, seconds, longest = [], [], 0
            for seed in range(ROUNDS):
                durations, start = draw(*shape, seed), time.perf_counter()
                batches = batches_of(durations, seed)
                seconds.append(time.perf_counter() - start)
                padded = [max(batch) * len(batch) for batch in batches]
                assert sum(map(len, batches)) == UTTERANCES
                shares.append(durations.sum() / sum(padded))
                longest = max(longest, *padded)
            useful[name] = statistics.median(shares)
            measured = {"useful": useful[name], "largest batch, s": longest, "planning, s": statistics.median(seconds)}
            rows.append({"lengths": lengths, "batches": name} | measured)
        for name in list(useful)[1:]:
            ratios[f"useful frames over {name}, {lengths}"] = useful["hf_mlpl"] / useful[name]
    return rows, ratios


class Planner(torch.utils.data.Dataset):
    """Gets the rows of a batch by its number from a plan, in a loader worker."""

    def __init__(self, plan: BatchPlan):
        self.plan = plan

    def __getitem__(self, number: int) -> list[int]:
        return self.plan[number]


class Rows(torch.utils.data.Dataset):
    """Gets rows as they are."""

    def __getitem__(self, rows: list[int]) -> list[int]:
        return rows


def memory(process: int, field: str) -> float:
    """Returns MB of a process's memory, by a field of `/proc`."""
    files = [Path(f"/proc/{process}/{name}").read_text(encoding="utf-8") for name in ("status", "smaps_rollup")]
    return int("\n".join(files).partition(f"{field}:")[2].split()[0]) / 1024


def planning(folder: Path, by_workers: bool) -> dict:
    own = os.getpid()
    before = memory(own, "Pss_Anon")
    arrays = SharedArrays(None if by_workers else folder / "shared")
    durations = arrays.get("lengths", partial(np.load, folder / "lengths.npy"))
    means = arrays.get("means", partial(np.load, folder / "means.npy"))
    plan = BatchPlan(durations, BUDGET, 0, means, arrays)
    durations.sum(), means.sum()  # so that pages of mapped files count before
    Path(f"/proc/{own}/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
    base, start = memory(own, "VmRSS"), time.perf_counter()
    numbers = itertools.count()
    loaded = (Planner(plan), numbers) if by_workers else (Rows(), map(plan.__getitem__, numbers))
    workers = {"num_workers": 2, "multiprocessing_context": "fork"}  # `alone` has made another one the default
    loader = iter(DataLoader(loaded[0], batch_size=None, sampler=loaded[1], **workers))
    got = [next(loader) for _ in range(4)]
    seconds = time.perf_counter() - start
    processes = [own, *(child.pid for child in psutil.Process().children())]
    return {
        "planning, s": seconds,
        "kept, MB": sum(memory(process, "Pss_Anon") for process in processes) - before,
        "peak, MB": max(memory(process, "VmHWM") for process in processes) - base,
        "first rows": hashlib.sha256(repr(got).encode()).hexdigest()[:8],
    }


def planned_passes(folder: Path, count: int) -> tuple[list[dict], dict[str, float]]:
    """Plans in both ways for `count` utterances, of which every other one occurs once or twice in a pass."""
    lengths = np.random.default_rng(0).lognormal(np.log(4.8), 0.35, count)
    np.save(folder / "lengths.npy", lengths.clip(1, 15).round(3))
    np.save(folder / "means.npy", np.where(np.arange(count) % 2, 1.0, 1.5))
    del lengths
    ways = {"planned by each worker": True, "planned once": False}
    told = {name: alone(planning, folder, by_workers)[0] for name, by_workers in ways.items()}
    each, once = told.values()
    assert each.pop("first rows") == once.pop("first rows")
    ratios = {"memory of plans, by each worker over once": each["kept, MB"] / once["kept, MB"]}
    return [{"lengths": f"{count} utterances", "batches": name} | row for name, row in told.items()], ratios


def write_clips(folder: Path) -> None:
    rows = []
    for number in range(CLIPS):
        tone = 0.1 * np.sin(np.arange(32_000 * CLIP_SECONDS) * (number + 100) / 5000)
        path = folder / f"{number}.mp3"
        soundfile.write(path, tone, 32_000)
        whole = dict.fromkeys(("offset", "size", "start", "end")) | {"path": str(path)}
        utterance = {"id": path.stem, "audio": whole, "duration_seconds": CLIP_SECONDS, "language": "sl"}
        rows.append(utterance | {"text": SENTENCE.format(number), "speaker": None, "source": "human"})
    write_utterances(rows, folder / "clips.parquet")
    write_tokens(folder / "tokens.lst", build_vocabulary(row["text"] for row in rows))


def training(folder: Path) -> dict:
    torch.set_num_threads(1)  # the other core is the loader's
    processor = MlplProcessor(MlplFeatureExtractor(), MlplTokenizer(folder / "tokens.lst"))
    config = MlplConfig.tiny(len(processor.tokenizer), ["sl"])
    dataset, _ = select_for_training(read_utterances([folder / "clips.parquet"]), processor, config, BATCH_SECONDS)
    plan = BatchPlan(np.array(dataset["duration_seconds"]), BATCH_SECONDS, 0)
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
    return {"audio s/s": BATCH_SECONDS * BATCHES / seconds, "waiting": waited / seconds}


def main() -> None:
    parser = benchmark_arguments(__doc__)
    parser.add_argument("--rows", type=int, default=10**6, help="whose pass is planned (default: 1000000)")
    options = parser.parse_args()
    packages = ["torch==2.13.0", "lhotse", "requests", "scipy"]  # lhotse imports the last two without saying so
    python = peer_environment("lhotse", packages)
    with Worker("lhotse", LHOTSE, threads=1, python=python) as lhotse:
        rows, ratios = padding(lhotse)
    print_table(rows)
    with tempfile.TemporaryDirectory() as name:
        told, more = planned_passes(Path(name), options.rows)
        print_table(told)
        rows, ratios = rows + told, ratios | more
        os.environ["HF_DATASETS_CACHE"] = f"{name}/cache"
        write_clips(Path(name))
        runs = [alone(training, Path(name))[0] for _ in range(ROUNDS)]
    measured = {what: statistics.median(run[what] for run in runs) for what in runs[0]}
    rows.append({"lengths": "clips of 5 s", "batches": "training, tiny model"} | measured)
    ratios["time of training not spent waiting"] = 1 - measured["waiting"]
    used = {"hf_mlpl": versions(["soundfile"]), "lhotse": versions(["lhotse"], python)}
    write_results(options.results, "batches", ROUNDS, rows, ratios, used)


if __name__ == "__main__":
    main()
