"""Writes label sets, which are data sets of pseudo-labels with a configuration for each language, and pushes them.

    sl/train-00000-of-00003.parquet, ...   the labels of a language, sorted by id
    sl/summary.json                        counts, hours, histograms of scores, the teacher
    README.md, scores.png                  the card, rendered from all summaries

The same labels give the same bytes, so that pushing again uploads nothing. No path of this machine is in the files.
"""

from __future__ import annotations

import glob
import logging
import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Audio, Dataset, Features, config
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.hf_api import DatasetInfo

from ..atomic import atomic_write, temporary_folder, writing
from ..audio.reading import SAMPLING_RATE, AudioError, encode_flac, load_audio
from ..data.collapse import NOT_LEARNED, collapse_line
from ..data.rows import blocks, durations_of, filter_rows, select_rows, sorted_by_id
from ..error_line import error_line
from ..remote_path import AnyPath, as_path
from ..sharing.hub import push_folder, with_retries
from .dataset_card import PICTURE, dataset_card, is_commit, plot_scores
from .files import scored_blocks
from .filters import DEFAULT_FILTERS, LabelFilter
from .folder import collapse_of, read_complete
from .relative import relative_bounds
from .schema import LABEL_FEATURES, LABEL_SET_FEATURES
from .summary import LabelCounts, LabelSummary

logger = logging.getLogger(__name__)

SHARD_ROWS = 250_000  # labels alone: some 50 MB
SHARD_SECONDS = 18_000  # with audio: some 300 MB
AUDIO_ROWS = 100  # in a row group with audio, and in memory at a time
# Content-defined chunks: where a shard gets a few new rows, the Hub stores these again and not the whole shard.
PARQUET_OPTIONS = {"compression": "zstd", "use_content_defined_chunking": True, "write_page_index": True}


def push_label_set(
    labels: str | AnyPath,
    repo_id: str,
    filters: Sequence[LabelFilter] = DEFAULT_FILTERS,
    with_audio: bool = False,
    private: bool = False,
    allow_collapsed: bool = False,
) -> Iterator[str]:
    """Pushes a folder of `pseudo_label`, with one commit for each language; yields a line about each.

    The commit holds a language's data, its summary, and the card of all languages that are then in the repository,
    including those that others push meanwhile. The files of other languages stay as they are.

    Args:
        labels: the folder; its disk needs room for the data set, with audio some 60 MB an hour. Labels in object
            storage are copied to the folder for temporary files first.
        repo_id: data set, `user/name`; it is created if it does not exist.
        filters, with_audio: as for `write_label_set`.
        private: creates the repository as private.
        allow_collapsed: pushes a language even if its labels have collapsed.

    Raises:
        ValueError: as `write_label_set` does; and at the end, for languages that are not pushed because their labels
            have collapsed.
        OSError: if the push fails.
    """
    labels = as_path(labels)
    complete = read_complete(labels)
    teacher, _, revision = complete["teacher"].rpartition("@")
    license_name = _license_of(teacher, revision.partition("+")[0])  # without the language models of its search
    problems = {} if allow_collapsed else collapse_of(complete)
    with _on_disk(labels) as (local, cache):
        for language, counts in complete["languages"].items():
            if not counts["labels"]:
                yield f"{language}: no labels to push, {counts['errors']} utterances have no label"
                continue
            if language in problems:
                continue
            with temporary_folder(local, "pushing") as folder:
                summary = write_label_set(local, language, folder, filters, with_audio, license_name, cache)
                commit = push_folder(
                    folder,
                    repo_id,
                    message=f"{language}: {summary.utterances:,} pseudo-labels, {summary.hours:,.2f} h",
                    pending=f"{labels} is complete",
                    remedy="the same command again pushes it, and so does `hf-mlpl publish-labels`",
                    repo_type="dataset",
                    private=private,
                    replaced=[f"{language}/"],
                    complete=partial(_write_card, folder, summary),
                )
            kept = f"{summary.utterances:,} labels, {summary.kept:,} of them kept"
            yield f"{language}: {kept}, are in {commit.commit_url}"
    if problems:
        raise ValueError(
            f"{labels}: {collapse_line(problems)}, and not pushed: {NOT_LEARNED}; --allow-collapsed pushes them all "
            "the same"
        )


@contextmanager
def _on_disk(labels: AnyPath) -> Iterator[tuple[Path, Path | None]]:
    """Yields a folder on a disk with these labels and, if that is a copy, a folder in it for the cache of datasets."""
    if isinstance(labels, Path):
        yield labels, None
        return
    with temporary_folder(labels, "labels") as folder:
        for name in ("complete.json", "labels.parquet"):
            (labels / name).download(folder / name)
        yield folder, folder / "cache"


def _license_of(teacher: str, revision: str) -> str | None:
    """Returns the licence on the card of a teacher on the Hub; None for another teacher, or without such a card."""
    if not is_commit(revision):
        return None
    try:
        info = with_retries(lambda: HfApi().model_info(teacher, revision=revision))
    except (HfHubHTTPError, HFValidationError):  # such as one that has been removed
        return None
    name = info.card_data.get("license") if info.card_data else None
    return name if isinstance(name, str) else None


def _write_card(folder: Path, summary: LabelSummary, head: DatasetInfo) -> None:
    """Writes the card and its picture, from this summary and those of other languages in the commit `head`."""
    summaries = {summary.language: summary}
    for name in (sibling.rfilename for sibling in head.siblings or ()):
        language, _, file = name.partition("/")
        if file == "summary.json" and language not in summaries:
            try:
                path = hf_hub_download(head.id, name, repo_type="dataset", revision=head.sha)
            except LocalEntryNotFoundError as error:  # it hides errors that may pass
                raise error.__cause__ or error from None
            summaries[language] = LabelSummary.read(Path(path))
    plot_scores(list(summaries.values()), folder / PICTURE)
    dataset_card(list(summaries.values()), head.id).save(folder / "README.md")


