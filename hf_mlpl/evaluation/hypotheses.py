"""Keeps the transcripts of an evaluation in a file beside its results, and reads them for reports."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Features, Value
from rapidfuzz.distance import Levenshtein

from ..data.utterances import FEATURES, arrow_errors, write_utterances
from ..model.text import normalize_text
from .error_rate import count_edits, fraction
from .normalization import score_text
from .results import rate_of

# Columns of edits and of reference lengths, for each of the metrics
COUNTS = {
    "cer": ("edits", "characters"),
    "wer": ("word_edits", "words"),
    "normalized_cer": ("normalized_edits", "normalized_characters"),
    "normalized_wer": ("normalized_word_edits", "normalized_words"),
}
ADDED_SCORES = ("letter_log_prob", "length_ratio")  # which older files lack
SCORES = (
    *("mean_log_prob", *ADDED_SCORES, "lowest_word_confidence", "blank_ratio"),
    *("language_probability", "no_speech_probability"),
)
HYPOTHESIS_FEATURES = Features(
    {
        **{name: FEATURES[name] for name in ("id", "audio", "duration_seconds", "language", "speaker", "text")},
        "hypothesis": Value("string"),
        "predicted_language": Value("string"),
        **{name: Value("float64") for name in SCORES},  # as `Hypothesis` defines them
        **{column: Value("int64") for columns in COUNTS.values() for column in columns},  # as `with_counts` makes them
        "error": Value("string"),  # of audio that could not be read
    }
)


SUFFIX = ".hypotheses.parquet"
TEXTS = ("id", "language", "text", "hypothesis", "duration_seconds")  # columns without which nothing is scored
ADDED = {"speaker", *ADDED_SCORES, *COUNTS["normalized_cer"], *COUNTS["normalized_wer"]}  # which older files lack


def hypotheses_path(results: Path) -> Path:
    """Returns the path of the transcripts that belong to a file of results: `test.json`, `test.hypotheses.parquet`."""
    return results.with_name(results.name.removesuffix(".json") + SUFFIX)


def with_counts(row: dict) -> dict:
    """Adds the columns of `COUNTS` to a row with `language`, `text` and `hypothesis`, and the `EDITS` of both units.

    Characters and words are those of `ErrorRate`, or of `score_text` in the normalised columns. `row["kinds"]` has the
    three `EDITS` of characters, then those of words, not normalised.
    """
    counts: dict[str, int | list[int]] = {}
    hypothesis, reference = normalize_text(row["hypothesis"]), normalize_text(row["text"])
    kinds = [count_edits(hypothesis, reference), count_edits(hypothesis.split(), reference.split())]
    normalized = [score_text(reference, row["language"])] * 2
    if hypothesis != reference:
        normalized[0] = score_text(hypothesis, row["language"])
    distances = [
        sum(kinds[0]),
        sum(kinds[1]),
        Levenshtein.distance(*normalized),
        Levenshtein.distance(*(text.split() for text in normalized)),
    ]
    lengths = [len(text) for text in (reference, reference.split(), normalized[1], normalized[1].split())]
    for (edits, length), *values in zip(COUNTS.values(), distances, lengths, strict=True):
        counts |= zip((edits, length), values, strict=True)
    return row | counts | {"kinds": [*kinds[0], *kinds[1]]}


def write_hypotheses(rows: Iterable[dict], path: Path) -> None:
    """Writes rows with the columns of `HYPOTHESIS_FEATURES`, and counts of edits of their own."""
    write_utterances(map(with_counts, rows), path, HYPOTHESIS_FEATURES)


def read_hypotheses(path: Path, results: dict | None = None) -> pa.Table:
    """Reads transcripts in the columns of `HYPOTHESIS_FEATURES`; those that older files lack are null.

    Args:
        results: those beside the file. Without them only `TEXTS` are required, so that transcripts of other programs
            can be scored.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a damaged file, and for transcripts of another evaluation, which have other error rates.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `hf-mlpl evaluate` writes it beside its results")
    with arrow_errors(path, "holds no transcripts of `hf-mlpl evaluate`, or is damaged"):
        table = pq.read_table(path)
        required = set(TEXTS if results is None else HYPOTHESIS_FEATURES) - ADDED
        if missing := sorted(required - set(table.column_names)):
            raise ValueError(f"{path}: holds no transcripts of `hf-mlpl evaluate`, it has no column {missing[0]}")
        for name in HYPOTHESIS_FEATURES.keys() - set(table.column_names):
            table = table.append_column(name, pa.nulls(len(table)))
        table = table.select(list(HYPOTHESIS_FEATURES)).cast(HYPOTHESIS_FEATURES.arrow_schema)
        never_null = required - {"audio", "predicted_language", "error", *SCORES}
        if nulls := [name for name in sorted(never_null) if table[name].null_count]:
            raise ValueError(f"{path}: {nulls[0]} is null in a row; a value in every row is accepted")
        seconds = table["duration_seconds"]
        is_duration = pc.and_(pc.is_finite(seconds), pc.greater_equal(seconds, 0))
        if (row := is_duration.index(False).as_py()) >= 0:
            raise ValueError(f"{path}: duration_seconds is {seconds[row]}; a finite number, 0 or more, is accepted")
    if results is not None:
        _check_rates(path, table, results)
    return table


def _check_rates(path: Path, table: pa.Table, results: dict) -> None:
    """Raises a ValueError for transcripts that have other error rates than the results."""
    sums = [(column, "sum") for columns in COUNTS.values() for column in columns]
    counts = {row["language"]: row for row in table.group_by("language").aggregate(sums).to_pylist()}
    for language in results["languages"].keys() | counts.keys():
        is_same = language in results["languages"] and language in counts
        for metric, columns in COUNTS.items() if is_same else ():
            edits, length = (counts[language][f"{column}_sum"] for column in columns)
            expected = rate_of(results["languages"][language], metric)
            if edits is None or expected is None:  # as the normalised ones of older files
                is_same &= metric != "cer"
            else:
                is_same &= math.isclose(expected, fraction(edits, length))
        if not is_same:
            raise ValueError(
                f"{path}: holds the transcripts of another evaluation than the results beside it, whose error rates "
                f"of {language} are different; run `hf-mlpl evaluate` again"
            )


def of_language(table: pa.Table, language: str) -> pa.Table:
    """Returns the rows of a language."""
    return table.filter(pc.equal(table["language"], language))
