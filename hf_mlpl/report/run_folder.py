"""Reads what a report shows of a training run: its settings, record, numbers and evaluations."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..sharing.run_files import read_run
from ..training.metrics import flatten, read_metrics
from .evaluations import Evaluation, read_evaluation

PERCENT = {"labels.cer", "probe.cer", "probe.deletions", "probe.dev_cer"}  # fractions that pages show in percent
Line = tuple[list[int], list[float]]  # updates, and a number of each


@dataclass(frozen=True)
class Run:
    """Holds a training run, or evaluations of a model alone.

    Args:
        name: for people.
        path: folder of the run, or file of results.
        config: settings, empty without a run; also `record` and `rows`.
        record: content of `run.json`.
        rows: of `metrics.jsonl`.
        evaluations: on test sets, and then the last one on dev.
    """

    name: str
    path: Path
    config: dict = field(default_factory=dict)
    record: dict = field(default_factory=dict)
    rows: list[dict] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)

    @property
    def updates(self) -> int:
        """Returns the updates so far; `run.json` is written at save points only."""
        return max([self.record.get("updates", 0), *(row["update"] for row in self.rows)])

    @property
    def is_finished(self) -> bool:
        return (self.path / "model").is_dir()

    @property
    def dev_rows(self) -> list[dict]:
        return [row for row in self.rows if row.get("dev")]

    @property
    def device_hours(self) -> float:
        return sum(session["hours"] * session["processes"] for session in self.record.get("sessions", ()))

    @property
    def speed(self) -> float | None:
        """Returns the median of the seconds of audio that a second of training processes."""
        speeds = self.scalars().get("audio_seconds_per_second")
        return statistics.median(speeds[1]) if speeds else None

    def scalars(self) -> dict[str, Line]:
        """Returns the updates and values of each number that training has logged, by its dotted name."""
        lines: dict[str, Line] = {}
        for row in self.rows:
            numbers = flatten({name: value for name, value in row.items() if name not in ("update", "dev")})
            for name, value in numbers.items():
                updates, values = lines.setdefault(name, ([], []))
                updates.append(row["update"])
                values.append(100 * value if name in PERCENT else value)
        return lines


def is_run(path: Path) -> bool:
    """Returns whether a path is the folder of a training run, or a file of results."""
    return path.suffix == ".json" or (path / "run.json").is_file() or (path / "metrics.jsonl").is_file()


def read_runs(paths: Sequence[Path], results: Sequence[Path] = ()) -> list[Run]:
    """Reads runs with the evaluations of their models.

    Args:
        paths: folders of runs, finished or not, or files of results.
        results: files of `hf-mlpl evaluate`; each belongs to the run whose `model` was evaluated.

    Raises:
        ValueError: for a folder without a run, damaged files, and results of another model.
    """
    names = _names(paths)
    belonging: dict[Path, list[Evaluation]] = {path: [] for path in paths}
    for file in results:
        evaluation = read_evaluation(file)
        belonging[_run_of(evaluation, file, paths)].append(evaluation)
    runs = []
    for path, name in zip(paths, names, strict=True):
        if path.is_file():
            runs.append(Run(name, path, evaluations=[read_evaluation(path)]))
            continue
        config, record = read_run(path)
        evaluations = belonging[path]
        if evaluations:
            _check_weights(path, evaluations)
        metrics, dev = path / "metrics.jsonl", path / "results.json"
        rows = read_metrics(metrics) if metrics.is_file() else []
        if dev.is_file():
            evaluations = [*evaluations, read_evaluation(dev, path / "model")]
        runs.append(Run(name, path, config, record, rows, evaluations))
    return runs


def _check_weights(path: Path, evaluations: Sequence[Evaluation]) -> None:
    from ..sharing.model_card import check_weights  # imports torch, and loads the model

    check_weights(path, [evaluation.results for evaluation in evaluations])


def _run_of(evaluation: Evaluation, file: Path, paths: Sequence[Path]) -> Path:
    """Returns the run that results belong to: the only one, or that whose model has the path in the results."""
    folders = [path for path in paths if path.is_dir()]
    if not folders:
        raise ValueError(f"{file}: belongs to no run; give the folder of its run, or this file alone")
    if len(paths) == 1:
        return folders[0]
    model = Path(evaluation.results.get("model", ""))
    for path in folders:
        if (path / "model").resolve() == model.resolve():
            return path
    models = ", ".join(f"{path}/model" for path in folders)
    raise ValueError(f"{file}: has results of {model}; results of {models} are accepted")


def _names(paths: Sequence[Path]) -> list[str]:
    """Returns the shortest ends of paths that differ from each other, without the suffix of files if they still do."""
    places = [path.resolve() for path in paths]
    if repeated := [path for path, place in zip(paths, places, strict=True) if places.count(place) > 1]:
        raise ValueError(f"{repeated[-1]}: is given more than once; give each run once")
    without = [place.with_name(place.name.removesuffix(".json")) for place in places]
    parts = [place.parts for place in (without if len(set(without)) == len(paths) else places)]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names
