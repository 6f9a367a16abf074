"""Reads manifests of NeMo and of lhotse, which have a JSON object for each recording or part of one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ...model.text import normalize_text
from ..locales import noted_locale, to_locale
from ..metadata import is_json, rows_of
from ..reading import ReadingReport, RowError, human_utterance
from ..recordings import DECIMALS, NO_PART, FileNames, local_path, part_of, with_part_durations
from ..tables import check_encoding
from .kaldi import is_kaldi, read_kaldi

NEMO_FIELDS = ("audio_filepath", "audio_filename", "offset", "duration", "text", "text_filepath", "speaker", "id")
LANGUAGE_FIELDS = ("lang", "language", "source_lang", "target_lang")  # the first that a row has is its language
RECORDING_FIELDS = ("id", "sources", "transforms")
LHOTSE_FIELDS = ("type", "start", "channel", "recording", "supervisions", "recording_id", "custom")
# `text_source` is ours: `source` of an utterance, which others use for something else.
FIELDS = (*NEMO_FIELDS, *LANGUAGE_FIELDS, *RECORDING_FIELDS[1:], *LHOTSE_FIELDS, "text_source", "shard_id")
CUTS = ("MonoCut", "MultiCut")


def read_manifest(
    manifest: str | Path, report: ReadingReport, language: str | None = None, encoding: str | None = None
) -> Iterator[dict]:
    """Yields utterances of a manifest of NeMo, or of cuts, supervisions or recordings of lhotse, plain or gzipped.

    A folder with a `wav.scp` is read by `read_kaldi`.

    `offset` and `duration` of NeMo are a part of a recording; without `offset` the part begins with the recording, as
    for NeMo. A supervision of lhotse is an utterance, and so is a cut or a recording without supervisions. The
    recordings of `sl_supervisions_train.jsonl.gz` are read from `sl_recordings_train.jsonl.gz` beside it. Rows without
    a text are unlabelled speech. Paths are relative to the manifest, or to what it links to, or else to the working
    directory.

    Refuses rows whose audio would be another than theirs: one channel of a file of several, cuts that are mixed or
    padded, audio that lhotse changes other than by resampling, and texts that are translations.

    Args:
        language: of all rows; by default from `lang`, `language` or `source_lang`.
        encoding: of a manifest without a byte order mark; by default UTF-8.

    Raises:
        ValueError: for a manifest that is missing, damaged or a table, for one that belongs to tar files, and for
            supervisions without recordings.
    """
    manifest = Path(manifest)
    if "_OP_" in manifest.name:
        raise ValueError(f"{manifest}: is a pattern for several manifests of tar files, which are not read")
    if is_kaldi(manifest):
        yield from read_kaldi(manifest, report, language, encoding)
        return
    if not manifest.is_file():
        raise ValueError(f"{manifest}: no such manifest")
    if manifest.name.endswith(".parquet") or not is_json(manifest):
        raise ValueError(f"{manifest}: is a table and no manifest of JSON lines; --list and --dataset read tables")
    check_encoding(manifest, encoding)
    before = report.read
    yield from with_part_durations(_rows(manifest, report, language, encoding), report)
    if report.read == before:
        report.note(f"{manifest}: no rows")


def partner_of(manifest: Path) -> Path | None:
    """Returns the recordings of a manifest of supervisions, or the supervisions of one of recordings, by its name."""
    for kind, other in (("supervisions", "recordings"), ("recordings", "supervisions")):
        partner = manifest.with_name(manifest.name.replace(kind, other))
        if kind in manifest.name and partner.is_file():
            return partner
    return None


def _rows(
    manifest: Path, report: ReadingReport, language: str | None, encoding: str | None
) -> Iterator[tuple[str, dict]]:
    folders = (manifest.parent, manifest.resolve().parent, os.curdir)  # the manifest may be a link
    files, recordings = FileNames(), {}
    for where, row, problem in rows_of(manifest, FIELDS, None, encoding):
        if row.get("shard_id") is not None:
            raise ValueError(
                f"{manifest}: has a shard_id, so its recordings are in tar files, which it does not name; give the "
                "manifest from which the tar files were made"
            )
        if row.get("recording_id") is not None and not recordings:
            recordings = _recordings_beside(manifest)
        if row.get("sources") is not None and (partner := partner_of(manifest)) and "supervisions" in partner.name:
            raise ValueError(f"{manifest}: has recordings without texts; name {partner.name}, which has the texts")
        for segment in _listed(row.get("supervisions")) or [{}]:
            with report.row(where):
                if problem:
                    raise RowError(problem)
                yield where, _utterance(_nemo_fields(row, segment, recordings), files, folders, language, report)


def _recordings_beside(manifest: Path) -> dict[str, dict]:
    if (partner := partner_of(manifest)) is None:
        example = manifest.name.replace("supervisions", "recordings")
        name = "a file with recordings in its name" if example == manifest.name else example
        raise ValueError(f"{manifest}: has supervisions, whose recordings are missing; put {name} beside it")
    return {str(row["id"]): row for _, row, problem in rows_of(partner, RECORDING_FIELDS) if not problem}


def _nemo_fields(row: dict, segment: dict, recordings: Mapping[str, dict]) -> dict:
    """Returns the fields of NeMo for a row of any manifest, or for one supervision of a cut."""
    if row["audio_filepath"] is not None or row["audio_filename"] is not None:
        return row | {"audio_filepath": row["audio_filepath"] or row["audio_filename"]}
    if row["recording_id"] is not None:
        if (recording := recordings.get(str(row["recording_id"]))) is None:
            raise RowError("no recording", f"recording_id is {row['recording_id']!r}")
        return _of_lhotse(recording, row, _seconds(row, "start"), _seconds(row, "duration"), row["channel"])
    if row["type"] is None and row["sources"] is not None:
        return _of_lhotse(row, {"id": row["id"]}, 0.0)
    if row["type"] not in CUTS or not isinstance(row["recording"], dict):
        kind = f"a {row['type']}" if row["type"] else "neither NeMo's nor lhotse's"
        raise RowError("no audio that can be read", f"{kind}; audio_filepath and {' and '.join(CUTS)} are accepted")
    if not isinstance(segment, dict):
        raise RowError("no supervision", f"a {type(segment).__name__}")
    start = _seconds(row, "start") + (_seconds(segment, "start") if segment else 0.0)
    duration, channel = _seconds(segment or row, "duration"), segment.get("channel", row["channel"])
    return _of_lhotse(row["recording"], segment or {"id": row["id"]}, start, duration, channel)


def _of_lhotse(
    recording: Mapping, supervision: Mapping, start: float, duration: float | None = None, channel: object = None
) -> dict:
    """Returns the fields of NeMo for a part of a recording of lhotse.

    Args:
        start, duration: of the part in the recording, in seconds.
        channel: a number or a list of them; None is all channels.
    """
    wanted = _channels(channel)
    sources = [each for each in _listed(recording.get("sources")) if isinstance(each, dict)]
    sources = [each for each in sources if not wanted or not wanted.isdisjoint(_channels(each.get("channels")))]
    if len(sources) != 1 or sources[0].get("type") != "file":
        kinds = ", ".join(str(each.get("type")) for each in sources) or f"no file has channel {channel}"
        raise RowError("its recording is not one file", kinds)
    if wanted and wanted != _channels(sources[0].get("channels")):
        raise RowError("one channel of several", f"channel {channel}; make files of single channels")
    for change in _listed(recording.get("transforms")):
        if (name := change.get("name") if isinstance(change, dict) else change) != "Resample":
            raise RowError("lhotse changes its audio", str(name))
    custom = supervision.get("custom")
    return {
        **supervision,
        "audio_filepath": sources[0].get("source"),
        "offset": round(start, DECIMALS),
        "duration": duration,
        "text_source": custom.get("text_source") if isinstance(custom, dict) else None,
    }


def _listed(value: object) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def _channels(value: object) -> set[str]:
    return set(map(str, _listed(value)))


def _seconds(row: Mapping, name: str) -> float:
    try:
        return float(row.get(name))  # also below 0, for a supervision that begins before its cut
    except (TypeError, ValueError):
        raise RowError(NO_PART, f"{name} is {row.get(name)!r}, not a number of seconds") from None


def _utterance(fields: Mapping, files: FileNames, folders: tuple, language: str | None, report: ReadingReport) -> dict:
    texts = {name: _text(fields, name) for name in ("audio_filepath", "id", "text", "speaker", "text_source")}
    languages = [_text(fields, name) for name in LANGUAGE_FIELDS]
    locale = noted_locale(language or next(filter(None, languages), None), report)
    if not locale:
        raise RowError("no language")
    *_, spoken, written = languages
    if spoken and written and to_locale(spoken) != to_locale(written):
        raise RowError("its text is a translation", f"from {spoken} to {written}")
    if not texts["text"] and fields.get("text_filepath"):
        raise RowError("its text is in another file", repr(fields["text_filepath"]))
    if not (path := texts["audio_filepath"]):
        raise RowError("no path")
    start, end = part_of({"offset": fields.get("offset") or 0.0, "duration": fields.get("duration")})
    end = None if end is None else round(end, DECIMALS)
    part = f"_{start}-{'' if end is None else end}" if fields.get("offset") else ""
    name = texts["id"] or os.path.splitext(path)[0] + part
    audio = {"path": files.locate(local_path(path), folders), "start": start, "end": end}
    utterance = human_utterance(name, audio, locale, normalize_text(texts["text"] or ""), texts["speaker"] or None)
    utterance["end_is_claim"] = fields.get("offset") is None
    return utterance | {"source": texts["text_source"] or utterance["source"]} if utterance["text"] else utterance


def _text(fields: Mapping, name: str) -> str | None:
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value
    if value != value:  # NaN, which programs write for no value
        return None
    raise RowError(f"{name} is no text", f"a {type(value).__name__}")
