"""Makes a calibration from labels whose references are known, and says how well it judges labels new to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from ..data.collapse import num_characters
from ..evaluation.hypotheses import SCORES as HYPOTHESIS_SCORES
from ..evaluation.hypotheses import SUFFIX, hypotheses_path, read_hypotheses
from ..remote_path import AnyPath, as_path
from .calibration import FEWEST_LABELS, Calibration, fit
from .files import LabelFileError, scored_blocks
from .filters import LabelFilter
from .references import References, edits_and_characters
from .relative import share_bound
from .schema import LABEL_FEATURES, SCORES
from .text_scores import text_scores
from .thresholds import OPERATORS

FOLDS = 10
FEWEST_LEFT = FEWEST_LABELS // 2  # where fewer are left without a part, they teach nothing about it
COLUMNS = ("text", "duration_seconds", "speaker", "reference", *SCORES)


@dataclass(frozen=True)
class Ranking:
    """Says how well an order of labels, the best first, follows their error rates.

    Args:
        condition: a filter that keeps the better half.
        correlation: Spearman's, of the order with the error rate; 1 for the same order. Of several groups, the mean.
        cer: error rate of the better half, by hours.
    """

    condition: str
    correlation: float
    cer: float


@dataclass(frozen=True)
class CalibrationReport:
    """Says how well a calibration judges labels that it has not seen.

    Args:
        labels, speakers: numbers of labels, and of their speakers; None where these are not known.
        hours: of the labels.
        left_out: in words, what was left out at a time.
        cer, expected_cer: of all labels, and as expected of them; the mean by reference characters.
        rankings: of `expected_cer`, then of each score alone, the best correlation first; where speakers were left
            out, within each of these parts.
    """

    labels: int
    speakers: int | None
    hours: float
    left_out: str
    cer: float
    expected_cer: float
    rankings: list[Ranking]


class JudgedLabels:
    """Holds labels with a text, a reference that is not empty, and their scores.

    Args:
        table: columns of `COLUMNS`; rows without a text or a reference are left out.

    Raises:
        ValueError: for fewer than `FEWEST_LABELS`.
    """

    def __init__(self, table: pa.Table):
        has_both = [pc.greater(pc.fill_null(num_characters(table[name]), 0), 0) for name in ("text", "reference")]
        table = table.filter(pc.and_(*has_both))
        if len(table) < FEWEST_LABELS:
            raise ValueError(
                f"{len(table)} labels have a text and a reference; a calibration needs {FEWEST_LABELS} or more"
            )
        self.edits, self.characters = edits_and_characters(table["text"], table["reference"])
        self.seconds = table["duration_seconds"].to_numpy()
        self.scores = {name: table[name].to_numpy() for name in SCORES}
        self.table, self.speakers = table, table["speaker"]

    def folds(self) -> tuple[np.ndarray, bool]:
        """Returns a number (N,) of each label, by which it is left out, and whether that is the number of speakers."""
        random = np.random.default_rng(0)
        if not self.speakers.null_count and (count := len(self.speakers.unique())) > 1:
            codes = self.speakers.combine_chunks().dictionary_encode().indices.to_numpy()
            of_speakers = random.permutation(count)[codes] % FOLDS
            if len(of_speakers) - np.bincount(of_speakers).max() >= FEWEST_LEFT:
                return of_speakers, True
        return random.permutation(len(self.edits)) % FOLDS, False

    def part(self, mask: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Returns the scores, edits and characters of some labels, as `fit` takes them."""
        return {name: each[mask] for name, each in self.scores.items()}, self.edits[mask], self.characters[mask]

    def cer(self, mask: np.ndarray | slice = slice(None)) -> float:
        """Returns the error rate of labels, by default of all."""
        return float(self.edits[mask].sum() / self.characters[mask].sum())

    def ranking(self, values: np.ndarray, score: str, operator: str, groups: np.ndarray) -> Ranking:
        """Ranks labels by a score in each of some groups (N,); those that lack it are the worst."""
        of_half = LabelFilter(f"{score} {operator} 50%")
        badness = np.where(np.isnan(values), np.inf, -values if operator == ">=" else values)
        correlations, kept = [], np.zeros(len(values), bool)
        numbers, counts = np.unique(groups, return_counts=True)
        for inside in (groups == number for number in numbers):
            correlations.append(spearman(badness[inside], (self.edits / self.characters)[inside]))
            known = inside & ~np.isnan(values)
            if known.any():
                bound = share_bound(values[known], self.seconds[known], of_half)
                kept |= known & (values >= bound if operator == ">=" else values <= bound)
        return Ranking(of_half.condition, float(np.average(correlations, weights=counts)), self.cer(kept))


