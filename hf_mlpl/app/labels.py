"""Labels folders of recordings, as `hf-mlpl pseudo-label` does, and prepares labels and scores for a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from markupsafe import Markup

from ..audio.reading import load_audio
from ..corpora import ReadingReport
from ..corpora.readers.folders import read_folder
from ..data.utterances import FEATURES
from ..figures.labels import draw_score
from ..figures.svg import to_svg
from ..labels import pseudo_label
from ..labels.folder import collapse_of, unreadable_of
from ..labels.schema import SCORES
from ..labels.score_panels import score_panels
from ..labels.thresholds import ThresholdCounts
from .model import AppModel

MOST_ROWS = 500  # of a table in a browser
MOST_LINES = 10  # about recordings that are left out
CLIP_RATE = 16_000  # samples per second


class Labeller:
    """Labels folders of recordings below one folder.

    Args:
        root: folder below which recordings are read and labels are written.
    """

    def __init__(self, model: AppModel, root: Path):
        self.model, self.root = model, root.resolve()

    def __call__(self, folder: str, language: str, output: str) -> tuple[Path, dict, list[str]]:
        """Labels the recordings of a folder, or goes on where an earlier call stopped.

        Args:
            folder: of the recordings, a path that is relative to `root`, or below it.
            language: of all recordings; if it is empty, the names of the folder's subfolders are the languages.
            output: folder for the labels; if it is empty, beside the recordings.

        Returns:
            The folder of the labels, their summary, as in `complete.json`, and a line for each recording, up to ten,
            that was left out, and for each language whose labels are of no use.

        Raises:
            ValueError: for a folder outside of `root`, or without recordings that can be read, and as `pseudo_label`
                does.
        """
        recordings = self._inside(folder)
        labels = self._inside(output or f"{recordings}-labels")
        if recordings.is_relative_to(labels):
            raise ValueError(f"{labels}: holds the recordings; choose another folder for the labels")
        report = ReadingReport()
        rows = list(read_folder(recordings, report, language.strip() or None))
        if not rows:
            raise ValueError(f"{recordings}: no recording can be used; {report.lines[0]}")
        dataset = Dataset.from_list(rows, features=FEATURES)
        model = self.model
        summary = pseudo_label(model.accelerator, model.model, model.processor, dataset, labels, model.revision)
        more = [f"{len(report.lines) - MOST_LINES} more lines like these"] * (len(report.lines) > MOST_LINES)
        problems = unreadable_of(summary) | collapse_of(summary)
        useless = [f"{language}: {problem}" for language, problem in problems.items()]
        return labels, summary, report.lines[:MOST_LINES] + more + useless

    def _inside(self, name: str) -> Path:
        """Returns the path of a folder below `root`; raises a ValueError for one that is elsewhere."""
        path = (self.root / Path(name.strip()).expanduser()).resolve()
        if path == self.root or not path.is_relative_to(self.root):
            raise ValueError(f"{name!r}: is no folder below {self.root}; `hf-mlpl app --folder DIR` permits another")
        return path


def label_table(labels: Path) -> tuple[list[str], list[list]]:
    """Returns the names and the rows of a table of the least certain labels in a folder, the least certain first.

    The last column is the id. Scores that no label has are left out.
    """
    table = pq.read_table(labels / "labels.parquet", columns=["text", "language", *SCORES, "duration_seconds", "id"])
    table = table.sort_by([("mean_log_prob", "ascending")]).slice(0, MOST_ROWS)
    table = table.select([name for name in table.column_names if table[name].null_count < len(table)])
    rows = [
        [round(value, 3) if isinstance(value, float) else value for value in row.values()] for row in table.to_pylist()
    ]
    return table.column_names, rows


def score_pictures(labels: Path) -> list[Markup]:
    """Returns for each score the histogram of the labels in a folder, and what thresholds would keep, as SVG."""
    counts = ThresholdCounts()
    columns = ["text", "language", "predicted_language", "duration_seconds", *SCORES]
    for batch in pq.ParquetFile(labels / "labels.parquet").iter_batches(columns=columns):
        counts.add(pa.Table.from_batches([batch]))
    titles = "{} of the labels, and what each threshold would keep".format
    return [Markup(to_svg(draw_score(panel), titles(panel.name))) for panel in score_panels(counts)]


def clip(labels: Path, utterance: str) -> np.ndarray:
    """Returns the samples (N,), in 16 bits, of the utterance of a label, by its id.

    Raises:
        OSError, ValueError: for labels or a recording that are there no more.
    """
    with open(labels / "labels.parquet", "rb") as file:  # whose error says what is wrong
        table = pq.read_table(file, columns=["audio"], filters=[("id", "=", utterance)])
    if not len(table):
        raise ValueError(f"{labels}: has no label of {utterance!r} any more; label the folder again")
    samples = load_audio(table["audio"][0].as_py(), CLIP_RATE)
    return (samples.clip(-1, 1) * 32767).astype(np.int16)
