"""Joins the pseudo-labels of a label set with their audio by id, into utterances that training takes.

Labels may be anyone's: a table with `id` and `text` is enough, as Parquet, csv, tsv or JSON lines. Nothing in it is
run; its ids are compared with those of the local utterances, no more.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features
from huggingface_hub import HfApi, snapshot_download

from ..atomic import atomic_write
from ..audio.containers import ContainerError, audio_column
from ..corpora.metadata import SUFFIXES
from ..data.rows import blocks, filter_rows, id_hashes, select_rows
from ..data.utterances import FEATURES, write_utterances
from ..folder_lock import claimed_file
from ..model.text import normalize_text
from ..sharing.hub import FAILURES, reason, with_retries
from .files import label_schema, labels_of_anyone
from .schema import LABEL_FEATURES, LABEL_SET_FEATURES, SCORES

DURATION_TOLERANCE = 0.1  # seconds, some three output frames: tables of segments are rounded
# What is read of a label set; start and end are those of the local utterance.
READ = Features({name: kind for name, kind in LABEL_SET_FEATURES.items() if name not in ("start", "end")})
NEEDED = ("id", "text")
NEEDED_WITH_AUDIO = (*NEEDED, "language", "duration_seconds")  # which no local utterance has
SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})\.parquet")


@dataclass
class JoinReport:
    """Counts the results of a join.

    Args:
        joined, hours: utterances that were written.
        left_out: labels that are not kept by their filters.
        no_audio: labels without a local utterance.
        no_label: local utterances without a label.
        other_duration: utterances that were written though their label is of a longer or shorter one.
        unreadable: rows of text files that hold no label.
        empty: utterances that were written with a label without text.
        languages: of the utterances that were written.
    """

    joined: int = 0
    hours: float = 0.0
    left_out: int = 0
    no_audio: int = 0
    no_label: int = 0
    other_duration: int = 0
    unreadable: int = 0
    empty: int = 0
    languages: set[str] = field(default_factory=set)


def find_label_set(
    labels: str, languages: Sequence[str] | None = None, revision: str | None = None
) -> dict[str | None, list[Path]]:
    """Returns the files of each language, of a folder with `LANGUAGE/*.parquet` or of a data set on the Hub.

    A file, and the tables of a folder without such sub-folders, are of no one language: they are under None.

    Raises:
        ValueError: for one without such files, without one of several shards, or without one of `languages`.
        OSError: for a data set that the Hub does not give.
    """
    root = Path(labels)
    if root.is_file():
        return {None: [root]}
    if not root.is_dir():
        root = _downloaded(labels, [f"{language}/*.parquet" for language in languages or ["*"]], revision)
        if not any(root.glob("*/*.parquet")):
            root = _downloaded(labels, _tables_of_repository(labels, revision), revision)
    files: dict[str | None, list[Path]] = {}
    for path in sorted(root.glob("*/*.parquet")):
        files.setdefault(path.parent.name, []).append(path)
    if not files or list(files) == ["data"]:  # which is where the Hub's own tools write a data set of one language
        if tables := [path for path in sorted(root.glob("*")) if path.name.endswith(SUFFIXES)]:
            return {None: tables}
        files = {None: files["data"]} if files else {}
    for paths in files.values():
        shards = Counter(match.groups() for path in paths if (match := SHARD.fullmatch(path.name)))
        if any(count != int(total) for (_, total), count in shards.items()):
            raise ValueError(f"{paths[0].parent}: lacks some of the shards that others count; download it again")
    if None in files:
        return files
    if missing := sorted(set(languages or ()) - set(files)):
        raise ValueError(f"{labels}: no labels of {', '.join(missing)}")
    if not files:
        raise ValueError(f"{labels}: no labels, which are files such as sl/train-00000-of-00001.parquet")
    return {language: files[language] for language in languages or files}


def _downloaded(labels: str, patterns: Sequence[str], revision: str | None) -> Path:
    given = {"repo_type": "dataset", "revision": revision, "allow_patterns": patterns}
    return Path(_from_hub(labels, partial(snapshot_download, labels, **given)))


def _tables_of_repository(labels: str, revision: str | None) -> list[str]:
    """Returns the names of tables of no one language: at the root, or where the Hub's own tools write them."""
    names = _from_hub(labels, partial(HfApi().list_repo_files, labels, repo_type="dataset", revision=revision))
    return [name for name in names if name.endswith(SUFFIXES) and name.rpartition("/")[0] in ("", "data")]