def calibrate(labels: JudgedLabels) -> tuple[Calibration, CalibrationReport]:
    """Learns a calibration from all labels; the report is of others, each learned without the labels that it judges.

    Raises:
        ValueError: as `fit` does.
    """
    folds, of_speakers = labels.folds()
    expected = np.empty(len(folds))
    for number in np.unique(folds):
        is_out = folds == number
        judged = fit(*labels.part(~is_out)).expected_cer(labels.table.filter(pa.array(is_out)))
        expected[is_out] = judged.to_numpy(zero_copy_only=False)
    # Where speakers are left out, what was learned without a bad one expects too little of all that this one says.
    groups = folds if of_speakers else np.zeros(len(folds))
    of_scores = [
        labels.ranking(labels.scores[score], score, operator, groups)
        for score, operators in OPERATORS.items()
        for operator in operators
        if score != "expected_cer" and len(np.unique(labels.scores[score])) > 1  # else it orders nothing
    ]
    rankings = [
        labels.ranking(expected, "expected_cer", "<=", groups),
        *sorted(of_scores, key=lambda each: -each.correlation),
    ]
    speakers = None if labels.speakers.null_count else len(labels.speakers.unique())
    known = ~np.isnan(expected)  # of a label that lacks most scores nothing is expected
    report = CalibrationReport(
        labels=len(folds),
        speakers=speakers,
        hours=float(labels.seconds.sum() / 3600),
        left_out=_left_out(len(np.unique(folds)), speakers, of_speakers),
        cer=labels.cer(),
        expected_cer=float(np.average(expected[known], weights=labels.characters[known])),
        rankings=rankings,
    )
    learned_from = {"labels": report.labels, "speakers": speakers, "cer": report.cer}
    held_out = {
        "left_out": report.left_out,
        "spearman": rankings[0].correlation,
        "cer_of_better_half": rankings[0].cer,
        "mean_expected_cer": report.expected_cer,
    }
    return replace(fit(*labels.part(folds >= 0)), learned_from=learned_from, held_out=held_out), report


def _left_out(parts: int, speakers: int | None, of_speakers: bool) -> str:
    if of_speakers:
        return "each speaker" if parts == speakers else f"each of {parts} groups of speakers"
    if speakers is None:
        return "each tenth of the labels, as their speakers are not known"
    return f"each tenth of the labels, {'all' if speakers == 1 else 'most'} of one speaker"


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Returns Spearman's rank correlation of (N,) and (N,) values, in which equal ones share their mean rank.

    It is 0 where one of them is the same everywhere, and orders nothing.
    """
    ranks = np.stack([_ranks(one), _ranks(other)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    norms = np.sqrt((ranks**2).sum(axis=1))
    return float(ranks[0] @ ranks[1] / norms.prod()) if norms.all() else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return (ends - (counts - 1) / 2)[places]


def read_judged_labels(paths: Sequence[str | AnyPath], references: Dataset | None = None) -> JudgedLabels:
    """Reads labels whose references are known.

    Args:
        paths: results of `hf-mlpl evaluate`, beside which their transcripts lie; such transcripts
            (`.hypotheses.parquet`); or files of labels, whose texts `references` has.
        references: utterances with their texts.

    Raises:
        FileNotFoundError: for results without transcripts.
        ValueError: for a file that is none of these or is damaged, for files without labels, for labels without
            `references`, and as `JudgedLabels` does.
    """
    transcripts = References(references) if references is not None else None
    parts = [part for path in paths for part in _judged(as_path(path), transcripts)]
    if not parts:
        raise ValueError(f"{', '.join(map(str, paths))}: no labels; a calibration needs {FEWEST_LABELS} or more")
    return JudgedLabels(pa.concat_tables(parts))


def _judged(path: AnyPath, transcripts: References | None) -> Iterator[pa.Table]:
    if path.name.endswith((".json", SUFFIX)):
        local = Path(str(path))
        yield _judged_hypotheses(hypotheses_path(local) if path.name.endswith(".json") else local)
        return
    if transcripts is None:
        raise ValueError(
            f"{path}: labels alone do not say which of them are right; --references names utterances with their texts"
        )
    for block in scored_blocks(path):
        places = transcripts.places(block)
        block = block.set_column(block.column_names.index("speaker"), "speaker", transcripts.column("speaker", places))
        yield block.append_column("reference", transcripts.texts(places)).select(list(COLUMNS))


def _judged_hypotheses(path: Path) -> pa.Table:
    table = read_hypotheses(path)
    table = table.filter(table["error"].is_null())
    if all(table[name].null_count == len(table) for name in HYPOTHESIS_SCORES):
        raise LabelFileError(f"{path}: holds no scores, it is of another program; `hf-mlpl evaluate` writes them")
    pairs = zip(table["hypothesis"].to_pylist(), table["duration_seconds"].to_pylist(), strict=True)
    of_texts = [text_scores(text or "", seconds) if text else {} for text, seconds in pairs]
    columns = {name: table[name] for name in ("duration_seconds", "speaker", *HYPOTHESIS_SCORES)}
    columns |= {"text": table["hypothesis"], "reference": table["text"]}
    for name in SCORES.keys() - columns.keys():
        columns[name] = pa.array([row.get(name) for row in of_texts], pa.float64())
    schema = LABEL_FEATURES.arrow_schema
    fields = [pa.field("reference", pa.string()) if name == "reference" else schema.field(name) for name in COLUMNS]
    return pa.table({name: columns[name] for name in COLUMNS}).cast(pa.schema(fields))
