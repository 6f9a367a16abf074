"""Sends the rows of `metrics.jsonl` to trackers of experiments, such as TensorBoard, by Accelerate's classes."""

from __future__ import annotations

import logging
import os
import re
import sys
import uuid
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from ..atomic import read_json, write_json
from ..error_line import error_line
from ..training_config import TrainingConfig, plain_settings
from .checkpoint_files import TRACKED
from .metrics import flatten

logger = logging.getLogger(__name__)

Position = list  # of a row in metrics.jsonl: its update, and its `_rank`
NOTHING: Position = [-1, 0]
MOST_AWAITED = 100  # rows between two tries to send to a tracker that fails


class Trackers:
    """Sends rows to the trackers of `report_to`; only the main process may start them.

    `trackers.json` in the run's folder is `{"project", "name", "id", "ids", "last"}`: name and id of the run, the same
    for all trackers but for those that choose their own, in `ids`, and the position of the last row that each tracker
    got. By it a resumed run goes on in the same runs: each gets the rows that it lacks, and none twice.

    Args:
        start: updates of the run so far.
    """

    def __init__(self, config: TrainingConfig, start: int):
        self.config, self.resumed_at = config, start
        self.path = Path(config.output_dir) / TRACKED
        self.trackers: dict[str, GeneralTracker] = {}
        self.unsent: dict[str, list[dict]] = {}  # rows of each tracker
        self.awaited: dict[str, int] = {}  # rows that are sent together; more after each failure
        self.warned: set[str] = set()

    def start(self, rows: Sequence[dict]) -> None:
        """Starts the run in each tracker, or goes on with it, and sends those of the rows so far that it lacks.

        Raises:
            ValueError: for a tracker that cannot be started; if the run is resumed, a warning says so instead.
        """
        if not self.config.report_to:
            return
        self.record = self._read()
        for name in dict.fromkeys(self.config.report_to):
            try:
                self._start(name)
            except Exception as error:  # of any kind: these are programs of others, most with a network
                problem = f"{name} cannot be started ({_reason(error)})"
                if not self.resumed_at:
                    raise ValueError(f"report_to: {problem}; mend that, or leave {name} out") from error
                logger.warning("%s: training goes on without it, and metrics.jsonl has all rows", problem)
        self.log(*rows)

    def _start(self, name: str) -> None:
        last = self.record["last"].get(name)
        if name == "tensorboard":  # whose files lie in the run's folder
            has_files = any((self.path.parent / name).glob("events.*"))
            shown = [self.resumed_at, True]  # at most
            last = min(last or shown, shown) if has_files else None
        # for TensorBoard, the name of the project is that of a folder
        place = ("tensorboard", self.path.parent) if name == "tensorboard" else (self.config.project,)
        tracker = LOGGER_TYPE_TO_CLASS[name](*place, **self._options(name, last is None))
        with redirect_stdout(sys.stderr):
            tracker.start()
            if last is None and name in ("tensorboard", "mlflow", "comet_ml"):  # others have them among the options
                tracker.store_init_configuration(_flat_settings(self.config))
        if name == "mlflow":
            self.record["ids"][name] = tracker.tracker.info.run_id
        if name == "comet_ml":
            tracker.tracker.set_name(self.record["name"])
        if name == "trackio" and last is not None:
            last = _last_in_trackio(tracker.tracker, last)
        self.record["last"][name] = last or NOTHING
        self.trackers[name], self.unsent[name], self.awaited[name] = tracker, [], 1
        write_json(self.path, self.record)

    def _options(self, name: str, is_new: bool) -> dict:
        """Returns the arguments by which a tracker starts this run, or goes on with it."""
        settings = _flat_settings(self.config)
        run = {"name": self.record["name"], "group": self.config.stage, "resume": "allow", "config": settings}
        return {
            # shows nothing of what an interrupted run has written from that update on
            "tensorboard": {} if is_new else {"purge_step": self.resumed_at + 1},
            "trackio": run,
            "wandb": {**run, "id": self.record["id"], "dir": self.config.output_dir},
            "swanlab": {**run, "id": self.record["id"], "log_dir": str(self.path.with_name("swanlog"))},
            "mlflow": {"run_name": self.record["name"], "run_id": self.record["ids"].get("mlflow")},
            "comet_ml": {"experiment_key": self.record["id"], "mode": "get_or_create"},
        }[name]

    def log(self, *rows: dict) -> None:
        """Sends the numbers of rows to each tracker that has not got them.

        A tracker that fails costs a warning, and gets its rows later. It is tried less and less often, because each
        try may wait for a network.
        """
        for name, unsent in self.unsent.items():
            unsent += [row for row in rows if _position(row) > self.record["last"][name]]
            if len(unsent) >= self.awaited[name]:
                self._send(name)
        if self.trackers and rows:
            self._write()

    def _send(self, name: str) -> None:
        rows = self.unsent[name]
        try:
            while rows:
                values = {number.replace(".", "/"): value for number, value in flatten(rows[0]).items()}
                update = values.pop("update")
                self.trackers[name].log(values, step=update)
                self.record["last"][name] = _position(rows.pop(0))
            self.awaited[name] = 1
        except Exception as error:  # of any kind: no tracker may end a training of days
            self.awaited[name] = len(rows) + min(len(rows), MOST_AWAITED)
            self._warn(name, f"{name} lacks the rows from update {rows[0]['update']} on ({_reason(error)})")

    def _write(self) -> None:
        try:
            write_json(self.path, self.record)
        except OSError as error:
            self._warn(TRACKED, f"{TRACKED}: {_reason(error)}; a run that is resumed now may send rows again")

    def _warn(self, name: str, problem: str) -> None:
        """Logs the first problem with a tracker or a file."""
        if name not in self.warned:
            logger.warning("%s", problem)
        self.warned.add(name)

    def finish(self) -> None:
        """Sends what trackers lack, and lets each write what it still holds, which may wait for a network."""
        for name, tracker in self.trackers.items():
            self._send(name)
            try:
                with redirect_stdout(sys.stderr):
                    # trackio's own, or it would finish the run again at exit
                    sys.modules[name].finish() if name == "trackio" else tracker.finish()
            except Exception as error:
                logger.warning("%s has perhaps not got all rows (%s)", name, _reason(error))
        if self.trackers:
            self._write()

    def _read(self) -> dict:
        """Reads the record of the runs, or makes a new one; a run in another project is another run."""
        run_id = uuid.uuid4().hex
        new = {
            "project": self.config.project,
            "name": f"{self.config.tag}-{run_id[:6]}",  # trackio knows runs by their names alone
            "id": run_id,
            "ids": {},
            "last": {},
        }
        try:
            record = read_json(self.path, project=str, name=str, id=str, ids=dict, last=dict)
            for last in record["last"].values():
                is_pair = isinstance(last, list) and len(last) == 2 and all(isinstance(each, int) for each in last)
                if not is_pair:  # whose second number was true or false before there were probes
                    raise ValueError(f"{self.path}: damaged ({last!r} is no position of a row)")
        except FileNotFoundError:
            return new
        except (OSError, ValueError) as error:
            logger.warning("%s: the trackers get a new run", error)
            return new
        return record if record["project"] == self.config.project else new


