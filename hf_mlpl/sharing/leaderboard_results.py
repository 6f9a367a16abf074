"""Writes results on the test sets of the Open ASR Leaderboard for its benchmark on the Hub.

A file in the folder `.eval_results` of a model's repository shows its numbers on the page of the model and on that of
the benchmark, https://huggingface.co/docs/hub/eval-results; the Hub takes those of registered benchmarks alone. The
leaderboard asks for this one in its `.github/PULL_REQUEST_TEMPLATE.md`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from ..atomic import write_text
from ..evaluation.results import NORMALIZED, rate_of
from ..evaluation.speed_line import is_speed

BENCHMARK = "hf-audio/open-asr-leaderboard"
FILE = ".eval_results/open_asr_leaderboard.yaml"
TASKS = {  # (configuration, split) of the benchmark -> its task; their mean is `mean_wer`
    ("ami", "test"): "ami_wer",
    ("earnings22", "test"): "earnings22_wer",
    ("gigaspeech", "test"): "gigaspeech_wer",
    ("librispeech", "test.clean"): "librispeech_clean_wer",
    ("librispeech", "test.other"): "librispeech_other_wer",
    ("spgispeech", "test"): "spgispeech_wer",
    ("voxpopuli", "test"): "voxpopuli_wer",
}


def leaderboard_entries(results: Sequence[dict]) -> list[EvalResultEntry]:
    """Returns normalised word error rates in percent; [] without results of the benchmark.

    With those of all its test sets there are their mean, and RTFx of all of them together.
    """
    scored = {}
    for result in results:
        dataset = result.get("dataset") or {}
        if dataset.get("id") != BENCHMARK or result.get("unseen_in"):  # sentences left out make other numbers
            continue
        for language, config in dataset["configs"].items():
            task = TASKS.get((config, dataset["split"]))
            rate = rate_of(result["languages"].get(language, {}), f"{NORMALIZED}wer")
            if task and rate is not None:
                scored[task] = (round(100 * rate, 2), result)
    if not scored:
        return []
    names = {str(result.get("normalization")) for _, result in scored.values()}
    notes = f"texts normalised by {' and '.join(sorted(names))}"
    revisions = {task: result["dataset"]["revision"] for task, (_, result) in scored.items()}
    entries = [_entry(task, value, revisions[task], notes) for task, (value, _) in sorted(scored.items())]
    if len(scored) == len(TASKS):
        revision = revisions.popitem()[1] if len({*revisions.values()}) == 1 else None
        mean = round(fmean(value for value, _ in scored.values()), 2)
        entries.insert(0, _entry("mean_wer", mean, revision, notes))
        speeds = [result.get("speed") for _, result in scored.values()]
        if all(is_speed(speed) and speed["rtfx"] for speed in speeds) and len({s["hardware"] for s in speeds}) == 1:
            rtfx = math.fsum(s["audio_seconds"] for s in speeds) / math.fsum(s["seconds"] for s in speeds)
            hardware = f"on {speeds[0]['hardware']}, {speeds[0]['dtype']}"
            entries.insert(1, _entry("rtfx", round(rtfx, 2), revision, hardware))
    return entries


def _entry(task: str, value: float, revision: str | None, notes: str) -> EvalResultEntry:
    return EvalResultEntry(BENCHMARK, task, value, dataset_revision=revision, notes=notes)


def write_leaderboard_results(folder: Path, results: Sequence[dict]) -> None:
    """Writes the entries into a folder that becomes a model's repository; nothing if there are none."""
    if entries := leaderboard_entries(results):
        (folder / FILE).parent.mkdir(exist_ok=True)
        content = eval_result_entries_to_yaml(entries)
        write_text(folder / FILE, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
