"""Joins the pseudo-labels of a label set with their audio by id, into utterances for training.

Labels may be anyone's: a table with an id, or the path of a recording, and a text is enough, as Parquet, csv, tsv or
JSON lines. Nothing in it is executed; its names are only compared with those of the local utterances.
"""

from __future__ import annotations

import csv
import glob
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features
from huggingface_hub import HfApi, snapshot_download

from ..atomic import atomic_write
from ..audio.containers import ContainerError, audio_column
from ..corpora.locales import to_locale
from ..corpora.metadata import SUFFIXES
from ..corpora.readers.dataset_files import data_files
from ..corpora.readers.published import locale_of_config
from ..corpora.reading import ReadingReport
from ..data.collapse import NOT_LEARNED, LabelTexts, collapse_line, num_characters
from ..data.rows import blocks, filter_rows, row_groups, select_rows, with_offsets
from ..data.text_arrays import TextBlock
from ..data.utterances import FEATURES, write_tables
from ..folder_lock import claimed_file
from ..remote_path import AnyPath, RemotePath, matching_paths
from ..sharing.hub import FAILURES, request_problem, with_retries
from .files import AS_FOUND, PLACE_FEATURES, TableSettings, columns_of_labels, label_schema, labels_of_anyone
from .matching import (
    AGAIN,
    DURATION_TOLERANCE,
    FOREIGN,
    NEEDED,
    NONE,
    READ,
    SEVERAL,
    UtteranceNames,
    matched_labels,
)
from .schema import SCORES
from .shards import SCHEMA

READ_WITH_AUDIO = Features({name: kind for name, kind in READ.items() if name not in PLACE_FEATURES})
NEEDED_WITH_AUDIO = (*NEEDED, "language", "duration_seconds")  # elsewhere the local utterance has these
UNMATCHED = {
    NONE: "no audio",
    SEVERAL: "several utterances or labels have this name",
    AGAIN: "the same label is there already",
    FOREIGN: "the label says another language",
}
SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})\.parquet")

Files = Mapping[str | None, Sequence[AnyPath]]  # by language; None for tables of several or unknown languages


@dataclass
class JoinReport:
    """Counts the results of a join.

    Args:
        joined, hours: utterances that were written.
        left_out: labels that their filters do not keep, or, where these are not known, that are empty.
        unmatched: labels without one local utterance, by the reason, which is one of `UNMATCHED`.
        by_name: labels with audio that have another spelling of its id, or its path.
        no_label: local utterances without a label.
        other_duration: written utterances whose label is of a longer or shorter one.
        unreadable: rows that hold no label; `first_unreadable` says where the first one is, and why.
        empty: written utterances whose label has no text.
        languages: of the written utterances.
        absent: scores that no file of labels has, and which are null.
        texts: of all labels with audio, also of those that are left out.
    """

    joined: int = 0
    hours: float = 0.0
    left_out: int = 0
    unmatched: Counter[int] = field(default_factory=Counter)
    by_name: int = 0
    no_label: int = 0
    other_duration: int = 0
    unreadable: int = 0
    first_unreadable: str = ""
    empty: int = 0
    languages: set[str] = field(default_factory=set)
    absent: list[str] = field(default_factory=list)
    texts: LabelTexts = field(default_factory=LabelTexts, repr=False)

    @property
    def no_audio(self) -> int:
        return self.unmatched[NONE]


def find_label_set(
    labels: str | Sequence[str],
    languages: Sequence[str] | None = None,
    revision: str | None = None,
    config: str | None = None,
    split: str | None = None,
) -> dict[str | None, list[AnyPath]]:
    """Returns the files of each language, from files, a folder, or a data set on the Hub.

    A folder has `LANGUAGE/*.parquet`, tables, or tables in folders of languages. The key is None for files of several
    or unknown languages: those that are named, and those of a folder without such sub-folders.

    Args:
        labels: one name, or several files.
        config, split: of a data set on the Hub with other folders; its card says which files they have.

    Raises:
        ValueError: for a label set without such files, without one of several shards, or without one of `languages`.
        OSError: for a data set that cannot be downloaded.
    """
    names = [labels] if isinstance(labels, str) else list(labels)
    paths = [path for name in names for path in matching_paths(name)]
    if all(path.is_file() for path in paths):
        return {None: paths}
    if len(paths) > 1:
        missing = next(path for path in paths if not path.is_file())
        raise ValueError(f"{missing}: is no file; several label sets may only be files")
    [name], [root] = names, paths
    if config or split:
        return {None: [*_files_of_config(name, config, split or "train")]}
    wanted = [to_locale(language) for language in languages or ()]
    is_here = isinstance(root, RemotePath) or root.is_dir()
    files = _files_below(root if is_here else _downloaded(name, wanted, revision))
    for paths in files.values():
        shards = Counter(match.groups() for path in paths if (match := SHARD.fullmatch(path.name)))
        if any(count != int(total) for (_, total), count in shards.items()):
            raise ValueError(f"{paths[0].parent}: lacks some of the shards that others count; download it again")
    if None in files:
        return files
    if absent := sorted(set(wanted) - files.keys()):
        raise ValueError(f"{name}: no labels of {', '.join(absent)}")
    if not files:
        raise ValueError(f"{name}: no labels, which are files such as sl/train-00000-of-00001.parquet")
    return {language: files[language] for language in wanted or files}


