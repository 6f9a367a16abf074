"""Follows what slimIPL's labels become: labels the same utterances again and again, and judges the series.

A *probe* labels a sample of the unlabelled utterances, chosen by their ids, and one of `dev`, if there is any, when
slimIPL begins and then at regular intervals. `judge_labels` judges the series of probes, and `LabelProbes` keeps the
teacher of the best one, which becomes the result where slimIPL no longer helps.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from rapidfuzz.distance import Levenshtein
from tqdm import tqdm
from transformers import PreTrainedModel

from ..atomic import write_json
from ..data.batches import SpeechBatches
from ..data.rows import choose_rows, durations_of
from ..evaluation.error_rate import count_edits, fraction
from ..evaluation.intervals import FEWEST_SAMPLED, interval, rates_of_sums, resampled_sums
from ..inference.decoding import Hypothesis
from ..inference.sample import Sample
from ..model.text import normalize_text
from ..training_config import TrainingConfig
from .label_health import LabelHealth, made_label
from .label_judgement import SETTLED_KIND, Verdict, best_probe, describe_outcome, judge_labels
from .log import TrainingLog
from .trained_weights import frozen_names, host_copy_of_trained, load_trained, save_trained

logger = logging.getLogger(__name__)

MOST_PROBED, FEWEST_PROBED = 200, 50  # utterances
MOST_INTERVALS, FEWEST_INTERVALS = 10, 4  # between the probes of a run
MOST_COST = 0.03  # share of a run's time, unless the fewest probes of the fewest utterances take more
PASSES_OF_UPDATE = 3  # forwards that take as long as an update on the same speech
STATE, BEST = "probes.json", "best-teacher.safetensors"  # in checkpoints


def plan_probes(config: TrainingConfig, mean_seconds: float) -> tuple[int, int]:
    """Returns how many utterances a probe has, and the updates between two probes.

    Args:
        mean_seconds: of the utterances.
    """
    audio = config.max_updates * config.micro_batches_per_update * config.max_batch_seconds
    seconds = MOST_COST * PASSES_OF_UPDATE * audio  # that all probes may label together
    count = int(np.clip(seconds / (MOST_INTERVALS + 1) / mean_seconds, FEWEST_PROBED, MOST_PROBED))
    intervals = np.clip(seconds / (count * mean_seconds) - 1, FEWEST_INTERVALS, MOST_INTERVALS)
    updates = max(1, config.max_updates - config.slimipl.start_update)
    return count, math.ceil(updates / int(intervals))


class LabelProbes:
    """Takes the probes of a run, and keeps their series and the teacher of the best one.

    All processes call each method, in the same order. Neither weights nor batches nor random numbers of training
    change by it.

    Args:
        health: knows how much people write, and computes statistics of labels.
        unlabelled: batches of the utterances that slimIPL labels.
        dev: batches of those to evaluate on, if there are any.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        config: TrainingConfig,
        health: LabelHealth,
        unlabelled: SpeechBatches,
        dev: SpeechBatches | None,
    ):
        self.accelerator, self.config, self.health = accelerator, config, health
        longest = config.max_batch_seconds
        mean_seconds = float(durations_of(unlabelled.dataset).mean()) * (2 if dev else 1)
        count, self.interval = plan_probes(config, mean_seconds)
        self.sample = Sample(unlabelled, choose_rows(unlabelled.dataset, count, longest), longest)
        self.dev = Sample(dev, choose_rows(dev.dataset, count, longest), longest) if dev else None
        self.series: list[dict] = []
        self.texts: dict[str, dict[str, str]] = {"first": {}, "last": {}}  # labels of these probes, by id
        self.first_edits: dict[str, int] = {}  # of dev, by id
        self.learned = 0  # updates on pseudo-labels so far
        self.best: PreTrainedModel | None = None  # host copy of a teacher, in the main process
        self.verdict: Verdict | None = None

    def is_due(self, update: int) -> bool:
        """Returns whether a probe is to be taken after an update."""
        since = update - self.config.slimipl.start_update
        if since < 0 or self.series and self.series[-1]["update"] >= update:
            return False
        return not self.series or since % self.interval == 0 or update == self.config.max_updates

    def take(self, update: int, teacher: PreTrainedModel) -> dict:
        """Labels the samples; returns and keeps a report.

        `update`; `learned`: updates on pseudo-labels so far; `labels`: their number; what `LabelHealth.report` has;
        `deletions`: characters that are missing, divided by those of the texts that
        are known; `mean_log_prob`, over all frames; `length`: characters, divided by those that the first probe had
        for the same utterances; `agreement` with the probe before, and `agreement_with_first`: 1 - edits / characters;
        `dev_cer` on the sample of dev, and `dev_change_low` and `dev_change_high`: the 95 % interval of its difference
        from the first one.
        """
        labels = self.sample.label(self.accelerator, teacher)
        rows = [self.sample.dataset[row] for row in labels]
        texts = {row["id"]: label.text for row, label in zip(rows, labels.values(), strict=True)}
        if not self.series:
            self.texts["first"] = texts
        report: dict = {"update": update, "learned": self.learned, "labels": len(texts)}
        if texts:
            made = [made_label(row, label) for row, label in zip(rows, labels.values(), strict=True)]
            report |= _probe_report(self.health.statistics(made), list(labels.values()), rows)
            report |= {
                "length": length_change(texts, self.texts["first"]),
                "agreement": agreement(texts, self.texts["last"]) if self.series else None,
                "agreement_with_first": agreement(texts, self.texts["first"]) if self.series else None,
            }
        if self.dev:
            report |= self._take_dev(teacher)
        self.series.append(report)
        self.texts["last"] = texts
        return report

    def follow(self, update: int, teacher: PreTrainedModel, log: TrainingLog) -> bool:
        """Takes a probe if one is due after an update, and judges the series; returns whether training ends."""
        if not self.is_due(update):
            return False
        began = time.perf_counter()
        report = self.take(update, teacher)
        log.log_probe(update, report, time.perf_counter() - began)
        auto_stop = self.config.slimipl.auto_stop
        if auto_stop and self.accelerator.is_main_process and best_probe(self.series) is report:
            self.best = host_copy_of_trained(teacher)
        if self.verdict is None:
            verdict = judge_labels(self.series, is_last=update == self.config.max_updates)
            if verdict and (auto_stop or verdict.kind != SETTLED_KIND):
                self.verdict = verdict
                self._tell(verdict)
        return auto_stop and self.verdict is not None

    def _tell(self, verdict: Verdict) -> None:
        if not self.accelerator.is_main_process:
            return
        line = f"update {verdict.update}: {verdict.reason}"
        if not self.config.slimipl.auto_stop:
            logger.warning("%s; slimipl.auto_stop=true would keep the teacher of update %d", line, verdict.best)
        else:
            tqdm.write(f"{line}; slimIPL ends, and the model is the teacher of update {verdict.best}")

    @torch.no_grad()
    def restore_best(self, model: PreTrainedModel) -> None:
        """Gives a model, in all processes, the weights of the best probe's teacher."""
        kept, frozen = self.best.state_dict() if self.best is not None else {}, frozen_names(model)
        for name, value in model.state_dict().items():
            if name not in frozen:
                if self.accelerator.is_main_process:
                    value.copy_(kept[name])
                broadcast(value)

    def outcome(self, update: int) -> dict:
        """Returns what `run.json` says of slimIPL after its last update.

        `result` is the update whose weights the model has, `is_stopped` says whether `auto_stop` has chosen it, and
        `start` is the update at which slimIPL began. `verdict` has the fields of `Verdict`, and is None where nothing
        speaks against slimIPL. `line` says all that in words.
        """
        is_stopped = self.verdict is not None and self.config.slimipl.auto_stop
        outcome = {
            "update": update,
            "of": self.config.max_updates,
            "start": self.series[0]["update"] if self.series else None,
            "is_stopped": is_stopped,
            "result": self.verdict.best if is_stopped else update,
            "verdict": self.verdict and self.verdict._asdict(),
        }
        return outcome | {"line": describe_outcome(outcome)}

    def copy_state(self) -> Callable[[Path], None]:
        """Returns a function that writes the series and the best teacher as they are now, in any thread."""
        state = {
            "ids": self.sample.ids,
            "series": list(self.series),
            "texts": dict(self.texts),
            "first_edits": self.first_edits,
            "learned": self.learned,
            "verdict": self.verdict,
        }
        best = self.best  # never changes, but is replaced

        def write(folder: Path) -> None:
            if self.accelerator.is_main_process:
                write_json(folder / STATE, state)
                if best is not None:
                    save_trained(best, folder / BEST)

        return write

    def load(self, folder: Path, model: PreTrainedModel) -> None:
        """Restores what `copy_state` has written; without that, or with other utterances, the series begins anew."""
        if not (folder / STATE).exists():
            return
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        auto_stop = self.config.slimipl.auto_stop
        if state["ids"] != self.sample.ids or auto_stop and state["series"] and not (folder / BEST).exists():
            return
        self.series, self.texts, self.learned = state["series"], state["texts"], state["learned"]
        self.first_edits, self.verdict = state["first_edits"], state["verdict"] and Verdict(*state["verdict"])
        if auto_stop and self.series and self.accelerator.is_main_process:
            self.best = host_copy_of_trained(model)
            load_trained(self.best, folder / BEST)

    def _take_dev(self, teacher: PreTrainedModel) -> dict:
        labels = self.dev.label(self.accelerator, teacher)
        columns = zip(self.dev.rows, self.dev.ids, self.dev.texts, strict=True)
        texts = {row: (name, normalize_text(text)) for row, name, text in columns}
        edits, lengths = {}, {}
        for row, label in labels.items():
            name, text = texts[row]
            edits[name], lengths[name] = Levenshtein.distance(normalize_text(label.text), text), len(text)
        if not self.series:
            self.first_edits = edits
        report: dict = {"dev_cer": fraction(sum(edits.values()), sum(lengths.values()))} if edits else {}
        both = [name for name in edits if name in self.first_edits]
        if self.series and len(both) >= FEWEST_SAMPLED:
            counts = [[self.first_edits[name], lengths[name], edits[name], lengths[name]] for name in both]
            rates = rates_of_sums(resampled_sums(np.array(counts)))
            low, high = interval(rates[:, 1] - rates[:, 0])
            report |= {"dev_change_low": low, "dev_change_high": high}
        return report