def _from_hub(labels: str, request: Callable):
    try:
        return with_retries(request)
    except FAILURES as error:
        problem = "is no file and no folder, and cannot be had from the Hub"
        raise OSError(f"{labels}: {problem} ({reason(error)})") from error


def join_labels(
    files: Mapping[str | None, Sequence[Path]], utterances: Dataset, output: Path, keep_all: bool = False
) -> JoinReport:
    """Writes an utterance file of `LABEL_FEATURES`, and beside it `NAME.unmatched.tsv` with the ids on one side alone.

    Memory has 10,000 labels at a time, and 17 bytes of each local utterance of a language.

    Args:
        files: of each language, as `find_label_set` gives them.
        utterances: with the audio.
        keep_all: also labels that their filters do not keep.

    Raises:
        ValueError: for files that hold no labels, an id that has two, and where no label has audio, or none has text.
        InUseError: where another job is writing the same file.
    """
    report = JoinReport()
    with (
        claimed_file(output),
        atomic_write(output.with_suffix(".unmatched.tsv")) as path,
        open(path, "w", encoding="utf-8", newline="") as file,
    ):
        write_row = csv.writer(file, delimiter="\t", lineterminator="\n").writerow
        write_row(("id", "language", "what"))

        def rows() -> Iterator[dict]:
            for language, paths in files.items():
                yield from _join(language, paths, utterances, keep_all, report, write_row)
            _refuse_nothing(report, files, utterances)

        write_utterances(rows(), output, LABEL_FEATURES)
    return report


def join_own_audio(files: Mapping[str | None, Sequence[Path]], output: Path, keep_all: bool = False) -> JoinReport:
    """Writes an utterance file of a label set with audio, whose utterances are rows of the label set's own files.

    Raises:
        ValueError: for files without labels, audio, languages or durations, and where no label is kept, or none has
            text.
        InUseError: where another job is writing the same file.
    """
    report = JoinReport()

    def rows() -> Iterator[dict]:
        for path in (path for paths in files.values() for path in paths):
            first = 0
            _check_audio(path)
            for _, labels in _blocks_of_labels([path], needed=NEEDED_WITH_AUDIO):
                for number, label in enumerate(labels.to_pylist(), first):
                    if keep_all or label["kept"] is not False:
                        audio = {"path": str(path.absolute()), "offset": number}
                        yield _utterance({"id": label["id"], "audio": audio}, label, path, report)
                    else:
                        report.left_out += 1
                first += len(labels)
        _refuse_nothing(report, files, None)

    with claimed_file(output):
        write_utterances(rows(), output, LABEL_FEATURES)
    return report


def _check_audio(path: Path) -> None:
    try:
        if path.suffix != ".parquet":
            raise ContainerError(f"{path}: is a table of texts")
        audio_column(label_schema(path, ()), path)
    except ContainerError as error:
        raise ValueError(f"{path}: its labels are without audio; name that with --audio") from error


def _join(
    language: str | None,
    paths: Sequence[Path],
    utterances: Dataset,
    keep_all: bool,
    report: JoinReport,
    write_row: Callable,
) -> Iterator[dict]:
    """Yields labels of a language with their utterances, in their order; writes a row for each id without a match."""

    def skip(where: str, reason: str) -> None:
        report.unreadable += 1
        write_row((where, language or "", reason))

    if language is not None:
        utterances = filter_rows(
            utterances, ["language"], lambda rows: pc.equal(rows["language"], language).to_numpy()
        )
    find, found = _finder(utterances), np.zeros(len(utterances), bool)
    for path, labels in _blocks_of_labels(paths, skip):
        rows = find(labels["id"])
        has_audio = rows >= 0
        for label in labels.filter(pa.array(~has_audio)).select(["id", "language"]).to_pylist():
            report.no_audio += 1
            write_row((label["id"], language or label["language"] or "", "no audio"))
        labels, rows = labels.filter(pa.array(has_audio)), rows[has_audio]
        _, firsts = np.unique(rows, return_index=True)
        twice = found[rows] | ~np.isin(np.arange(len(rows)), firsts)
        if twice.any():
            raise ValueError(f"{path}: has a second label of {labels['id'][int(np.argmax(twice))].as_py()!r}")
        found[rows] = True
        kept = keep_all | labels["kept"].fill_null(True).to_numpy()
        report.left_out += int((~kept).sum())
        chosen = blocks(select_rows(utterances, rows[kept]), list(FEATURES))
        local = (row for block in chosen for row in block.to_pylist())
        for utterance, label in zip(local, labels.filter(pa.array(kept)).to_pylist(), strict=True):
            seconds, labelled = utterance["duration_seconds"], label["duration_seconds"]
            if labelled is not None and abs(seconds - labelled) > DURATION_TOLERANCE:
                report.other_duration += 1
                write_row((label["id"], utterance["language"], f"{seconds:.2f} s, its label {labelled:.2f} s"))
            yield _utterance(utterance, label, path, report)
    first = 0
    for block in blocks(utterances, ["id", "language"]):
        for row in block.filter(pa.array(~found[first : first + len(block)])).to_pylist():
            report.no_label += 1
            write_row((row["id"], row["language"], "no label"))
        first += len(block)