def _files_of_config(name: str, config: str | None, split: str) -> list[Path]:
    """Downloads the files of a split of a data set; raises ValueError for one whose files are no tables."""
    report = ReadingReport()
    _, paths, _ = data_files(name, split, config, report)
    if not paths or not all(path.name.endswith(SUFFIXES) for path in paths):
        raise ValueError(f"{name}: its files are no tables of texts; csv, tsv, JSON lines and Parquet are accepted")
    return paths


def _files_below(root: AnyPath) -> dict[str | None, list[AnyPath]]:
    if isinstance(root, RemotePath):
        found = [(depth, str(path)) for depth in (1, 2) for path in matching_paths(str(root) + depth * "/*")]
        names = ["/".join(url.split("/")[-depth:]) for depth, url in found]
    else:
        names = [path.relative_to(root).as_posix() for pattern in ("*", "*/*") for path in sorted(root.glob(pattern))]
    return {language: [root / name for name in chosen] for language, chosen in _label_files(names).items()}


def _label_files(names: Iterable[str]) -> dict[str | None, list[str]]:
    """Returns those of the files of a label set, by their names in it, that hold labels."""
    tables = [PurePosixPath(name) for name in sorted(names) if name.endswith(SUFFIXES)]
    in_folders: defaultdict[str | None, list[str]] = defaultdict(list)
    by_language: defaultdict[str | None, list[str]] = defaultdict(list)
    at_top = [table.name for table in tables if len(table.parts) == 1]
    for table in tables:
        if len(table.parts) == 2:
            folder, language = table.parts[0], locale_of_config(table.parts[0])
            if table.suffix == ".parquet":
                in_folders[to_locale(folder)].append(str(table))
            if language is not None:
                by_language[language].append(str(table))
    if "labels.parquet" in at_top:  # a folder of `pseudo_label`, whose shards hold the same labels
        return {None: ["labels.parquet"]}
    if in_folders and list(in_folders) != ["data"]:
        return dict(in_folders)
    if at_top:
        return {None: at_top}
    # The Hub's own tools write a data set of one configuration into the folder `data`.
    return {None: in_folders["data"]} if in_folders else dict(by_language)


def _downloaded(labels: str, languages: Sequence[str], revision: str | None) -> Path:
    """Downloads the languages of a data set or, if it has no folders for them, its tables; returns their folder."""

    def download(patterns: list[str]) -> Path:
        options = {"repo_type": "dataset", "revision": revision, "allow_patterns": patterns}
        return Path(with_retries(lambda: snapshot_download(labels, **options)))

    try:
        root = download([f"{language}/*.parquet" for language in languages or ["*"]])
        if any(root.glob("*/*.parquet")):
            return root
        names = with_retries(lambda: HfApi().list_repo_files(labels, repo_type="dataset", revision=revision))
        files = _label_files(names)
        chosen = files if None in files or not languages else {name: files.get(name, ()) for name in languages}
        return download([glob.escape(name) for names in chosen.values() for name in names])
    except FAILURES as error:
        problem = "is no file and no folder, and cannot be had from the Hub"
        raise OSError(f"{labels}: {problem} ({request_problem(error)})") from error


