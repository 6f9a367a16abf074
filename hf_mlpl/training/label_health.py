"""Measures the pseudo-labels that slimIPL makes, and detects when they have collapsed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from ..data.collapse import FEWEST_LABELS, describe_collapse
from ..data.rows import blocks
from ..evaluation.error_rate import ErrorRate
from ..inference.decoding import Hypothesis


class MadeLabel(NamedTuple):
    """Holds what is judged of a label and of its utterance."""

    language: str
    seconds: float  # of the utterance
    reference: str | None
    text: str
    num_frames: int
    blank_ratio: float
    predicted_language: str | None


def made_label(row: dict, label: Hypothesis) -> MadeLabel:
    """Returns what is judged of an utterance and its label."""
    judged = label.text, label.num_frames, label.blank_ratio, label.language
    return MadeLabel(row["language"], row["duration_seconds"], row["text"], *judged)


class LabelHealth:
    """Collects the labels that are learned, with their utterances; reports on them, and detects a collapse."""

    def __init__(self, labelled: Dataset):
        characters, seconds = Counter(), Counter()
        for block in blocks(labelled, ["language", "text", "duration_seconds"]):
            texts, durations = block["text"], block["duration_seconds"]
            table = pa.table(
                {"language": block["language"], "characters": pc.utf8_length(texts), "seconds": durations}
            )
            sums = table.group_by("language", use_threads=False).aggregate([("characters", "sum"), ("seconds", "sum")])
            for row in sums.to_pylist():
                for group in (row["language"], None):  # None: all of them, for a language without labelled speech
                    characters[group] += row["characters_sum"]
                    seconds[group] += row["seconds_sum"]
        self.rates = {group: characters[group] / seconds[group] for group in seconds}  # characters per second
        self.rows: list[MadeLabel] = []
        self.unfit = 0
        self.unjudged: dict[str, list[MadeLabel]] = defaultdict(list)  # by language

    def add(self, rows: Iterable[tuple[dict, Hypothesis]]) -> None:
        """Adds utterances and their labels."""
        for row, label in rows:
            made = made_label(row, label)
            self.rows.append(made)
            self.unjudged[made.language].append(made)

    def state_dict(self) -> dict:
        """Returns the labels that are not reported or not judged yet, for JSON."""
        return {"rows": list(self.rows), "unfit": self.unfit, "unjudged": list(chain(*self.unjudged.values()))}

    def load_state_dict(self, state: dict) -> None:
        self.rows, self.unfit = [MadeLabel(*row) for row in state["rows"]], state["unfit"]
        for row in state["unjudged"]:
            self.unjudged[row[0]].append(MadeLabel(*row))

    def detect_collapse(self) -> str | None:
        """Judges the labels since the last call; returns one line on the languages whose labels have collapsed.

        The labels of a language with fewer than ten are judged later, with the next ones.
        """
        judged = {language: rows for language, rows in self.unjudged.items() if len(rows) >= FEWEST_LABELS}
        for language in judged:
            del self.unjudged[language]
        problems = {language: describe_collapse(self.statistics(judged[language])) for language in sorted(judged)}
        lines = [f"{problem} ({language})" for language, problem in problems.items() if problem]
        if not lines:
            return None
        return (
            f"{'; '.join(lines)}: training on them teaches nothing else. "
            "Begin later (slimipl.start_update), lower learning_rate, or train longer on labelled speech first"
        )

    def report(self) -> dict | None:
        """Returns statistics of the labels since the last report; None if there are no labels.

        `length_ratio`: characters, divided by those that human transcripts of the same languages and durations have;
        `blank_ratio`: share of blank output frames; `empty`: share of empty labels; `commonest`: share of the
        commonest label; `language_agreement`: accuracy of the language-ID head; `cer`: over the utterances that have
        a text, None without any; `unfit`, if any: labels that were dropped because they are longer than CTC can learn.
        """
        if not self.rows:
            return None  # the next report has `unfit`
        rows, unfit, self.rows, self.unfit = self.rows, self.unfit, [], 0
        return self.statistics(rows) | ({"unfit": unfit} if unfit else {})

    def statistics(self, rows: list[MadeLabel]) -> dict:
        """Returns statistics of some labels, as `report` describes them."""
        expected = sum(self.rates.get(row.language, self.rates[None]) * row.seconds for row in rows)
        frames = sum(row.num_frames for row in rows)
        texts = Counter(row.text for row in rows)
        languages = [row.predicted_language == row.language for row in rows if row.predicted_language is not None]
        pairs = [(row.text, row.reference) for row in rows if row.reference is not None]
        errors = ErrorRate()
        for hypothesis, reference in pairs:
            errors.add(hypothesis, reference)
        return {
            "labels": len(rows),
            "length_ratio": sum(len(row.text) for row in rows) / expected,
            "blank_ratio": sum(row.blank_ratio * row.num_frames for row in rows) / frames,
            "empty": texts[""] / len(rows),
            "commonest": texts.most_common(1)[0][1] / len(rows),
            "language_agreement": sum(languages) / len(languages) if languages else None,
            "cer": errors.rate if pairs else None,
        }