def _reason(error: Exception) -> str:
    """Returns an error's text in one line, without the passwords of its addresses, as MLflow's errors have them."""
    return re.sub(r"://[^/@\s]+@", "://", error_line(error, with_type=True))


def _position(row: dict) -> Position:
    return [row["update"], _rank(row)]


def _rank(names: Iterable[str]) -> int:
    """Returns the place of a row among those of the same update: first a probe, last an evaluation."""
    parts = {name.partition("/")[0] for name in names}
    return ("dev" in parts) - ("probe" in parts)


def _last_in_trackio(run, noted: Position) -> Position:
    """Returns the position of the last row that trackio has of a run: what it held when it was killed is lost.

    Args:
        noted: the position of the last row that was sent, which is returned for a run that is not in its local tables.
    """
    from trackio.sqlite_storage import SQLiteStorage

    is_remote = os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL")
    if is_remote or getattr(run, "_storage_mode", "sqlite") != "sqlite":
        return noted
    rows = SQLiteStorage.get_logs(run.project, run.name)
    return max(([row["step"], _rank(row)] for row in rows), default=NOTHING)


def _flat_settings(config: TrainingConfig) -> dict[str, bool | float | str]:
    """Returns the settings as trackers take them: nested ones as `slimipl/start_update`, lists as texts, no nulls."""
    flat = {}
    for name, value in plain_settings(config).items():
        fields = {name: value}
        if isinstance(value, dict):
            fields = {f"{name}/{field}": inner for field, inner in value.items()}
        flat |= {field: inner for field, inner in fields.items() if inner is not None}
    return {name: value if isinstance(value, (bool, int, float, str)) else str(value) for name, value in flat.items()}