def join_labels(
    files: Files,
    utterances: Dataset,
    output: AnyPath,
    keep_all: bool = False,
    allow_collapsed: bool = False,
    settings: TableSettings = AS_FOUND,
) -> JoinReport:
    """Writes an utterance file of `LABEL_FEATURES`, and beside it `NAME.unmatched.tsv` with the unmatched ids.

    Labels are of the utterance with their id, or with the only name that is another spelling of their id or path, as
    `matching` describes. Reads the labels as `matched_labels` does. Memory holds 10,000 labels at a time, 33 bytes
    of each label, and 17 bytes of each local utterance of a language, or 81 if there are other spellings.

    Args:
        files: of each language, from `find_label_set`.
        utterances: with the audio.
        keep_all: includes labels that their filters do not keep, or, where these are not known, that are empty.
        allow_collapsed: joins labels also if they have collapsed.
        settings: of tables.

    Raises:
        ValueError: for files that hold no labels, for an id with two texts, for languages whose labels have
            collapsed, and if no label has audio, or none is kept.
        InUseError: if another job is writing the same file.
    """
    report = JoinReport()
    found = [columns_of_labels(path, settings) for paths in files.values() for path in paths]
    report.absent = [name for name in SCORES if not any(name in columns for columns in found)]
    with (
        claimed_file(output),
        atomic_write(output.with_suffix(".unmatched.tsv")) as path,
        open(path, "w", encoding="utf-8", newline="") as file,
    ):
        write_rows = csv.writer(file, delimiter="\t", lineterminator="\n").writerows
        write_rows([("id", "language", "what")])

        def tables() -> Iterator[pa.Table]:
            for language, paths in files.items():
                yield from _join(language, paths, utterances, keep_all, report, write_rows, settings)
            _check_result(report, files, utterances, allow_collapsed, settings)

        write_tables(row_groups(tables()), output, SCHEMA)
    return report


def join_own_audio(files: Files, output: AnyPath, keep_all: bool = False, allow_collapsed: bool = False) -> JoinReport:
    """Writes an utterance file of a label set with audio, whose utterances are rows of the label set's own files.

    Raises:
        ValueError: for files without labels, audio, languages or durations, for languages whose labels have
            collapsed, and if no label is kept.
        InUseError: if another job is writing the same file.
    """
    report = JoinReport()

    def tables() -> Iterator[pa.Table]:
        for path in (path for paths in files.values() for path in paths):
            _check_audio(path)
            for first, labels in with_offsets(labels_of_anyone(path, READ_WITH_AUDIO, NEEDED_WITH_AUDIO)):
                report.texts.add(labels)
                kept = np.flatnonzero(keep_all | _is_kept(labels))
                report.left_out += len(labels) - len(kept)
                own = labels.take(pa.array(kept))
                audio = _audio_in_rows(path, first + kept)
                rows = own.select(["id", "language", "duration_seconds"]).append_column("audio", audio)
                yield _joined(rows, own, path, report)
        _check_result(report, files, None, allow_collapsed)

    with claimed_file(output):
        write_tables(row_groups(tables()), output, SCHEMA)
    return report


def _audio_in_rows(path: AnyPath, rows: np.ndarray) -> pa.StructArray:
    """Returns the column `audio` for recordings in rows (N,) of a Parquet file."""
    name = str(path.absolute() if isinstance(path, Path) else path)
    kinds = list(SCHEMA.field("audio").type)
    known = {"path": pa.repeat(name, len(rows)), "offset": pa.array(rows)}
    parts = [known[kind.name] if kind.name in known else pa.nulls(len(rows), kind.type) for kind in kinds]
    return pa.StructArray.from_arrays(parts, fields=kinds)


def _check_audio(path: AnyPath) -> None:
    try:
        if path.suffix != ".parquet":
            raise ContainerError(f"{path}: is a table of texts")
        audio_column(label_schema(path), str(path))
    except ContainerError as error:
        raise ValueError(f"{path}: its labels are without audio; name that with --audio") from error


def _join(
    language: str | None,
    paths: Sequence[AnyPath],
    utterances: Dataset,
    keep_all: bool,
    report: JoinReport,
    write_rows: Callable,
    settings: TableSettings,
) -> Iterator[pa.Table]:
    """Yields labels of a language with their utterances, in their order; writes a row for each id without a match."""

    def skip(position: str, problem: str) -> None:
        report.unreadable += 1
        report.first_unreadable = report.first_unreadable or f"{position}: {problem}"
        write_rows([(position, language or "", problem)])

    if language is not None:
        utterances = filter_rows(
            utterances, ["language"], lambda rows: pc.equal(rows["language"], language).to_numpy()
        )
    has_label = np.zeros(len(utterances), bool)
    for path, labels, rows, is_exact in matched_labels(UtteranceNames(utterances), paths, settings, skip):
        has_audio = rows >= 0
        unmatched = labels.filter(pa.array(~has_audio)).select(["id", "path", "language"]).to_pylist()
        for row, label in zip(rows[~has_audio].tolist(), unmatched, strict=True):
            report.unmatched[row] += 1
            write_rows([(label["id"] or label["path"], language or label["language"] or "", UNMATCHED[row])])
        report.by_name += int((has_audio & ~is_exact).sum())
        labels, rows = labels.filter(pa.array(has_audio)), rows[has_audio]
        has_label[rows] = True
        for first, local in with_offsets(blocks(select_rows(utterances, rows), list(FEATURES))):
            own = labels.slice(first, len(local))
            report.texts.add(local.set_column(local.column_names.index("text"), "text", own["text"]))
            kept = pa.array(keep_all | _is_kept(own))
            local, own = local.filter(kept), own.filter(kept)
            report.left_out += len(kept) - len(own)
            _report_durations(local, own["duration_seconds"], report, write_rows)
            yield _joined(local, own, path, report)
    for first, block in with_offsets(blocks(utterances, ["id", "language"])):
        missing = block.filter(pa.array(~has_label[first : first + len(block)]))
        report.no_label += len(missing)
        write_rows(zip(*(column.to_pylist() for column in missing.columns), repeat("no label"), strict=False))


