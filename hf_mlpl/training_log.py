"""What a training run tells: a progress bar, `metrics.jsonl`, and `curves.png` of its loss and errors."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

from datasets import Dataset
from tqdm import tqdm

from .atomic import write_text, writing, written_whole
from .corpora.utterances import durations_of
from .modeling_mlpl import MlplForCTC
from .training_config import TrainingConfig


class TrainingLog:
    """Writes nothing and shows nothing on any process but the main one.

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
        """One line on what is trained on what."""
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
        """One line at the end on what could not be used, if anything."""
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
        paused = time.perf_counter()
        if self.is_main_process:
            self._write(update=update, dev=results)
            self._plot()
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
        lines = self.path.read_bytes().splitlines(keepends=True)
        try:
            rows = [json.loads(line) for line in lines if line.endswith(b"\n")]  # else its writing was interrupted
            if all(isinstance(row["update"], int) for row in rows):
                return rows
        except (ValueError, TypeError, KeyError):
            pass
        raise ValueError(f"{self.path} is damaged; remove it to go on without the history of the updates before")

    def _plot(self) -> None:
        """Loss on the left axis; on the right CER per language, and their macro average in a thick line."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 5), layout="constrained")
        left = figure.subplots()
        right = left.twinx()
        losses = [row for row in self.rows if "loss" in row]
        left.plot([row["update"] for row in losses], [row["loss"] for row in losses], color="tab:gray")
        left.set(xlabel="update", ylabel="training loss (gray)", yscale="log")
        evaluations = [row for row in self.rows if "dev" in row]
        updates = [row["update"] for row in evaluations]
        for language in evaluations[-1]["dev"]["languages"]:
            errors = [100 * row["dev"]["languages"][language]["cer"] for row in evaluations]
            right.plot(updates, errors, linewidth=1, marker=".", label=language)
        right.plot(
            updates, [100 * row["dev"]["macro"]["cer"] for row in evaluations], "k", linewidth=3, label="macro average"
        )
        right.set(ylabel="dev CER, %", ylim=(0, None))
        right.legend(fontsize="small", ncols=2)
        with written_whole(self.output_dir / "curves.png") as partial:
            figure.savefig(partial, dpi=120)
