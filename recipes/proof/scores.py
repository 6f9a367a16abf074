"""Reads what jobs have written: the errors of models on speakers of a split, and of labels where texts are known."""

from __future__ import annotations

import glob
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

import pyarrow as pa

from hf_mlpl.atomic import write_json
from hf_mlpl.data.utterances import read_columns
from hf_mlpl.evaluation.differences import ScoredRun, with_transcripts
from hf_mlpl.evaluation.error_rate import EDITS, fraction, mean_rate
from hf_mlpl.evaluation.hypotheses import SCORES, hypotheses_path, write_hypotheses
from hf_mlpl.evaluation.results import rate_of, read_results

FIGURES = ("cer", "wer", *EDITS, "length_ratio", "empty")
REFERENCE = ("id", "audio", "duration_seconds", "language", "speaker", "text")


def read_run(path: Path) -> ScoredRun | None:
    """Reads results and the transcripts beside them; returns None where a job has failed and there are none."""
    return with_transcripts(path, read_results(path)) if path.exists() else None


def figures(run: ScoredRun, languages: Sequence[str]) -> dict:
    """Returns the error rates of one run, and what errors they are, in the mean of languages.

    Edits are shares of the characters of the references, `length_ratio` is that of hypotheses to references, in
    characters, and `empty` the share of utterances with an empty transcript. `speakers` has the CER of each speaker.
    """
    by_language = [_of_language(run.results["languages"][language]) for language in languages]
    means = {name: mean_rate(each[name] for each in by_language) for name in FIGURES}
    return {**means, "speakers": _speakers(run.hypotheses, languages)}


def _of_language(scores: Mapping) -> dict[str, float | None]:
    edits, characters = scores["edits"]["characters"], scores["characters"]
    length = characters - edits["deletions"] + edits["insertions"]
    return {
        **{metric: rate_of(scores, metric) for metric in ("cer", "wer")},
        **{kind: fraction(edits[kind], characters) for kind in EDITS},
        "length_ratio": length / characters if characters else None,
        "empty": scores["empty"] / scores["utterances"],
    }


def _speakers(hypotheses: pa.Table | None, languages: Sequence[str]) -> dict[str, float]:
    if hypotheses is None:
        return {}
    counts: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for row in hypotheses.select(["language", "speaker", "edits", "characters"]).to_pylist():
        if row["speaker"] is not None and row["language"] in languages:
            counts[row["speaker"]][0] += row["edits"]
            counts[row["speaker"]][1] += row["characters"]
    return {speaker: fraction(*each) for speaker, each in sorted(counts.items())}


def score_labels(pattern: str, unlabelled: str, languages: Sequence[str], results: Path) -> ScoredRun | None:
    """Scores labels against the texts of the unlabelled speech, and keeps the scores and texts beside one another.

    Returns None where there are no labels, or no texts. `results["kept_share"]` is the share of the hours of the
    unlabelled speech that has a label in the files.
    """
    files = [Path(path) for path in sorted(glob.glob(pattern))]
    if not files:
        return None
    if results.exists() and all(path.stat().st_mtime <= results.stat().st_mtime for path in files):
        return read_run(results)
    from hf_mlpl.evaluation.scoring import score  # which imports torch

    references = {row["id"]: row for row in _rows([unlabelled], REFERENCE) if row["language"] in languages}
    columns = ("id", "text", "predicted_language", "error", *SCORES)
    rows = []
    for label in _rows(map(str, files), columns):
        reference = references.get(label["id"])
        if reference is not None and reference["text"] is not None:
            rows.append({**label, **reference, "hypothesis": label["text"]})
    if {row["language"] for row in rows} != set(languages):
        return None
    hours = sum(row["duration_seconds"] for row in rows)
    share = hours / sum(row["duration_seconds"] for row in references.values() if row["text"] is not None)
    scored = score(rows)
    write_hypotheses(rows, hypotheses_path(results))
    write_json(results, {**scored, "data": [pattern], "kept_share": share})
    return read_run(results)


def _rows(paths: Iterable[str], columns: Sequence[str]) -> Iterable[dict]:
    for block in read_columns(paths, columns):
        yield from block.to_pylist()


def summary(values: Iterable[float | None]) -> dict[str, float | int | None]:
    """Returns the mean of what is known of several seeds, its standard error, the lowest and the highest.

    The standard error is that of the mean, the standard deviation (with n - 1) by the root of n; None of one seed.
    """
    known = [value for value in values if value is not None]
    if not known:
        return dict.fromkeys(("mean", "standard_error", "lowest", "highest")) | {"seeds": 0}
    error = stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None
    return {
        "mean": fmean(known),
        "standard_error": error,
        "lowest": min(known),
        "highest": max(known),
        "seeds": len(known),
    }


def ratio(part: float | None, total: float | None) -> float | None:
    """Returns a quotient, None where it is not defined."""
    return part / total if total and part is not None else None


def difference(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second