def _report_durations(
    utterances: pa.Table, labelled: pa.ChunkedArray, report: JoinReport, write_rows: Callable
) -> None:
    """Counts and lists the utterances whose labels are of a longer or shorter one."""
    difference = pc.abs(pc.subtract(utterances["duration_seconds"], labelled))
    is_other = pc.fill_null(pc.greater(difference, DURATION_TOLERANCE), False)
    others = utterances.append_column("labelled", labelled).filter(is_other)
    report.other_duration += len(others)
    write_rows(
        (row["id"], row["language"], f"{row['duration_seconds']:.2f} s, its label {row['labelled']:.2f} s")
        for row in others.select(["id", "language", "duration_seconds", "labelled"]).to_pylist()
    )


def _is_kept(labels: pa.Table) -> np.ndarray:
    """Returns (N,) whether the filters of labels keep them; where that is not known, whether they have a text."""
    kept = labels["kept"]
    if kept.null_count:
        kept = pc.coalesce(kept, pc.greater(num_characters(labels["text"]), 0))
    return kept.to_numpy()


def _joined(utterances: pa.Table, labels: pa.Table, path: AnyPath, report: JoinReport) -> pa.Table:
    """Returns rows of `LABEL_FEATURES`, and counts them: utterances with the texts and scores of their labels."""
    texts = TextBlock(labels["text"])
    teachers, revisions = (pc.fill_null(labels[name], "") for name in ("teacher", "teacher_revision"))
    separators = pc.if_else(pc.or_(pc.equal(teachers, ""), pc.equal(revisions, "")), "", "@")
    sources = pc.binary_join_element_wise(teachers, separators, revisions, "")
    sources = pc.if_else(pc.equal(sources, ""), path.name, sources)
    report.joined += len(utterances)
    report.hours += (pc.sum(utterances["duration_seconds"]).as_py() or 0) / 3600
    report.languages.update(utterances["language"].unique().to_pylist())
    report.empty += int((texts.lengths == 0).sum())
    columns = {name: labels[name] for name in (*SCORES, "predicted_language")}
    columns |= {name: utterances[name] for name in utterances.column_names} | {"text": texts.texts, "source": sources}
    nulls = {name: pa.nulls(len(labels), SCHEMA.field(name).type) for name in SCHEMA.names if name not in columns}
    return pa.table(columns | nulls).select(SCHEMA.names).cast(SCHEMA)


def _check_result(
    report: JoinReport,
    files: Files,
    utterances: Dataset | None,
    allow_collapsed: bool,
    settings: TableSettings = AS_FOUND,
) -> None:
    """Raises a ValueError with the cause if labels have collapsed, or if a join has written no utterance."""
    if (problems := report.texts.problems()) and not allow_collapsed:
        raise ValueError(f"{collapse_line(problems)}: {NOT_LEARNED}; --allow-collapsed joins them all the same")
    if report.joined:
        return
    if report.left_out:
        raise ValueError(f"none of {report.left_out} labels is kept by its filters, or has a text; --all takes them")
    if report.unreadable and not report.unmatched:
        raise ValueError(f"{report.first_unreadable}; none of {report.unreadable} rows is a label")
    paths = [path for paths in files.values() for path in paths]
    found = (labels for path in paths for labels in labels_of_anyone(path, READ, NEEDED, settings=settings))
    first = next((labels.slice(0, 1).to_pylist()[0] for labels in found if len(labels)), {})
    label_id = first.get("id") or first.get("path")
    if label_id is None or utterances is None:
        raise ValueError(f"{', '.join(map(str, paths))}: no labels at all")
    if not len(utterances):
        raise ValueError("there is no audio: the utterance files are empty")
    audio_id = utterances[0]["id"]
    raise ValueError(
        f"no label has audio: ids of the labels are like {label_id!r}, those of the audio like {audio_id!r}; "
        "`hf-mlpl prepare-data` gives the utterances of a corpus the ids that these labels should have"
    )