def _utterance(utterance: dict, label: dict, path: Path, report: JoinReport) -> dict:
    """Returns a row of `LABEL_FEATURES`; the label fills in the fields that the utterance lacks."""
    joined = {"duration_seconds": label["duration_seconds"], "language": label["language"]} | utterance
    report.joined += 1
    report.hours += joined["duration_seconds"] / 3600
    report.languages.add(joined["language"])
    taken = {name: label[name] for name in (*SCORES, "predicted_language")}
    text = normalize_text(label["text"])
    report.empty += not text
    teacher = [name for name in (label["teacher"], label["teacher_revision"]) if name]
    return joined | taken | {"text": text, "source": "@".join(teacher) or path.name}


def _finder(utterances: Dataset) -> Callable[[pa.ChunkedArray], np.ndarray]:
    """Returns a function from ids to (N,) numbers of their rows, -1 for those without one."""
    hashes = [id_hashes(block["id"].combine_chunks()) for block in blocks(utterances, ["id"])]
    hashes = np.concatenate([np.empty(0, np.uint64), *hashes])
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]

    def find(names: pa.ChunkedArray) -> np.ndarray:
        wanted, rows = id_hashes(names.combine_chunks()), np.full(len(names), -1)
        first, end = (np.searchsorted(hashes, wanted, side) for side in ("left", "right"))
        for number in range(int((end - first).max(initial=0))):  # once, unless two ids share a hash
            candidates = np.flatnonzero((rows < 0) & (first + number < end))
            at = order[first[candidates] + number]
            local = [name for block in blocks(select_rows(utterances, at), ["id"]) for name in block["id"].to_pylist()]
            pairs = zip(local, names.take(candidates).to_pylist(), strict=True)
            same = np.array([one == other for one, other in pairs], bool)
            rows[candidates[same]] = at[same]
        return rows

    return find


def _blocks_of_labels(
    paths: Sequence[Path],
    skipped: Callable[[str, str], None] = lambda where, reason: None,
    needed: Sequence[str] = NEEDED,
) -> Iterator[tuple[Path, pa.Table]]:
    """Yields files with the columns of `READ`, 10,000 rows at a time, as `labels_of_anyone` reads them."""
    for path in paths:
        for labels in labels_of_anyone(path, READ, needed, skipped):
            yield path, labels


def _refuse_nothing(
    report: JoinReport, files: Mapping[str | None, Sequence[Path]], utterances: Dataset | None
) -> None:
    """Raises a ValueError where no utterance with a text has come of a join, and says why."""
    if report.joined > report.empty:
        return
    if report.joined:
        raise ValueError(f"all {report.joined} labels are empty, so nothing can be learned; look at their teacher")
    if report.left_out:
        raise ValueError(f"none of {report.left_out} labels is kept by its filters; --all takes them")
    paths = [path for paths in files.values() for path in paths]
    labels = next((block["id"][0].as_py() for _, block in _blocks_of_labels(paths) if len(block)), None)
    if labels is None or utterances is None:
        raise ValueError(f"{', '.join(map(str, paths))}: no labels at all")
    raise ValueError(
        f"no label has audio: ids of the labels are like {labels!r}, those of the audio like {utterances[0]['id']!r}; "
        "`hf-mlpl prepare-data` gives the utterances of a corpus the ids that these labels should have"
        if len(utterances)
        else "there is no audio: the utterance files are empty"
    )
