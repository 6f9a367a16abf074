"""Labels folders of recordings, as `hf-mlpl pseudo-label` does, and prepares their labels and scores for a table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from accelerate import Accelerator
from transformers import PreTrainedModel, ProcessorMixin

from ..audio.reading import load_audio
from ..corpora import ReadingReport
from ..corpora.readers.folders import read_folder
from ..data.utterances import read_utterances, write_utterances
from ..labels.labelling import pseudo_label
from ..labels.schema import SCORES

MOST_ROWS = 500  # of a table in a browser


@dataclass(frozen=True)
class Labeller:
    """Labels folders of recordings below one folder.

    Args:
        model, processor: from `load_recognizer`: a CTC model, or one that generates text.
        teacher: revision of the model, from `teacher_revision`.
        root: folder below which recordings are read and labels are written.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    teacher: str
    root: Path

    def __call__(self, folder: str, language: str, output: str) -> tuple[Path, dict]:
        """Labels the recordings of a folder, or goes on where an earlier call stopped.

        Args:
            folder, output: of the recordings and of the labels, relative to `root`.
            language: of all recordings; if it is empty, the names of the folder's subfolders are the languages.

        Returns the folder of the labels, and their summary.

        Raises:
            ValueError: for a folder outside of `root`, or without recordings, and as `pseudo_label` does.
        """
        recordings, labels = self.inside(folder), self.inside(output)
        if recordings == labels:
            raise ValueError(f"{output}: is the folder of the recordings; choose another one for the labels")
        rows = list(read_folder(recordings, ReadingReport(), language.strip() or None))
        write_utterances(rows, labels / "utterances.parquet")
        dataset = read_utterances([labels / "utterances.parquet"])
        accelerator = Accelerator(cpu=self.model.device.type == "cpu")
        return labels, pseudo_label(accelerator, self.model, self.processor, dataset, labels, self.teacher)

    def inside(self, name: str) -> Path:
        """Returns the path of a folder below `root`.

        Raises:
            ValueError: for one that is elsewhere, or that a link leads elsewhere.
        """
        root = self.root.resolve()
        path = (root / Path(name.strip()).expanduser()).resolve()
        if not name.strip() or not path.is_relative_to(root):
            raise ValueError(f"{name!r}: is no folder below {root}; `hf-mlpl app --folder DIR` permits another one")
        return path


def table(labels: Path) -> tuple[list[str], list[list]]:
    """Returns the names and the rows of a table of the least certain labels in a folder, the least certain first.

    Scores that no label has are left out.
    """
    rows = pq.read_table(labels / "labels.parquet", columns=["id", "language", "text", "duration_seconds", *SCORES])
    rows = rows.take(pc.sort_indices(rows, [("mean_log_prob", "ascending")]).slice(0, MOST_ROWS))
    scores = [name for name in SCORES if rows[name].null_count < len(rows)]
    names = ["id", "language", "text", "duration_seconds", *scores]
    rounded = [
        [round(value, 3) if isinstance(value, float) else value for value in row.values()]
        for row in rows.select(names).to_pylist()
    ]
    return names, rounded


def clip(labels: Path, name: str, sampling_rate: int):
    """Returns the samples (N,) of the utterance of a label."""
    [row] = pq.read_table(labels / "labels.parquet", columns=["audio"], filters=[("id", "=", name)]).to_pylist()
    return load_audio(row["audio"], sampling_rate)
