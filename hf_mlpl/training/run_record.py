"""Records a run's provenance and last dev results, from which the model card is rendered."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path

from accelerate import Accelerator
from datasets import Dataset
from transformers import PreTrainedModel
from transformers.utils import cached_file

from ..atomic import write_json
from ..corpora.sources import sources_of
from ..ctc_models import CtcInterface
from ..data.collapse import HUMAN
from ..data.summary import seconds_by_source
from ..hardware import hardware_name
from ..training_config import PRESETS, TrainingConfig

logger = logging.getLogger(__name__)

FIELDS = set("stage language updates started_from training_data unlabelled_hours sources".split())  # that cards need


class RunRecord:
    """Writes `run.json`, and `results.json` with the last evaluation on dev, in the main process only.

    `run.json` is `{"stage", "language", "updates", "model": {"type", "parameters", "languages"}, "started_from",
    "training_data", "unlabelled_hours", "dropped", "sources", "sessions"}`, and, if the trained model says nothing, a
    line `"collapse"`, and at the end of a run with slimIPL `"slimipl"`, as `SlimIpl.outcome` describes it:

    - `started_from` is None for a new model, else `{"name", "revision", "run"}`: the name of a run's folder or of a
      Hub repository, its commit, and the `run.json` of the run that trained the model, each None if it is not known;
    - `training_data` is `{language: {"human_hours", "pseudo_labelled_hours", "teachers"}}`, without dropped
      utterances; `unlabelled_hours` is `{language: hours}` of slimIPL's speech;
    - `sessions` are the parts of an interrupted run, `{"first_update", "hardware", "processes", "hours", "commit",
      "versions"}`; consecutive ones in the same environment are one. `hours` are wall-clock time up to the last write.

    `results.json` has the fields that `hf-mlpl evaluate` writes, and `update`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: PreTrainedModel,
        ctc: CtcInterface,
        config: TrainingConfig,
        start: int,
        train_set: Dataset,
        dropped: Counter,
        unlabelled_set: Dataset | None,
    ):
        self.is_main_process = accelerator.is_main_process
        if not self.is_main_process:
            return
        self.config, self.start_time = config, time.monotonic()
        self.path = Path(config.output_dir) / "run.json"
        paths = [*config.train, *(config.unlabelled or ())]
        self.record = {
            "stage": config.stage,
            "language": config.language,
            "updates": start,
            "model": {
                "type": model.config.model_type,
                "parameters": model.num_parameters(),
                "languages": list(ctc.languages),
            },
            "started_from": _started_from(config, model),
            "training_data": training_data(train_set),
            "unlabelled_hours": {} if unlabelled_set is None else _unlabelled_hours(unlabelled_set),
            "dropped": dict(dropped.most_common()),
            "sources": [asdict(source) for source in sources_of(paths)],
        }
        self.sessions = sessions_of(self.path)
        if not self.sessions and self.path.is_file():
            logger.warning("%s is damaged: the hours before update %d are not counted", self.path, start + 1)
        environment = {
            "hardware": hardware_name(accelerator.device),
            "processes": accelerator.num_processes,
            "commit": code_commit(),
            "versions": {name: sys.modules[name].__version__ for name in ("torch", "transformers", "hf_mlpl")},
        }
        if not self.sessions or self.sessions[-1] != self.sessions[-1] | environment:
            self.sessions.append({"first_update": start + 1, "hours": 0.0, **environment})
        self.hours_before = self.sessions[-1]["hours"]
        self.write(start)

    def write(self, updates: int) -> None:
        """Writes `run.json` with the number of updates and the hours so far."""
        if self.is_main_process:
            self.sessions[-1]["hours"] = self.hours_before + (time.monotonic() - self.start_time) / 3600
            write_json(self.path, {**self.record, "updates": updates, "sessions": self.sessions})

    def finish(self, updates: int, collapse: str | None, slimipl: dict | None) -> None:
        """Writes `run.json` at the end of a run.

        Args:
            collapse: says that the trained model says nothing, if it does.
            slimipl: the outcome of slimIPL, if the run has it.
        """
        if self.is_main_process:
            self.record |= {"collapse": collapse} if collapse else {}
            self.record |= {"slimipl": slimipl} if slimipl else {}
            self.write(updates)

    def write_evaluation(self, update: int, results: dict | None) -> None:
        """Writes `results.json`; only the main process has results."""
        if self.is_main_process:
            sources = [asdict(source) for source in sources_of(self.config.dev)]
            subject = {"model": str(self.path.parent / "model"), "data": list(self.config.dev), "sources": sources}
            write_json(self.path.with_name("results.json"), {**subject, "update": update, **results})


def training_data(dataset: Dataset) -> dict[str, dict]:
    """Sums the hours of each language's human texts and pseudo-labels; lists the teachers of the latter."""
    seconds, teachers = defaultdict(Counter), defaultdict(set)
    for language, source, duration in seconds_by_source(dataset):
        seconds[language]["human" if source in HUMAN else "pseudo_labelled"] += duration
        if source not in HUMAN:
            teachers[language].add(source)
    return {
        language: {
            **{f"{kind}_hours": seconds[language][kind] / 3600 for kind in ("human", "pseudo_labelled")},
            "teachers": sorted(teachers[language]),
        }
        for language in sorted(seconds)
    }


def _unlabelled_hours(dataset: Dataset) -> dict[str, float]:
    seconds: defaultdict[str, float] = defaultdict(float)
    for language, _, duration in seconds_by_source(dataset):
        seconds[language] += duration
    return {language: seconds[language] / 3600 for language in sorted(seconds)}


def _started_from(config: TrainingConfig, model: PreTrainedModel) -> dict | None:
    """Identifies the model that a run starts from, by name and not by path, for `RunRecord`."""
    if config.model in PRESETS:
        return None
    folder, commit = Path(config.model), getattr(model.config, "_commit_hash", None)
    if folder.is_dir():
        record = next((path for path in (folder / "run.json", folder.parent / "run.json") if path.is_file()), None)
        name = folder.resolve().parent.name if folder.name == "model" else folder.resolve().name
    else:
        name = config.model
        lenient = {f"_raise_exceptions_for_{reason}": False for reason in ("missing_entries", "connection_errors")}
        record = cached_file(name, "run.json", revision=commit, **lenient)
    return {"name": name, "revision": commit, "run": _read_record(Path(record)) if record else None}


def _read_record(path: Path) -> dict | None:
    """Reads a `run.json`; returns None for another kind of file, which a foreign repository may have."""
    try:
        record = _json(path)
    except ValueError:
        return None
    return record if isinstance(record, dict) and FIELDS <= record.keys() else None


def collapse_of_run(output_dir: Path) -> str | None:
    """Returns the line of a finished run whose model says nothing; None for other runs."""
    record = _read_record(output_dir / "run.json") if (output_dir / "run.json").is_file() else None
    return record.get("collapse") if record else None


def sessions_of(path: Path) -> list[dict]:
    """Reads the sessions in a `run.json`; returns none if it does not exist or is damaged."""
    try:
        sessions = _json(path)["sessions"]
        return sessions if all(session["first_update"] > 0 and session["hours"] >= 0 for session in sessions) else []
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def code_commit() -> str | None:
    """Returns the commit of this code, with `-dirty` if files were changed since; None outside of its checkout."""

    def git(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True)

    try:
        if git("ls-files", "--error-unmatch", Path(__file__).name).returncode:
            return None  # installed, perhaps into the checkout of another project
        return git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty").stdout.strip() or None
    except OSError:  # there is no git
        return None