def write_label_set(
    labels: Path,
    language: str,
    output: Path,
    filters: Sequence[LabelFilter] = DEFAULT_FILTERS,
    with_audio: bool = False,
    teacher_license: str | None = None,
    cache: Path | None = None,
) -> LabelSummary:
    """Writes the shards and `summary.json` of one language of a folder of `pseudo_label`; returns the summary.

    Memory holds the ids of the language while they are sorted, and 10,000 labels, or 100 recordings, at a time.

    Args:
        output: folder for `LANGUAGE/train-00000-of-00001.parquet` and so on.
        filters: decide the column `kept`, by default for labels with a text; all labels are written.
        with_audio: adds a column `audio`, FLAC of 16 kHz, mono. A label whose recording can no longer be read is left
            out with a warning, and counted as unreadable.
        teacher_license: for the card.
        cache: folder for a copy of the labels that datasets maps to memory; its own by default.

    Raises:
        ValueError: for a folder that is not complete, is damaged or has no such language, for a language that is no
            locale code, and if no recording can be read.
    """
    complete = read_complete(labels)
    if not re.fullmatch(r"[\w-]+", language):  # it becomes the name of a folder
        raise ValueError(f"{labels}: has a language {language!r}; label sets take locale codes, such as sv-SE")
    path = labels / "labels.parquet"
    deque(scored_blocks(path), maxlen=0)  # checks the file
    with writing(cache or config.HF_DATASETS_CACHE):
        dataset = Dataset.from_parquet(glob.escape(str(path)), features=LABEL_FEATURES, cache_dir=cache)
    dataset = filter_rows(dataset, ["language"], lambda block: pc.equal(block["language"], language).to_numpy())
    if not len(dataset):
        raise ValueError(f"{labels}: no labels of {language}; there are {', '.join(complete['languages']) or 'none'}")
    dataset = sorted_by_id(dataset)
    counts = LabelCounts(filters, relative_bounds(blocks(dataset, list(LABEL_FEATURES)), filters))
    teacher, _, revision = complete["teacher"].rpartition("@")
    features = Features({**LABEL_SET_FEATURES, **({"audio": Audio(SAMPLING_RATE)} if with_audio else {})})
    shards = _shards(dataset, with_audio)
    for number, shard in enumerate(shards):
        path = output / language / f"train-{number:05d}-of-{len(shards):05d}.parquet"
        with (
            atomic_write(path) as unfinished,
            pq.ParquetWriter(unfinished, features.arrow_schema, **PARQUET_OPTIONS) as writer,
        ):
            for block in blocks(shard, list(LABEL_FEATURES)):
                [batch] = block.combine_chunks().to_batches()
                for part, audio in _with_audio(batch) if with_audio else [(batch, {})]:
                    columns = {
                        **{name: part[name] for name in LABEL_SET_FEATURES if name in LABEL_FEATURES},
                        **{name: pc.struct_field(part["audio"], name) for name in ("start", "end")},
                        "teacher": pa.repeat(teacher, len(part)),
                        "teacher_revision": pa.repeat(revision, len(part)),
                        "kept": pa.array(counts.add(part)),
                    }
                    writer.write_table(pa.table(columns | audio, schema=features.arrow_schema))
    if not counts.counts["all"]:
        raise ValueError(f"{labels}: none of the {len(dataset)} recordings of {language} can be read any more")
    job_counts = complete["languages"][language]
    summary = counts.summary(
        language=language,
        unreadable=job_counts["errors"] + len(dataset) - counts.counts["all"],
        cer=job_counts["cer"],
        teacher=teacher,
        teacher_revision=revision,
        teacher_license=teacher_license,
        sources=complete["sources"],
        with_audio=with_audio,
    )
    summary.write(output / language / "summary.json")
    return summary


def _shards(dataset: Dataset, with_audio: bool) -> list[Dataset]:
    """Splits a data set into parts of `SHARD_ROWS` rows or, with audio, of `SHARD_SECONDS` seconds."""
    if with_audio:
        seconds = durations_of(dataset)
        starts = np.flatnonzero(np.diff((np.cumsum(seconds) - seconds) // SHARD_SECONDS, prepend=-1))
    else:
        starts = np.arange(0, len(dataset), SHARD_ROWS)
    return [select_rows(dataset, rows) for rows in np.split(np.arange(len(dataset)), starts[1:])]


def _with_audio(labels: pa.RecordBatch) -> Iterator[tuple[pa.RecordBatch, dict[str, pa.Array]]]:
    """Yields parts of the labels, and their recordings as a column; drops labels whose recording cannot be read."""

    def encode(row: dict) -> dict | None:
        try:
            samples = load_audio(row["audio"], SAMPLING_RATE)
        except (AudioError, MemoryError) as error:
            logger.warning("%s: %s; it is not pushed", row["id"], error_line(error))
            return None
        name = row["id"].replace("/", "_")
        return {"bytes": encode_flac(samples, SAMPLING_RATE), "path": f"{name}.flac"}

    with ThreadPoolExecutor() as threads:
        for first in range(0, len(labels), AUDIO_ROWS):
            part = labels.slice(first, AUDIO_ROWS)
            recordings = list(threads.map(encode, part.select(["id", "audio"]).to_pylist()))
            part = part.filter(pa.array([recording is not None for recording in recordings], pa.bool_()))
            yield part, {"audio": pa.array(filter(None, recordings), Audio.pa_type)}
