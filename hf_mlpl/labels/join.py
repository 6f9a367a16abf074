"""Joins the pseudo-labels of a label set with their audio by id, into utterances for training.

Labels may be anyone's: a table with `id` and `text` is enough, as Parquet, csv, tsv or JSON lines. Nothing in it is
executed; its ids are only compared with those of the local utterances.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features
from huggingface_hub import HfApi, snapshot_download

from ..atomic import atomic_write
from ..audio.containers import ContainerError, audio_column
from ..corpora.metadata import SUFFIXES
from ..data.collapse import NOT_LEARNED, LabelTexts, collapse_line, num_characters
from ..data.rows import blocks, filter_rows, id_hashes, select_rows
from ..data.utterances import FEATURES, write_utterances
from ..folder_lock import claimed_file
from ..model.text import normalize_text
from ..sharing.hub import FAILURES, request_problem, with_retries
from .files import label_schema, labels_of_anyone
from .schema import LABEL_FEATURES, LABEL_SET_FEATURES, SCORES

DURATION_TOLERANCE = 0.1  # seconds, some three output frames: tables of segments are rounded
# The columns that are read from a label set; start and end are those of the local utterance.
READ = Features({name: kind for name, kind in LABEL_SET_FEATURES.items() if name not in ("start", "end")})
NEEDED = ("id", "text")
NEEDED_WITH_AUDIO = (*NEEDED, "language", "duration_seconds")  # elsewhere the local utterance has these
SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})\.parquet")

Files = Mapping[str | None, Sequence[Path]]  # by language; None for tables of several or unknown languages


@dataclass
class JoinReport:
    """Counts the results of a join.

    Args:
        joined, hours: utterances that were written.
        left_out: labels that their filters do not keep, or, where these are not known, that are empty.
        no_audio: labels without a local utterance.
        no_label: local utterances without a label.
        other_duration: written utterances whose label is of a longer or shorter one.
        unreadable: rows of text files that hold no label.
        empty: written utterances whose label has no text.
        languages: of the written utterances.
        texts: of all labels with audio, also of those that are left out.
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
    texts: LabelTexts = field(default_factory=LabelTexts, repr=False)


def find_label_set(
    labels: str, languages: Sequence[str] | None = None, revision: str | None = None
) -> dict[str | None, list[Path]]:
    """Returns the files of each language, from a folder with `LANGUAGE/*.parquet` or a data set on the Hub.

    The key is None for a single file, and for the tables of a folder without such sub-folders.

    Raises:
        ValueError: for a label set without such files, without one of several shards, or without one of `languages`.
        OSError: for a data set that cannot be downloaded.
    """
    root = Path(labels)
    if root.is_file():
        return {None: [root]}
    files = _label_files(root if root.is_dir() else _downloaded(labels, languages, revision))
    for paths in files.values():
        shards = Counter(match.groups() for path in paths if (match := SHARD.fullmatch(path.name)))
        if any(count != int(total) for (_, total), count in shards.items()):
            raise ValueError(f"{paths[0].parent}: lacks some of the shards that others count; download it again")
    if None in files:
        return files
    if missing := sorted(set(languages or ()) - files.keys()):
        raise ValueError(f"{labels}: no labels of {', '.join(missing)}")
    if not files:
        raise ValueError(f"{labels}: no labels, which are files such as sl/train-00000-of-00001.parquet")
    return {language: files[language] for language in languages or files}


def _label_files(root: Path) -> dict[str | None, list[Path]]:
    files: dict[str | None, list[Path]] = {
        language: list(paths)
        for language, paths in groupby(sorted(root.glob("*/*.parquet")), lambda path: path.parent.name)
    }
    if files and list(files) != ["data"]:
        return files
    if tables := [path for path in sorted(root.glob("*")) if path.name.endswith(SUFFIXES)]:
        return {None: tables}
    # The Hub's own tools write a data set of one configuration into the folder `data`.
    return {None: files["data"]} if files else {}


