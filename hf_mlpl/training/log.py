"""Logs a training run: a progress bar, `metrics.jsonl`, and `curves.png` with its loss and error rates."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset
from tqdm import tqdm

from ..atomic import atomic_write, write_text, writing
from ..data.rows import durations_of
from ..model.modeling_mlpl import MlplForCTC
from ..training_config import TrainingConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NAMED = 12  # languages that curves.png names all; of more, the worst and the best
NAMED = 5  # of either


class TrainingLog:
    """Logs a run, on the main process alone.

    Rows of `metrics.jsonl` are `{"update", "loss", "gradient_norm", "learning_rate", "audio_seconds_per_second"}`,
    means over those of `log_every` updates that changed the model, with `labels`, a report of the pseudo-labels made
    in them, and `unusable`, how many utterances could not be used, where there are any; or
    `{"update", "dev": results of an evaluation}`.
    """

    def __init__(self, output_dir: Path, config: TrainingConfig, start: int, is_main_process: bool):
        self.output_dir = output_dir
        self.is_main_process = is_main_process
        self.rows = []
        self.window = []
        self.window_start = time.perf_counter()
        self.total_lost = 0  # utterances, up to the last window
        self.bar = tqdm(total=config.max_updates, initial=start, unit="update", disable=not is_main_process)
        if is_main_process:
            output_dir.mkdir(parents=True, exist_ok=True)
            self._keep_rows_until(start)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.bar.close()

    @property
    def path(self) -> Path:
        return self.output_dir / "metrics.jsonl"

    def describe(self, train_set: Dataset, dropped: Counter, model: MlplForCTC) -> None:
        """Prints one line on the model and its training data."""
        hours = durations_of(train_set).sum() / 3600
        text = (
            f"{model.num_parameters() / 1e6:.1f} M parameters, {len(model.config.languages)} languages; training on "
            f"{len(train_set)} utterances, {hours:.2f} h"
        )
        if dropped:
            text += "; dropped: " + ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
        if self.is_main_process:
            tqdm.write(text)

    def describe_problems(self, lost: int, met: int) -> None:
        """Prints one line at the end on utterances that could not be used, if any."""
        if lost and self.is_main_process:
            tqdm.write(f"{lost} of {met} utterances that training met could not be used; a line above names each")

    def step(self, **numbers: float) -> None:
        """Counts an update; without `numbers` it is one that did not change the model."""
        if numbers:
            self.window.append(numbers)
        self.bar.update()

    def window_ends(self, update: int, learning_rate: float, labels: dict | None, total_lost: int = 0) -> None:
        """Writes the line of the last `log_every` updates.

        Args:
            labels: report of the pseudo-labels made in them.
            total_lost: utterances that could not be used, in all updates so far.
        """
        seconds = time.perf_counter() - self.window_start
        means = {
            name: sum(row[name] for row in self.window) / len(self.window)
            for name in ("loss", "gradient_norm")
            if self.window
        }
        self._write(
            update=update,
            **means,
            learning_rate=learning_rate,
            audio_seconds_per_second=sum(row["audio_seconds"] for row in self.window) / seconds,
            **({"labels": labels} if labels else {}),
            **({"unusable": total_lost - self.total_lost} if total_lost > self.total_lost else {}),
        )
        self.window, self.window_start, self.total_lost = [], time.perf_counter(), total_lost

    def evaluated(self, update: int, results: dict | None) -> None:
        """Notes an evaluation; only the main process has results."""
        if self.is_main_process:
            self._write(update=update, dev=results)
        self.draw()

    def draw(self) -> None:
        """Draws `curves.png`, if there is anything to see."""
        paused = time.perf_counter()
        if self.is_main_process and self.rows:
            with atomic_write(self.output_dir / "curves.png") as partial:
                draw_curves(self.rows).savefig(partial, dpi=120)
        self.window_start += time.perf_counter() - paused

    def _write(self, **row) -> None:
        if not self.is_main_process:
            return
        self.rows.append(row)
        with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        losses = [row["loss"] for row in self.rows if "loss" in row]
        errors = [row["dev"]["macro"]["cer"] for row in self.rows if "dev" in row]
        shown = {"loss": f"{losses[-1]:.3f}"} if losses else {}
        labels = [row["labels"]["cer"] for row in self.rows if row.get("labels")]
        shown |= {"label CER": f"{labels[-1]:.1%}"} if labels and labels[-1] is not None else {}
        self.bar.set_postfix(shown | ({"dev CER": f"{errors[-1]:.1%}"} if errors else {}))

    def _keep_rows_until(self, start: int) -> None:
        """Drops rows that an interrupted run wrote after its last checkpoint: they will be written again."""
        if not self.path.exists():
            return
        self.rows = [row for row in self._read_rows() if row["update"] <= start] if start else []
        write_text(self.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows))

    def _read_rows(self) -> list[dict]:
        *lines, last = self.path.read_bytes().split(b"\n")
        try:
            rows = [json.loads(line) for line in lines]
            is_whole = all(isinstance(row["update"], int) for row in rows)
        except (ValueError, TypeError, KeyError):
            is_whole = False
        begin = b'{"update": '
        if not is_whole or last[: len(begin)] != begin[: len(last)]:  # the writing of which was interrupted
            raise ValueError(f"{self.path} is damaged; remove it to go on without the history of the updates before")
        return rows


def draw_curves(rows: list[dict]) -> Figure:
    """Draws the loss on the left axis; on the right CER on dev, the macro average in bold and languages in thin lines.

    Few languages have a colour each, from the worst, by its last CER, to the best; of many, some of either end have,
    and the others are gray. Names stand beside the picture, in the order of the lines' ends.

    Args:
        rows: those of `metrics.jsonl`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.5), layout="constrained")
    left = figure.subplots()
    losses = [row for row in rows if "loss" in row]
    style = {"color": "tab:gray", "linewidth": 1, "marker": "." if len(losses) == 1 else None}
    left.plot(*_series(losses, lambda row: row["loss"]), **style, label="training loss")
    left.set(xlabel="update", ylabel="training loss (gray)")
    if any(row["loss"] > 0 for row in losses):
        left.set_yscale("log")
    if evaluations := [row for row in rows if "dev" in row]:
        _draw_errors(left.twinx(), evaluations)
        figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    return figure