def _probe_report(statistics: dict, labels: Sequence[Hypothesis], rows: Sequence[dict]) -> dict:
    """Returns numbers of a probe's labels, from the statistics of `LabelHealth`."""
    names = ("length_ratio", "blank_ratio", "empty", "commonest", "language_agreement", "cer")
    frames = sum(label.num_frames for label in labels)
    report = {name: statistics[name] for name in names}
    report["mean_log_prob"] = sum(label.mean_log_prob * label.num_frames for label in labels) / frames
    pairs = [
        (normalize_text(label.text), normalize_text(row["text"]))
        for label, row in zip(labels, rows, strict=True)
        if row["text"] is not None
    ]
    if pairs:
        deletions = sum(count_edits(*pair)[1] for pair in pairs)
        report["deletions"] = fraction(deletions, sum(len(reference) for _, reference in pairs))
    return report


def agreement(texts: dict[str, str], others: dict[str, str]) -> float | None:
    """Returns 1 - edits / characters between two labels of the same utterances; None without any character.

    The characters of an utterance are those of the longer label, so that the result is between 0 and 1.
    """
    pairs = [(text, others[name]) for name, text in texts.items() if name in others]
    characters = sum(max(len(text), len(other)) for text, other in pairs)
    edits = sum(Levenshtein.distance(text, other) for text, other in pairs)
    return 1 - edits / characters if characters else None


def length_change(texts: dict[str, str], first: dict[str, str]) -> float | None:
    """Returns the characters of labels, divided by those that the first labels of the same utterances had."""
    both = [name for name in texts if name in first]
    characters = sum(len(first[name]) for name in both)
    return sum(len(texts[name]) for name in both) / characters if characters else None
