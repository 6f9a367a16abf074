"""Reads the labels of a set in blocks, chooses a few of each language, and reads these with their audio."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features

from ..audio.containers import ContainerError, audio_column
from ..data.collapse import LabelTexts, num_characters
from ..data.rows import BLOCK, id_hashes, with_offsets
from ..evaluation.error_rate import ErrorRate
from ..labels.files import columns_of_labels, label_schema, labels_of_anyone
from ..labels.join import Files
from ..labels.references import References
from ..labels.schema import LABEL_FEATURES, SCORES
from ..labels.thresholds import OPERATORS, ThresholdCounts
from ..remote_path import AnyPath, parquet_source

READ = Features(
    {name: LABEL_FEATURES[name] for name in ("id", "duration_seconds", "language", "text", "predicted_language")}
    | {name: LABEL_FEATURES[name] for name in SCORES}
)
NEEDED = ("id", "text", "duration_seconds")
SHOWN = 20  # labels of each choice: the best, the worst, and any


@dataclass(frozen=True)
class ShownLabel:
    """Holds a label that the page shows.

    Args:
        label: columns of `READ`.
        reference: transcript; None where it is not known.
        cer: of the text; None without a reference.
        audio: of the utterance, as `load_audio` takes it; None where it is not known.
    """

    label: dict
    reference: str | None
    cer: float | None
    audio: dict | None


@dataclass
class LanguageLabels:
    """Counts the labels of a language, and holds the numbers of those that the page may show.

    Args:
        another_language: labels of which `predicted_language` is another one.
        extremes: by score, operator, and whether they are the best ones, the labels at the ends of that order.
        sample: labels at random.
    """

    another_language: int = 0
    counts: ThresholdCounts = field(default_factory=ThresholdCounts)
    extremes: dict[tuple[str, str, bool], SmallestKeys] = field(default_factory=dict)
    sample: SmallestKeys = field(default_factory=lambda: SmallestKeys(SHOWN))

    def add(self, labels: pa.Table, references: pa.Array | None, rows: np.ndarray) -> None:
        """Counts labels of the language, columns of `READ`, whose numbers in the set are `rows` (N,)."""
        has_text = pc.greater(num_characters(labels["text"]), 0).to_numpy()
        is_another = pc.not_equal(labels["language"], labels["predicted_language"])
        self.another_language += pc.sum(is_another).as_py() or 0  # None where all are null
        self.counts.add(labels, references)
        order = id_hashes(labels["id"].combine_chunks())  # as good as random, and the same in every file of the set
        self.sample.add(np.zeros(len(rows)), order, rows)
        for score, operators in OPERATORS.items():
            values = labels[score].to_numpy()
            chosen = has_text & ~np.isnan(values)
            if not chosen.any():
                continue
            for operator in operators:
                for is_best in (True, False):
                    keys = -values if (operator == ">=") == is_best else values
                    self.extremes.setdefault((score, operator, is_best), SmallestKeys(SHOWN)).add(
                        keys[chosen], order[chosen], rows[chosen]
                    )

    def choice(self, order: tuple[str, str] | None) -> dict[str, np.ndarray]:
        """Returns the rows of the `best` and the `worst` labels by a score and an operator, and of some at `random`.

        The first of the best is the very best, the first of the worst the very worst, and no label is both. Without
        an order, all are at random.
        """
        if order is None:
            return {"random": self.sample.rows}
        num_scored = int(self.counts.known[order[0]][0])
        chosen = {}
        for name, count in {"best": (num_scored + 1) // 2, "worst": num_scored // 2}.items():
            extremes = self.extremes.get((*order, name == "best"))
            chosen[name] = extremes.rows[:count] if extremes else np.empty(0, int)
        return chosen | {"random": self.sample.rows}


class SmallestKeys:
    """Keeps the rows that have the smallest keys, in the order of these; of equal keys, the smallest ties."""

    def __init__(self, size: int):
        self.size = size
        self.keys, self.ties, self.rows = np.empty(0), np.empty(0, np.uint64), np.empty(0, int)

    def add(self, keys: np.ndarray, ties: np.ndarray, rows: np.ndarray) -> None:
        self.keys, self.ties, self.rows = (
            np.concatenate(pair) for pair in ((self.keys, keys), (self.ties, ties), (self.rows, rows))
        )
        order = np.lexsort((self.ties, self.keys))[: self.size]
        self.keys, self.ties, self.rows = self.keys[order], self.ties[order], self.rows[order]


class LabelSet:
    """Reads a label set, with transcripts and audio of its utterances.

    Args:
        files: of each language, from `find_label_set`.
        utterances: their texts are references, and their audio is heard where the labels have none.
        languages: that are read; all by default.

    Attributes:
        languages: counts of each, in the order of their names.
        texts: of each language, which tell whether labels have collapsed.
        matched: number of labels that are of one of `utterances`.
        skipped: number of rows of tables that hold no label; `first_skipped` says where the first one is, and why.

    Raises:
        ValueError: for a file that holds no labels, or is damaged, and for languages without labels.
    """

    def __init__(self, files: Files, utterances: Dataset | None = None, languages: Sequence[str] = ()):
        wanted = [name for name in files if not languages or name in (None, *languages)]
        self.paths = [(name, path) for name in wanted for path in files[name]]
        self._texts = References(utterances) if utterances is not None else None
        self.texts, self.matched, self.skipped, self.first_skipped = LabelTexts(), 0, 0, ""
        found: defaultdict[str, LanguageLabels] = defaultdict(LanguageLabels)
        there = {name for name in files if name is not None}
        for number in range(len(self.paths)):
            for first, block in self._blocks(number, self._skip):
                spoken, rows = np.array(block["language"]), (number << 40) + first + np.arange(len(block))
                there.update(np.unique(spoken).tolist())
                for language in np.unique(spoken).tolist():
                    if languages and language not in languages:
                        continue
                    labels = block.filter(pa.array(spoken == language))
                    places = self._places(labels)
                    self.matched += int((places >= 0).sum())
                    self.texts.add(labels)
                    found[language].add(labels, self._references(places), rows[spoken == language])
        if absent := sorted(set(languages) - found.keys()):
            accepted = ", ".join(sorted(there)) or "none at all"
            raise ValueError(f"no labels of {', '.join(absent)}; there are {accepted}")
        self.languages = dict(sorted(found.items()))

    def _skip(self, position: str, problem: str) -> None:
        self.skipped += 1
        self.first_skipped = self.first_skipped or f"{position}: {problem}"

    def shown(self, rows: np.ndarray) -> dict[int, ShownLabel]:
        """Reads labels by their numbers, with their references and their audio."""
        found: dict[int, ShownLabel] = {}
        for number, (_, path) in enumerate(self.paths):
            inside = np.unique(rows[rows >> 40 == number]) - (number << 40)
            if not len(inside):
                continue
            recordings = _recordings(path, inside)
            for first, labels in self._blocks(number):
                here = inside[(inside >= first) & (inside < first + len(labels))]
                labels = labels.take(here - first)
                places = self._places(labels)
                references = self._references(places)
                for place, (row, label) in enumerate(zip(here.tolist(), labels.to_pylist(), strict=True)):
                    rate, reference = ErrorRate(), None if references is None else references[place].as_py()
                    if reference is not None:
                        rate.add(label["text"], reference)
                    found[(number << 40) + row] = ShownLabel(
                        label,
                        reference,
                        None if reference is None else rate.rate,
                        recordings.get(row) or self._recording(int(places[place])),
                    )
        return found

    def _blocks(
        self, number: int, skipped: Callable[[str, str], None] = lambda position, problem: None
    ) -> Iterator[tuple[int, pa.Table]]:
        """Yields blocks of a file, each with the number of its first row."""
        language, path = self.paths[number]
        if missing := [name for name in NEEDED if name not in columns_of_labels(path)]:
            raise ValueError(
                f"{path}: has no column {', '.join(missing)}; `hf-mlpl join-labels` makes a file that can be reported "
                "of anyone's labels and their audio"
            )
        for first, labels in with_offsets(labels_of_anyone(path, READ, NEEDED, skipped)):
            if labels["language"].null_count:
                if language is None:
                    raise ValueError(f"{path}: has rows without language")
                place = labels.column_names.index("language")
                labels = labels.set_column(place, "language", pc.fill_null(labels["language"], language))
            yield first, labels

    def _places(self, labels: pa.Table) -> np.ndarray:
        """Returns (N,) rows of the utterances of labels; negative where there is none."""
        return np.full(len(labels), -1) if self._texts is None else self._texts.places(labels)

    def _references(self, places: np.ndarray) -> pa.Array | None:
        """Returns (N,) transcripts of utterances, null where there is none; None without utterances."""
        return None if self._texts is None else self._texts.texts(places)

    def _recording(self, place: int) -> dict | None:
        return None if place < 0 else self._texts.utterances[place]["audio"]


def _recordings(path: AnyPath, rows: np.ndarray) -> dict[int, dict]:
    """Returns `audio` of rows of a file of labels: of utterances, or in the file itself; nothing where it has none."""
    if path.suffix != ".parquet" or "audio" not in (schema := label_schema(path)).names:
        return {}
    try:
        audio_column(schema, str(path))
        return {row: {"path": str(path), "offset": row} for row in rows.tolist()}
    except ContainerError:
        pass
    if not pa.types.is_struct(schema.field("audio").type):
        return {}
    found = {}
    with pq.ParquetFile(parquet_source(path)) as file:
        batches = (pa.Table.from_batches([batch]) for batch in file.iter_batches(BLOCK, columns=["audio"]))
        for first, block in with_offsets(batches):
            here = rows[(rows >= first) & (rows < first + len(block))]
            for row, audio in zip(here.tolist(), block["audio"].take(here - first).to_pylist(), strict=True):
                found[row] = audio
    return found