def _draw_errors(axes: Axes, evaluations: list[dict]) -> None:
    from matplotlib import colormaps

    last = evaluations[-1]["dev"]["languages"]
    worst_first = sorted(last, key=lambda language: last[language]["cer"], reverse=True)
    named = worst_first if len(last) <= MOST_NAMED else worst_first[:NAMED] + worst_first[-NAMED:]
    colors = dict(zip(named, colormaps["turbo_r"](np.linspace(0.1, 0.9, len(named))), strict=True))
    average = _series(evaluations, lambda row: 100 * row["dev"]["macro"]["cer"])
    axes.plot(*average, "k", linewidth=3, marker="o", zorder=3, label=f"macro average {average[1][-1]:.1f} %")
    for language in worst_first:
        scored = [row for row in evaluations if language in row["dev"]["languages"]]
        curve = _series(scored, lambda row, name=language: 100 * row["dev"]["languages"][name]["cer"])
        color, label = colors.get(language, "lightgray"), f"{language} {curve[1][-1]:.1f} %"
        style = {"label": label, "zorder": 2} if language in named else {"zorder": 1}
        axes.plot(*curve, linewidth=0.8, marker=".", color=color, **style)
    if unnamed := len(last) - len(named):
        axes.plot([], [], color="lightgray", marker=".", label=f"{unnamed} more between them")
    axes.set(ylabel="dev CER, %", ylim=(0, None))


def _series(rows: list[dict], value: Callable[[dict], float]) -> tuple[list[int], list[float]]:
    return [row["update"] for row in rows], [value(row) for row in rows]
