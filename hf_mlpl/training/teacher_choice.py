"""Chooses which model labels a language's speech: the one that slimIPL has made, or the one that it began from."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..atomic import check_fields, read_json
from ..training_config import PRESETS, TrainingConfig

START = "start"  # labels by the model that a run began from
START_RESULTS = "start.json"  # of a run: what `hf-mlpl evaluate` says on dev of the model that it began from


@dataclass(frozen=True)
class TeacherChoice:
    """Says which model labels a language, and why.

    Args:
        model: folder or Hub name.
        labels_by: `START`, `slimIPL update N`, whose weights `model` has, or the name of another teacher.
        slimipl: how slimIPL ended, in a line; None for runs of earlier versions.
        dev_cer: of the start and of slimIPL's result, where both were evaluated on dev.
    """

    model: str
    labels_by: str
    slimipl: str | None
    dev_cer: dict[str, float] | None = None

    def of_labels(self, teacher: str) -> TeacherChoice:
        """Returns what is true of labels that are there: another model, as they name it, may have made them before."""
        names = self.model, "/".join(Path(self.model).resolve().parts[-2:])
        return self if teacher.rpartition("@")[0] in names else replace(self, labels_by=teacher, dev_cer=None)

    def record(self) -> dict:
        return asdict(self)

    def describe(self) -> str:
        """Describes the choice in a line."""
        rates = ""
        if self.dev_cer:
            rates = " (CER on dev: " + ", ".join(f"{name} {rate:.1%}" for name, rate in self.dev_cer.items()) + ")"
        return "; ".join([*([self.slimipl] if self.slimipl else []), f"labels by {self.labels_by}{rates}"])


def is_comparable(config: TrainingConfig) -> bool:
    """Returns whether a finished run has results on dev to compare with those of the model that it began from."""
    return config.model not in PRESETS and _cer_on_dev(Path(config.output_dir) / "results.json", config) is not None


def choose_teacher(config: TrainingConfig) -> TeacherChoice:
    """Chooses by the results on dev of both models, or where one lacks them, by what the probes of slimIPL say.

    Reads the files of a run alone, so that the choice is the same each time. A run that its probes have stopped has
    gone back to its best teacher already. Raises a ValueError for a damaged file.
    """
    folder = Path(config.output_dir)
    outcome = _outcome(folder / "run.json")
    update = (outcome or {}).get("result", config.max_updates)
    line = outcome["line"] if outcome else None
    slimipl = TeacherChoice(str(folder / "model"), f"slimIPL update {update:,}", line)
    start = TeacherChoice(config.model, START, line)
    rates = {
        "start": _cer_on_dev(folder / START_RESULTS, config),
        "slimIPL": _cer_on_dev(folder / "results.json", config),
    }
    if None not in rates.values():
        return replace(start if rates["start"] < rates["slimIPL"] else slimipl, dev_cer=rates)
    does_harm = outcome is not None and outcome.get("verdict") is not None and not outcome["is_stopped"]
    return start if does_harm and config.model not in PRESETS else slimipl


def is_before_slimipl(choice: TeacherChoice, config: TrainingConfig) -> bool:
    """Returns whether the chosen model has learned no label of slimIPL, so that it hears best as its teacher did."""
    outcome = _outcome(Path(config.output_dir) / "run.json") or {}
    return choice.labels_by == START or outcome.get("result", math.inf) <= outcome.get("start", -1)


def _outcome(path: Path) -> dict | None:
    """Returns how slimIPL ended, from a `run.json`; None where it does not say so."""
    record = read_json(path) if path.is_file() else {}
    if (outcome := record.get("slimipl")) is not None:
        try:
            check_fields(outcome, {"line": str, "result": int, "is_stopped": bool})
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: damaged (slimipl: {error})") from error
    return outcome


def _cer_on_dev(path: Path, config: TrainingConfig) -> float | None:
    """Returns the CER of the run's language in a file of results; None where it is not known."""
    if not path.is_file():
        return None
    scores = read_json(path, languages=dict)["languages"].get(config.language) or {}
    rate = scores.get("cer")
    return rate if isinstance(rate, (int, float)) and math.isfinite(rate) else None
