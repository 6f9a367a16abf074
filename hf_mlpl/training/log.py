"""Logs a training run: a progress bar, `metrics.jsonl`, and `curves.png` with its loss and error rates."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel

from ..atomic import atomic_write, write_text, writing
from ..ctc_models import CtcInterface
from ..data.rows import durations_of
from ..evaluation.results import rates_alone
from ..figures import draw_curves
from ..training_config import TrainingConfig
from .label_judgement import describe_probe
from .metrics import read_metrics
from .trackers import Trackers


class TrainingLog:
    """Logs a run, in the main process only.

    Rows of `metrics.jsonl` are `{"update", "dev": results of an evaluation}`, or
    `{"update", "loss", "gradient_norm", "learning_rate", "audio_seconds_per_second"}` with means over those of
    `log_every` updates that changed the model. If there are any, the latter have also `labels`, a report of the
    pseudo-labels made in these updates, and `unusable`, the number of utterances that could not be used. Those of
    slimIPL's probes are `{"update", "probe": report}`, as `label_probe.LabelProbes` makes them.
    """

    def __init__(self, output_dir: Path, config: TrainingConfig, start: int, is_main_process: bool):
        self.trackers = Trackers(config, start)
        self.output_dir, self.is_main_process = output_dir, is_main_process
        self.path = output_dir / "metrics.jsonl"
        self.has_spec_augment = config.spec_augment is not None
        self.rows: list[dict] = []
        self.window: list[dict[str, float]] = []  # of each update since the last row
        self.window_start = time.perf_counter()
        self.num_unusable = 0  # utterances, up to the last row
        self.bar = tqdm(total=config.max_updates, initial=start, unit="update", disable=not is_main_process)
        if is_main_process:
            output_dir.mkdir(parents=True, exist_ok=True)
            self._keep_rows_until(start)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.bar.close()
        self.trackers.finish()

    def start_trackers(self) -> None:
        """Starts what `report_to` names, which takes rows from now on, in the main process."""
        self.trackers.start(self.rows)
        self.window_start = time.perf_counter()

    def describe(self, train_set: Dataset, dropped: Counter, model: PreTrainedModel, ctc: CtcInterface) -> None:
        """Prints one line on the model and its training data, and what is different with the model."""
        hours = durations_of(train_set).sum() / 3600
        head = f"{len(ctc.languages)} languages" if ctc.languages else "no language-ID head"
        parameters = f"{model.num_parameters() / 1e6:.1f} M parameters"
        if (num_trained := model.num_parameters(only_trainable=True)) < model.num_parameters():
            parameters += f", of which {num_trained / 1e6:.2f} M are trained"
        line = f"{parameters}, {head}; training on {len(train_set)} utterances, {hours:.2f} h"
        if dropped:
            line += "; dropped: " + ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
        if self.is_main_process:
            tqdm.write(line)
            for remark in ctc.remarks(model, True, self.has_spec_augment):
                tqdm.write(remark)

    def describe_problems(self, num_unusable: int, num_read: int) -> None:
        """Prints one line at the end on utterances that could not be used, if any."""
        if num_unusable and self.is_main_process:
            counts = f"{num_unusable} of {num_read} utterances"
            tqdm.write(
                f"{counts} that training met could not be used; all are listed in {self.output_dir / 'unreadable.txt'}"
            )

    def state_dict(self, num_unusable: int) -> dict:
        """Returns what the next row depends on, for JSON; `num_unusable` as in `log_window`."""
        seconds = time.perf_counter() - self.window_start
        return {"updates": list(self.window), "seconds": seconds, "unusable": num_unusable - self.num_unusable}

    def load_state_dict(self, state: dict) -> None:
        self.window, self.num_unusable = list(state["updates"]), -state["unusable"]
        self.window_start = time.perf_counter() - state["seconds"]

    def count_update(self, **numbers: float) -> None:
        """Counts an update; one without `numbers` has not changed the model."""
        if numbers:
            self.window.append(numbers)
        self.bar.update()

    def log_window(self, update: int, learning_rate: float, labels: dict | None, num_unusable: int = 0) -> None:
        """Writes the row of the last `log_every` updates.

        Args:
            labels: report of the pseudo-labels made in them.
            num_unusable: number of utterances that could not be used, in all updates so far.
        """
        seconds = time.perf_counter() - self.window_start
        names = ("loss", "gradient_norm") if self.window else ()
        means = {name: sum(row[name] for row in self.window) / len(self.window) for name in names}
        self._write(
            update=update,
            **means,
            learning_rate=learning_rate,
            audio_seconds_per_second=sum(row["audio_seconds"] for row in self.window) / seconds,
            **({"labels": labels} if labels else {}),
            **({"unusable": num_unusable - self.num_unusable} if num_unusable > self.num_unusable else {}),
        )
        self.window, self.window_start, self.num_unusable = [], time.perf_counter(), num_unusable

    def log_probe(self, update: int, report: dict, seconds: float) -> None:
        """Writes and prints the row of a probe of the labels; the `seconds` for it do not count as training."""
        self.window_start += seconds
        self._write(update=update, probe=report)
        if self.is_main_process:
            tqdm.write(f"update {update}: {describe_probe(report)}")

    def has_evaluation(self, update: int) -> bool:
        """Returns whether there is a row of the evaluation after an update, in the main process."""
        return any(row["update"] == update and "dev" in row for row in self.rows)

    def log_evaluation(self, update: int, results: dict | None) -> None:
        """Writes the row of an evaluation; only the main process has results."""
        if self.is_main_process:
            self._write(update=update, dev=rates_alone(results))
        self.draw()

    def draw(self) -> None:
        """Draws `curves.png` if there are rows; the time for it does not count as training."""
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
        self.trackers.log(row)
        losses = [row["loss"] for row in self.rows if "loss" in row]
        errors = [row["dev"]["macro"]["cer"] for row in self.rows if "dev" in row]
        shown = {"loss": f"{losses[-1]:.3f}"} if losses else {}
        labels = [row["labels"]["cer"] for row in self.rows if row.get("labels")]
        shown |= {"label CER": f"{labels[-1]:.1%}"} if labels and labels[-1] is not None else {}
        self.bar.set_postfix(shown | ({"dev CER": f"{errors[-1]:.1%}"} if errors else {}))

    def _keep_rows_until(self, start: int) -> None:
        """Drops rows that an interrupted run wrote after its last checkpoint: they will be written again."""
        if self.path.exists():
            self.rows = [row for row in read_metrics(self.path) if row["update"] <= start] if start else []
            write_text(self.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows))
