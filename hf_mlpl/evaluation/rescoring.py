"""Scores transcripts that are there already, and writes them for programs that score with other rules."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ..data.trn import file_name, plain_words, trn_files, utterance_id
from ..data.utterances import write_utterances
from ..model.text import normalize_text
from .hypotheses import HYPOTHESIS_FEATURES, SUFFIX, hypotheses_path, of_language, read_hypotheses, with_counts
from .normalization import score_text
from .results import read_results
from .scoring import score_counted


def rescore(path: Path, output: Path, languages: Sequence[str] | None = None, seen: Collection[str] = ()) -> dict:
    """Scores the transcripts in a file again, and writes them beside the results that shall be written to `output`.

    Returns results of `score`, with what the results beside the transcripts say about model and data.

    Args:
        path: file of transcripts. Of other programs it needs the columns `TEXTS`.
        languages: to score; by default all.
        seen: texts, as `normalize_text` returns them, whose utterances are left out.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a damaged file, for transcripts that are not those of the results beside them, if nothing is
            left to score, and for an `output` with which some of the transcripts would be lost.
    """
    beside = Path(f"{str(path).removesuffix(SUFFIX)}.json")
    known = read_results(beside) if path.name.endswith(SUFFIX) and beside.is_file() else None
    table = read_hypotheses(path, known)
    num_rows = len(table)
    if languages:
        present = table["language"].unique().to_pylist()
        if missing := sorted(set(languages) - set(present)):
            raise ValueError(f"{path}: has no transcripts of {', '.join(missing)}; there are {', '.join(present)}")
        table = table.filter(pc.is_in(table["language"], value_set=pa.array(languages, pa.string())))
    rows = [with_counts(row) for row in table.to_pylist() if normalize_text(row["text"]) not in seen]
    results = score_counted(rows)
    transcripts = hypotheses_path(output)
    if len(rows) < num_rows and transcripts.exists() and transcripts.samefile(path):
        raise ValueError(
            f"{output}: is beside {path}, of which only {len(rows)} of {num_rows} transcripts would be left; give "
            "another file of results"
        )
    write_utterances(rows, transcripts, HYPOTHESIS_FEATURES)
    return {name: value for name, value in (known or {}).items() if name not in results} | results


def write_trn(hypotheses: pa.Table, folder: Path) -> None:
    """Writes transcripts as sclite reads them, in four files for each language.

    `LANGUAGE.hyp.trn` and `LANGUAGE.ref.trn` have hypotheses and references as they are scored without normalisation,
    `LANGUAGE.normalized.hyp.trn` and `.ref.trn` their form for normalised scores. Ids are those of `utterance_id`; of
    several that sclite takes for the same, which ignores case, the second one ends in `.2`, and so on.
    """
    for language in hypotheses["language"].unique().to_pylist():
        ids: set[str] = set()
        stem = folder / file_name(language)
        with (
            trn_files(Path(f"{stem}.hyp.trn"), Path(f"{stem}.ref.trn")) as write,
            trn_files(Path(f"{stem}.normalized.hyp.trn"), Path(f"{stem}.normalized.ref.trn")) as write_normalized,
        ):
            for row in of_language(hypotheses, language).to_pylist():
                name = unique = utterance_id(row["speaker"], row["id"])
                number = 1
                while unique.casefold() in ids:
                    number += 1
                    unique = f"{name}.{number}"
                ids.add(unique.casefold())
                hypothesis, reference = (normalize_text(row[column]) for column in ("hypothesis", "text"))
                write(plain_words(hypothesis), plain_words(reference), unique)
                hypothesis, reference = (score_text(text, language) for text in (hypothesis, reference))
                write_normalized(plain_words(hypothesis), plain_words(reference), unique)