def _downloaded(labels: str, languages: Sequence[str] | None, revision: str | None) -> Path:
    """Downloads the languages of a data set or, if it has no folders for them, its tables; returns their folder."""

    def download(patterns: list[str]) -> Path:
        options = {"repo_type": "dataset", "revision": revision, "allow_patterns": patterns}
        return Path(with_retries(lambda: snapshot_download(labels, **options)))

    try:
        root = download([f"{language}/*.parquet" for language in languages or ["*"]])
        if any(root.glob("*/*.parquet")):
            return root
        names = with_retries(lambda: HfApi().list_repo_files(labels, repo_type="dataset", revision=revision))
        return download(
            [name for name in names if name.endswith(SUFFIXES) and name.rpartition("/")[0] in ("", "data")]
        )
    except FAILURES as error:
        problem = "is no file and no folder, and cannot be had from the Hub"
        raise OSError(f"{labels}: {problem} ({request_problem(error)})") from error


def join_labels(
    files: Files, utterances: Dataset, output: Path, keep_all: bool = False, allow_collapsed: bool = False
) -> JoinReport:
    """Writes an utterance file of `LABEL_FEATURES`, and beside it `NAME.unmatched.tsv` with the unmatched ids.

    Memory holds 10,000 labels at a time, and 17 bytes of each local utterance of a language.

    Args:
        files: of each language, from `find_label_set`.
        utterances: with the audio.
        keep_all: includes labels that their filters do not keep, or, where these are not known, that are empty.
        allow_collapsed: joins labels also if they have collapsed.

    Raises:
        ValueError: for files that hold no labels, for an id with two labels, for languages whose labels have
            collapsed, and if no label has audio, or none is kept.
        InUseError: if another job is writing the same file.
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
            _check_result(report, files, utterances, allow_collapsed)

        write_utterances(rows(), output, LABEL_FEATURES)
    return report


def join_own_audio(files: Files, output: Path, keep_all: bool = False, allow_collapsed: bool = False) -> JoinReport:
    """Writes an utterance file of a label set with audio, whose utterances are rows of the label set's own files.

    Raises:
        ValueError: for files without labels, audio, languages or durations, for languages whose labels have
            collapsed, and if no label is kept.
        InUseError: if another job is writing the same file.
    """
    report = JoinReport()

    def rows() -> Iterator[dict]:
        for path in (path for paths in files.values() for path in paths):
            offset = 0
            _check_audio(path)
            for labels in labels_of_anyone(path, READ, NEEDED_WITH_AUDIO):
                report.texts.add(labels)
                kept = keep_all | _is_kept(labels)
                for number, (label, is_kept) in enumerate(zip(labels.to_pylist(), kept, strict=True), offset):
                    if is_kept:
                        audio = {"path": str(path.absolute()), "offset": number}
                        yield _joined_row({"id": label["id"], "audio": audio}, label, path, report)
                    else:
                        report.left_out += 1
                offset += len(labels)
        _check_result(report, files, None, allow_collapsed)

    with claimed_file(output):
        write_utterances(rows(), output, LABEL_FEATURES)
    return report


def _check_audio(path: Path) -> None:
    try:
        if path.suffix != ".parquet":
            raise ContainerError(f"{path}: is a table of texts")
        audio_column(label_schema(path), path)
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

    def skip(position: str, problem: str) -> None:
        report.unreadable += 1
        write_row((position, language or "", problem))

    if language is not None:
        utterances = filter_rows(
            utterances, ["language"], lambda rows: pc.equal(rows["language"], language).to_numpy()
        )
    find_rows, has_label = _row_finder(utterances), np.zeros(len(utterances), bool)
    labels_by_file = ((path, labels) for path in paths for labels in labels_of_anyone(path, READ, NEEDED, skip))
    for path, labels in labels_by_file:
        rows = find_rows(labels["id"])
        has_audio = rows >= 0
        for label in labels.filter(pa.array(~has_audio)).select(["id", "language"]).to_pylist():
            report.no_audio += 1
            write_row((label["id"], language or label["language"] or "", "no audio"))
        labels, rows = labels.filter(pa.array(has_audio)), rows[has_audio]
        _, firsts = np.unique(rows, return_index=True)
        is_second = has_label[rows] | ~np.isin(np.arange(len(rows)), firsts)
        if is_second.any():
            raise ValueError(f"{path}: has a second label of {labels['id'][int(np.argmax(is_second))].as_py()!r}")
        has_label[rows] = True
        for local in _in_one(blocks(select_rows(utterances, rows), ["language", "duration_seconds"])):
            report.texts.add(local.append_column("text", labels["text"]))
        kept = keep_all | _is_kept(labels)
        report.left_out += int((~kept).sum())
        local_blocks = blocks(select_rows(utterances, rows[kept]), list(FEATURES))
        local = (row for block in local_blocks for row in block.to_pylist())
        for utterance, label in zip(local, labels.filter(pa.array(kept)).to_pylist(), strict=True):
            seconds, labelled = utterance["duration_seconds"], label["duration_seconds"]
            if labelled is not None and abs(seconds - labelled) > DURATION_TOLERANCE:
                report.other_duration += 1
                write_row((label["id"], utterance["language"], f"{seconds:.2f} s, its label {labelled:.2f} s"))
            yield _joined_row(utterance, label, path, report)
    first = 0
    for block in blocks(utterances, ["id", "language"]):
        for row in block.filter(pa.array(~has_label[first : first + len(block)])).to_pylist():
            report.no_label += 1
            write_row((row["id"], row["language"], "no label"))
        first += len(block)


def _in_one(tables: Iterable[pa.Table]) -> list[pa.Table]:
    """Returns blocks of rows as one, or none where there are no rows."""
    tables = list(tables)
    return [pa.concat_tables(tables)] if tables else []


def _is_kept(labels: pa.Table) -> np.ndarray:
    """Returns (N,) whether the filters of labels keep them; where that is not known, whether they have a text."""
    return pc.coalesce(labels["kept"], pc.greater(num_characters(labels["text"]), 0)).to_numpy()


def _joined_row(utterance: dict, label: dict, path: Path, report: JoinReport) -> dict:
    """Returns a row of `LABEL_FEATURES`, and counts it; the label supplies the fields that the utterance lacks."""
    joined = {"duration_seconds": label["duration_seconds"], "language": label["language"]} | utterance
    report.joined += 1
    report.hours += joined["duration_seconds"] / 3600
    report.languages.add(joined["language"])
    text = normalize_text(label["text"])
    report.empty += not text
    teacher = [name for name in (label["teacher"], label["teacher_revision"]) if name]
    scores = {name: label[name] for name in (*SCORES, "predicted_language")}
    return joined | scores | {"text": text, "source": "@".join(teacher) or path.name}


def _row_finder(utterances: Dataset) -> Callable[[pa.ChunkedArray], np.ndarray]:
    """Returns a function from ids to the (N,) numbers of their rows, -1 for ids without a row."""
    hashes = [id_hashes(block["id"].combine_chunks()) for block in blocks(utterances, ["id"])]
    hashes = np.concatenate([np.empty(0, np.uint64), *hashes])
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]

    def find_rows(ids: pa.ChunkedArray) -> np.ndarray:
        wanted, rows = id_hashes(ids.combine_chunks()), np.full(len(ids), -1)
        first, end = (np.searchsorted(hashes, wanted, side) for side in ("left", "right"))
        for number in range(int((end - first).max(initial=0))):  # once, unless two ids share a hash
            candidates = np.flatnonzero((rows < 0) & (first + number < end))
            local = order[first[candidates] + number]
            matches = blocks(select_rows(utterances, local), ["id"])
            local_ids = (name for block in matches for name in block["id"].to_pylist())
            pairs = zip(local_ids, ids.take(candidates).to_pylist(), strict=True)
            is_same = np.array([one == other for one, other in pairs], bool)
            rows[candidates[is_same]] = local[is_same]
        return rows

    return find_rows


def _check_result(report: JoinReport, files: Files, utterances: Dataset | None, allow_collapsed: bool) -> None:
    """Raises a ValueError with the cause if labels have collapsed, or if a join has written no utterance."""
    if (problems := report.texts.problems()) and not allow_collapsed:
        raise ValueError(f"{collapse_line(problems)}: {NOT_LEARNED}; --allow-collapsed joins them all the same")
    if report.joined:
        return
    if report.left_out:
        raise ValueError(f"none of {report.left_out} labels is kept by its filters, or has a text; --all takes them")
    paths = [path for paths in files.values() for path in paths]
    found = (labels for path in paths for labels in labels_of_anyone(path, READ, NEEDED))
    label_id = next((labels["id"][0].as_py() for labels in found if len(labels)), None)
    if label_id is None or utterances is None:
        raise ValueError(f"{', '.join(map(str, paths))}: no labels at all")
    if not len(utterances):
        raise ValueError("there is no audio: the utterance files are empty")
    audio_id = utterances[0]["id"]
    raise ValueError(
        f"no label has audio: ids of the labels are like {label_id!r}, those of the audio like {audio_id!r}; "
        "`hf-mlpl prepare-data` gives the utterances of a corpus the ids that these labels should have"
    )
