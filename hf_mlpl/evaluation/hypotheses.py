"""Keeps the transcripts of an evaluation in a file beside its results, and reads them for reports."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Features, Value

from ..data.utterances import FEATURES, arrow_errors, write_utterances
from .error_rate import ErrorRate

SCORES = ("mean_log_prob", "lowest_word_confidence", "blank_ratio", "language_probability", "no_speech_probability")
HYPOTHESIS_FEATURES = Features(
    {
        **{name: FEATURES[name] for name in ("id", "audio", "duration_seconds", "language", "text")},
        "hypothesis": Value("string"),
        "predicted_language": Value("string"),
        **{name: Value("float64") for name in SCORES},  # as `Hypothesis` defines them
        "edits": Value("int64"),  # of characters, as `ErrorRate` counts them
        "characters": Value("int64"),  # of the reference
        "word_edits": Value("int64"),
        "words": Value("int64"),
        "error": Value("string"),  # of audio that could not be read
    }
)


def hypotheses_path(results: Path) -> Path:
    """Returns the path of the transcripts that belong to a file of results: `test.json`, `test.hypotheses.parquet`."""
    return results.with_name(f"{results.name.removesuffix('.json')}.hypotheses.parquet")


def write_hypotheses(rows: Iterable[dict], path: Path) -> None:
    """Writes rows with all columns of `HYPOTHESIS_FEATURES` but the counts of edits, which are added."""

    def with_edits(row: dict) -> dict:
        characters, words = ErrorRate(), ErrorRate(words=True)
        for rate in (characters, words):
            rate.add(row["hypothesis"], row["text"])
        counts = {"edits": characters.edits, "characters": characters.length}
        return row | counts | {"word_edits": words.edits, "words": words.length}

    write_utterances(map(with_edits, rows), path, HYPOTHESIS_FEATURES)


def read_hypotheses(path: Path, results: dict) -> pa.Table:
    """Reads the transcripts that an evaluation with these results has written, in the columns of the features.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a damaged file, and for transcripts of another evaluation, which have other error rates.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `hf-mlpl evaluate` writes it beside its results")
    with arrow_errors(path, "holds no transcripts of `hf-mlpl evaluate`, or is damaged"):
        table = pq.read_table(path)
        if missing := sorted(set(HYPOTHESIS_FEATURES) - set(table.column_names)):
            raise ValueError(f"{path}: holds no transcripts of `hf-mlpl evaluate`, it has no column {missing[0]}")
        table = table.select(list(HYPOTHESIS_FEATURES)).cast(HYPOTHESIS_FEATURES.arrow_schema)
        never_null = set(HYPOTHESIS_FEATURES) - {"audio", "predicted_language", "error", *SCORES}
        if nulls := [name for name in sorted(never_null) if table[name].null_count]:
            raise ValueError(f"{path}: {nulls[0]} is null in a row; a value in every row is accepted")
    sums = [(name, "sum") for name in ("edits", "characters")]
    rates = {
        row["language"]: row["edits_sum"] / row["characters_sum"] if row["characters_sum"] else None
        for row in table.group_by("language").aggregate(sums).to_pylist()
    }
    for language in results["languages"].keys() | rates.keys():
        expected, found = results["languages"].get(language, {}).get("cer"), rates.get(language)
        if language not in rates or found is not None and (expected is None or not math.isclose(expected, found)):
            raise ValueError(
                f"{path}: holds the transcripts of another evaluation than the results beside it, whose error rates "
                f"of {language} are different; run `hf-mlpl evaluate` again"
            )
    return table


def of_language(table: pa.Table, language: str) -> pa.Table:
    """Returns the rows of a language."""
    return table.filter(pc.equal(table["language"], language))
