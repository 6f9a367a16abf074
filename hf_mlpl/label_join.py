"""Pseudo-labels of a label set, put together with their audio by id: utterances that training takes.

A label set may be anyone's: only Parquet files are read, and its ids are compared with those that are here, no more.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features
from datasets.table import CastError, table_cast
from huggingface_hub import snapshot_download

from .atomic import written_whole
from .containers import ContainerError, audio_column
from .corpora.utterances import BLOCK, FEATURES, blocks, id_hashes, keep_rows, take_rows, write_utterances
from .hub import FAILURES, reason, with_retries
from .label_sets import LABEL_SET_FEATURES
from .pseudo_label import LABEL_FEATURES, SCORES

DURATION_TOLERANCE = 0.1  # seconds, some three output frames: tables of segments are rounded
# What is read of a label set; start and end are those of the local utterance.
READ = Features({name: kind for name, kind in LABEL_SET_FEATURES.items() if name not in ("start", "end")})
SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})\.parquet")
NEVER_NULL = sorted(set(READ) - {*SCORES, "predicted_language"})


@dataclass
class JoinReport:
    """What came of a join.

    Args:
        joined, hours: utterances that were written.
        left_out: labels that are not kept by their filters.
        no_audio: labels without a local utterance.
        no_label: local utterances without a label.
        other_duration: utterances that were written though their label is of a longer or shorter one.
    """

    joined: int = 0
    hours: float = 0.0
    left_out: int = 0
    no_audio: int = 0
    no_label: int = 0
    other_duration: int = 0


def find_label_set(
    labels: str, languages: Sequence[str] | None = None, revision: str | None = None
) -> dict[str, list[Path]]:
    """The Parquet files of each language, of a folder with `LANGUAGE/*.parquet` or of a data set on the Hub.

    Raises:
        ValueError: for one without such files, without one of several shards, or without one of `languages`.
        OSError: for a data set that the Hub does not give.
    """
    root = Path(labels)
    if not root.is_dir():
        patterns = [f"{language}/*.parquet" for language in languages or ["*"]]
        download = partial(snapshot_download, labels, repo_type="dataset", revision=revision, allow_patterns=patterns)
        try:
            root = Path(with_retries(download))
        except FAILURES as error:
            raise OSError(f"{labels}: is no folder, and cannot be had from the Hub ({reason(error)})") from error
    files: dict[str, list[Path]] = {}
    for path in sorted(root.glob("*/*.parquet")):
        files.setdefault(path.parent.name, []).append(path)
    for paths in files.values():
        shards = Counter(match.groups() for path in paths if (match := SHARD.fullmatch(path.name)))
        if any(count != int(of) for (_, of), count in shards.items()):
            raise ValueError(f"{paths[0].parent}: lacks some of the shards that others count; download it again")
    if missing := sorted(set(languages or ()) - set(files)):
        raise ValueError(f"{labels}: no labels of {', '.join(missing)}")
    if not files:
        raise ValueError(f"{labels}: no labels, which are files such as sl/train-00000-of-00001.parquet")
    return {language: files[language] for language in languages or files}


def join_labels(
    files: Mapping[str, Sequence[Path]], utterances: Dataset, output: Path, keep_all: bool = False
) -> JoinReport:
    """Writes an utterance file of `LABEL_FEATURES`, and beside it `NAME.unmatched.tsv` with the ids on one side alone.

    Memory has 10,000 labels at a time, and 17 bytes of each local utterance of a language.

    Args:
        files: of each language, as `find_label_set` gives them.
        utterances: with the audio.
        keep_all: also labels that their filters do not keep.

    Raises:
        ValueError: for files that hold no labels, an id that has two, and where no label has audio.
    """
    report = JoinReport()
    with (
        written_whole(output.with_suffix(".unmatched.tsv")) as path,
        open(path, "w", encoding="utf-8", newline="") as file,
    ):
        tell = csv.writer(file, delimiter="\t", lineterminator="\n").writerow
        tell(("id", "language", "what"))

        def rows() -> Iterator[dict]:
            for language, paths in files.items():
                yield from _join(language, paths, utterances, keep_all, report, tell)
            _refuse_nothing(report, files, utterances)

        write_utterances(rows(), output, LABEL_FEATURES)
    return report


def join_own_audio(files: Mapping[str, Sequence[Path]], output: Path, keep_all: bool = False) -> JoinReport:
    """The same for a label set with audio: its utterances are rows of the label set's own files.

    Raises:
        ValueError: for files without labels or without audio, and where no label is kept.
    """
    report = JoinReport()

    def rows() -> Iterator[dict]:
        for path in (path for paths in files.values() for path in paths):
            first = 0
            for labels in _blocks_of_labels([path], with_audio=True):
                for number, label in enumerate(labels.to_pylist(), first):
                    if keep_all or label["kept"]:
                        audio = {"path": str(path.absolute()), "offset": number}
                        yield _utterance({"id": label["id"], "audio": audio}, label, report)
                    else:
                        report.left_out += 1
                first += len(labels)
        _refuse_nothing(report, files, None)

    write_utterances(rows(), output, LABEL_FEATURES)
    return report


def _join(
    language: str, paths: Sequence[Path], utterances: Dataset, keep_all: bool, report: JoinReport, tell: Callable
) -> Iterator[dict]:
    """Labels of a language with their utterances, in the order of the labels; tells which ids have no other side."""
    utterances = keep_rows(utterances, ["language"], lambda block: pc.equal(block["language"], language).to_numpy())
    find, found = _finder(utterances), np.zeros(len(utterances), bool)
    for labels in _blocks_of_labels(paths):
        rows = find(labels["id"])
        there = rows >= 0
        for name in labels["id"].filter(pa.array(~there)).to_pylist():
            report.no_audio += 1
            tell((name, language, "no audio"))
        labels, rows = labels.filter(pa.array(there)), rows[there]
        _, firsts = np.unique(rows, return_index=True)
        twice = found[rows] | ~np.isin(np.arange(len(rows)), firsts)
        if twice.any():
            raise ValueError(f"{paths[0].parent}: has two labels of {labels['id'][int(np.argmax(twice))].as_py()!r}")
        found[rows] = True
        kept = keep_all | labels["kept"].to_numpy()
        report.left_out += int((~kept).sum())
        chosen = blocks(take_rows(utterances, rows[kept]), list(FEATURES))
        local = (row for block in chosen for row in block.to_pylist())
        for utterance, label in zip(local, labels.filter(pa.array(kept)).to_pylist(), strict=True):
            here, labelled = utterance["duration_seconds"], label["duration_seconds"]
            if abs(here - labelled) > DURATION_TOLERANCE:
                report.other_duration += 1
                tell((label["id"], language, f"{here:.2f} s, its label {labelled:.2f} s"))
            yield _utterance(utterance, label, report)
    first = 0
    for block in blocks(utterances, ["id"]):
        for name in block["id"].filter(pa.array(~found[first : first + len(block)])).to_pylist():
            report.no_label += 1
            tell((name, language, "no label"))
        first += len(block)


def _utterance(utterance: dict, label: dict, report: JoinReport) -> dict:
    """A row of `LABEL_FEATURES`: what the utterance does not say, the label does."""
    joined = {"duration_seconds": label["duration_seconds"], "language": label["language"]} | utterance
    report.joined += 1
    report.hours += joined["duration_seconds"] / 3600
    taken = {name: label[name] for name in ("text", *SCORES, "predicted_language")}
    return joined | taken | {"source": f"{label['teacher']}@{label['teacher_revision']}"}


def _finder(utterances: Dataset) -> Callable[[pa.ChunkedArray], np.ndarray]:
    """A function from ids to (N,) numbers of the rows that have them, -1 where there is none."""
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
            local = [name for block in blocks(take_rows(utterances, at), ["id"]) for name in block["id"].to_pylist()]
            pairs = zip(local, names.take(candidates).to_pylist(), strict=True)
            same = np.array([one == other for one, other in pairs], bool)
            rows[candidates[same]] = at[same]
        return rows

    return find


def _blocks_of_labels(paths: Sequence[Path], with_audio: bool = False) -> Iterator[pa.Table]:
    """The columns of `READ`, 10,000 rows at a time; raises a ValueError for whatever is not such a file."""
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow
                if missing := sorted(set(READ) - set(schema.names)):
                    raise ValueError(f"{path}: no labels, it has no column {', '.join(missing)}")
                if with_audio:
                    audio_column(schema, path)
                for batch in file.iter_batches(BLOCK, columns=list(READ)):
                    labels = table_cast(pa.Table.from_batches([batch]).select(list(READ)), READ.arrow_schema)
                    if empty := [name for name in NEVER_NULL if labels[name].null_count]:
                        raise ValueError(f"{path}: has rows without {', '.join(empty)}")
                    if not all(0 < seconds < np.inf for seconds in labels["duration_seconds"].to_numpy()):
                        raise ValueError(f"{path}: has rows with a duration that is none")
                    yield labels
        except ContainerError as error:
            raise ValueError(f"{path}: its labels are without audio; name that with --audio") from error
        except (pa.ArrowException, CastError, OSError) as error:
            raise ValueError(f"{path}: no Parquet file of labels, or damaged ({error})") from error


def _refuse_nothing(report: JoinReport, files: Mapping[str, Sequence[Path]], utterances: Dataset | None) -> None:
    """Raises a ValueError where no utterance has come of a join, and says why."""
    if report.joined:
        return
    if report.left_out:
        raise ValueError(f"none of {report.left_out} labels is kept by its filters; --all takes them")
    labels = next((block["id"][0].as_py() for paths in files.values() for block in _blocks_of_labels(paths)), None)
    if labels is None or utterances is None:
        raise ValueError(f"{', '.join(files)}: no labels at all")
    raise ValueError(
        f"no label has audio: ids of the labels are like {labels!r}, those of the audio like {utterances[0]['id']!r}; "
        "recipes/prepare_data.py gives the utterances of a corpus the ids that these labels should have"
        if len(utterances)
        else "there is no audio: the utterance files are empty"
    )
