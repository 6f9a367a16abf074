"""Reads who speaks when in a recording, and what: ELAN's eaf, Praat's TextGrid, WebVTT, SubRip and RTTM."""

from __future__ import annotations

import html
import io
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from ...installation import install_command
from ..reading import RowError
from ..recordings import fold_name
from ..tables import read_text

SUFFIXES = (".eaf", ".textgrid", ".vtt", ".srt", ".rttm")

# `file:place`, and either what is there, as `start`, `end` or `duration`, `text` and `speaker`, or why it is left out.
Interval = tuple[str, dict | RowError]

# A string, a flag or a number of Praat's text files between white space; all other words are ignored, and so is what
# follows an exclamation mark (Praat's manual, "TextGrid file formats").
PRAAT_TOKEN = re.compile(r'(?<!\S)(?:"([^"]*(?:""[^"]*)*)"|(<\w+>)|([-+]?\d[\d.]*(?:[eE][-+]?\d+)?)(?!\S)|!.*)')
TRIGRAPH = re.compile(r"\\\S\S")  # `\\a"`, an ä of Praat from before Unicode
CUE_START = re.compile(r"^\s*(\d[\d:.,]*)\s*-->", re.MULTILINE)
VOICE = re.compile(r"<v[^\s>]*\s+([^>]+)>")
OVERRIDE = re.compile(r"\{\\[^}]*\}")  # `{\an8}`, which players of SubRip take for a place on the screen
NOTHING = "<NA>"  # of a column of RTTM
NAMES_SHOWN = 10


def read_segmentation(
    path: Path, recording: str, tiers: Sequence[str] = (), encoding: str | None = None
) -> Iterator[Interval]:
    """Yields the intervals of an eaf, TextGrid, vtt or srt file.

    Args:
        recording: name of the recording, for which an eaf may have an offset.
        tiers: names of the tiers to read, or of types of tiers in an eaf. By default, the only interval tier of a
            TextGrid that has texts; the only top tier of an eaf that has annotations, or all top tiers if they are of
            one type and of different participants.
        encoding: of a TextGrid, vtt or srt file without a byte order mark. By default UTF-8; a TextGrid that is not
            UTF-8 is read as windows-1252, as by Praat.

    Raises:
        ValueError: for a file that is damaged or in another encoding, and for tiers that are missing or must be named.
        ImportError: for subtitles, without the extra `annotations`.
    """
    suffix = path.suffix.lower()
    if suffix == ".eaf":
        yield from _read_eaf(path, recording, tiers)
    elif suffix == ".textgrid":
        yield from _read_textgrid(path, tiers, encoding)
    else:
        yield from _read_subtitles(path, suffix, encoding)


def read_rttm(path: Path, encoding: str | None = None) -> Iterator[tuple[str, str, dict | RowError]]:
    """Yields `file:line`, the name of a recording, and an interval for each line `SPEAKER` of an RTTM file.

    A line is `SPEAKER recording channel start duration <NA> <NA> speaker <NA> <NA>`. Lines of other types are left
    out. Names of speakers are unique in their recording, so it becomes a part of theirs.

    Raises:
        ValueError: for a file in another encoding than UTF-8 or the given one.
    """
    for number, line in enumerate(read_text(path, encoding).splitlines(), start=1):
        kind, *fields = line.split() or [";;"]
        if kind != "SPEAKER":
            continue
        if len(fields) < 7:
            problem = RowError("not a line of RTTM", f"{len(fields) + 1} columns; 9 or 10 are accepted")
            yield f"{path}:{number}", "", problem
            continue
        recording, _, start, duration, text, _, speaker = fields[:7]
        turn = {"start": start, "duration": duration, "text": "" if text == NOTHING else text}
        turn["speaker"] = None if speaker == NOTHING else f"{recording}/{speaker}"
        yield f"{path}:{number}", recording, turn


def media_of_eaf(path: Path) -> list[str]:
    """Returns the recordings that an eaf names, as paths relative to it, or as names alone; none if it is damaged."""
    try:
        with open(path, "rb") as file:
            for _, element in ElementTree.iterparse(file):
                if element.tag == "HEADER":
                    return [link for media in element.iter("MEDIA_DESCRIPTOR") for link in _links(media)]
    except (ElementTree.ParseError, LookupError, ValueError, OSError):
        pass  # `read_segmentation` says so
    return []


def _links(media: ElementTree.Element) -> list[str]:
    """Returns the relative path of an eaf's recording, if it is one, and its name."""
    relative, absolute = (unquote(media.get(name) or "") for name in ("RELATIVE_MEDIA_URL", "MEDIA_URL"))
    names = [re.split(r"[/\\]", link)[-1] for link in (relative, absolute)]
    return [*dict.fromkeys(filter(None, ["" if ":" in relative else relative, *names]))]


# ------------------------------------------------------------------------------------------------------------- ELAN


def _read_eaf(path: Path, recording: str, tiers: Sequence[str]) -> Iterator[Interval]:
    try:
        document = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two for an unknown encoding
        raise ValueError(f"is damaged, or no XML: {error}") from error
    header = document.find("HEADER")
    if document.tag != "ANNOTATION_DOCUMENT" or header is None:
        raise ValueError(f"is no document of ELAN, but XML with the element {document.tag}")
    if (unit := header.get("TIME_UNITS", "milliseconds")) != "milliseconds":
        raise ValueError(f"has times in {unit}; milliseconds are accepted, so save it with ELAN")
    offset = _offset(header, recording)
    slots = {slot.get("TIME_SLOT_ID"): slot.get("TIME_VALUE") for slot in document.iter("TIME_SLOT")}
    aligned = {each.get("ANNOTATION_ID"): each for each in document.iter("ALIGNABLE_ANNOTATION")}
    parents = {each.get("ANNOTATION_ID"): each.get("ANNOTATION_REF") for each in document.iter("REF_ANNOTATION")}
    by_name = {tier.get("TIER_ID"): tier for tier in document.iter("TIER")}
    chosen = _eaf_tiers(by_name, tiers)
    for name in chosen:
        speaker = _participant(name, by_name) or (name if len(chosen) > 1 else None)
        texts: dict[str | None, list[str]] = {}  # of each annotation with times: those of its words, for instance
        for annotation in _in_order([each for box in by_name[name].iter("ANNOTATION") for each in box]):
            place, steps = annotation.get("ANNOTATION_ID"), 0
            while place in parents and steps < len(by_name):  # no tier is as deep
                place, steps = parents[place], steps + 1
            texts.setdefault(place, []).append(annotation.findtext("ANNOTATION_VALUE") or "")
        for place, words in texts.items():
            where = f"{path}:{name}:{place}"
            refs = [aligned[place].get(f"TIME_SLOT_REF{end}") for end in (1, 2)] if place in aligned else []
            times = [slots.get(ref) for ref in refs]
            if None in times or not times:
                yield where, RowError("annotation without times", "align it in ELAN, or name the tier above it")
                continue
            try:
                start, end = (_shifted(time, offset) for time in times)
            except (ValueError, OverflowError):
                yield where, RowError("annotation without times", f"{times[0]!r} and {times[1]!r} are no milliseconds")
                continue
            yield where, {"start": start, "end": end, "text": " ".join(words), "speaker": speaker}


def _shifted(milliseconds: str, offset: int) -> float:
    return (int(milliseconds) + offset) / 1000


def _offset(header: ElementTree.Element, recording: str) -> int:
    """Returns the milliseconds of a recording before the annotations' zero; ELAN synchronizes several media so."""
    media = list(header.iter("MEDIA_DESCRIPTOR"))
    stem = fold_name(Path(recording).stem)
    names = [{fold_name(re.split(r"[/\\]", link)[-1]) for link in _links(each)} for each in media]
    same_name = [each for each, known in zip(media, names, strict=True) if fold_name(recording) in known]
    same_stem = [each for each, known in zip(media, names, strict=True) if stem in {Path(name).stem for name in known}]
    offsets = {each.get("TIME_ORIGIN") or "0" for each in same_name or same_stem or media} or {"0"}
    if len(offsets) > 1 or not re.fullmatch(r"-?\d+", next(iter(offsets))):
        raise ValueError(f"has the offsets {', '.join(sorted(offsets))}, and names no {recording}; link it in ELAN")
    return int(offsets.pop())


def _eaf_tiers(by_name: dict[str, ElementTree.Element], wanted: Sequence[str]) -> list[str]:
    if wanted:
        types = {tier.get("LINGUISTIC_TYPE_REF") for tier in by_name.values()}
        chosen = [name for name, tier in by_name.items() if {name, tier.get("LINGUISTIC_TYPE_REF")} & {*wanted}]
        return chosen or _refuse_tiers("no tier or type", wanted, [*by_name, *sorted(types - {None, *by_name})])
    filled = {name: tier for name, tier in by_name.items() if tier.find("ANNOTATION") is not None}
    top = [name for name, tier in filled.items() if not tier.get("PARENT_REF")]
    participants = [filled[name].get("PARTICIPANT") or "" for name in top]
    are_speakers = all(participants) and len({*participants}) == len(top)
    of_one_type = len({filled[name].get("LINGUISTIC_TYPE_REF") for name in top}) == 1
    if len(top) > 1 and not (are_speakers and of_one_type):
        raise ValueError(_must_choose(top))
    # The texts may be below a top tier of mere numbers, or without texts.
    if _have_sentences([filled[name] for name in filled if name not in top]):
        if not _have_sentences([filled[name] for name in top]):
            raise ValueError(_must_choose([*filled]))
    return top


def _have_sentences(tiers: list[ElementTree.Element]) -> bool:
    """Returns whether any text of the tiers has several words."""
    texts = ((value.text or "").split() for tier in tiers for value in tier.iter("ANNOTATION_VALUE"))
    return any(len(words) > 1 for words in texts)


def _participant(name: str, by_name: dict[str, ElementTree.Element]) -> str | None:
    """Returns the participant of a tier, or else of the tiers above it."""
    tier = by_name.get(name)
    for _ in by_name:  # no more, because a damaged file may lead round in a circle
        if tier is None or tier.get("PARTICIPANT"):
            break
        tier = by_name.get(tier.get("PARENT_REF"))
    return None if tier is None else tier.get("PARTICIPANT") or None


def _in_order(annotations: list[ElementTree.Element]) -> list[ElementTree.Element]:
    """Returns annotations, each behind its PREVIOUS_ANNOTATION, as the words of a sentence."""
    following = {each.get("PREVIOUS_ANNOTATION"): each for each in annotations if each.get("PREVIOUS_ANNOTATION")}
    ranks: dict[str | None, int] = {}
    for first in annotations if following else ():
        annotation, rank = None if first.get("PREVIOUS_ANNOTATION") else first, 0
        while annotation is not None:
            ranks[annotation.get("ANNOTATION_ID")] = rank
            annotation, rank = following.pop(annotation.get("ANNOTATION_ID"), None), rank + 1
    return sorted(annotations, key=lambda each: ranks.get(each.get("ANNOTATION_ID"), 0))


def _refuse_tiers(what: str, wanted: Sequence[str], known: Sequence[str]) -> list[str]:
    raise ValueError(f"{what} {', '.join(wanted)}; there are {shortened(known) or 'none'}")


def _must_choose(tiers: Sequence[str]) -> str:
    return f"has the tiers {shortened(tiers)}; choose by --tier which of them are read"


def shortened(names: Sequence[str]) -> str:
    """Returns names in one line; of many only the first."""
    return ", ".join([*names[:NAMES_SHOWN], *["..."] * (len(names) > NAMES_SHOWN)])


# ------------------------------------------------------------------------------------------------------------ Praat


def _read_textgrid(path: Path, tiers: Sequence[str], encoding: str | None) -> Iterator[Interval]:
    intervals, points = _textgrid(path, encoding)
    names = list(dict.fromkeys(name for name, _ in intervals))
    if tiers and (wrong := sorted({*tiers} & {*points} - {*names})):
        raise ValueError(f"tier {', '.join(wrong)} has points, which are no intervals; there are {shortened(names)}")
    with_text = [name for name, entries in intervals if any(text.strip() for *_, text in entries)]
    chosen = [name for name in names if name in tiers] if tiers else with_text
    if tiers and not chosen:
        _refuse_tiers("no tier", tiers, names)
    if len(chosen) > 1 and not tiers:
        raise ValueError(_must_choose(chosen))
    if not names:
        raise ValueError(f"has no interval tier; there are the point tiers {shortened(points) or 'none'}")
    for name, entries in intervals:
        for number, (start, end, text) in enumerate(entries if name in chosen else (), start=1):
            where, speaker = f"{path}:{name}:{number}", name if len(chosen) > 1 else None
            if trigraph := TRIGRAPH.search(text):
                yield (
                    where,
                    RowError("letters as Praat's symbols", f"{trigraph[0]!r}; use Convert to Unicode in Praat"),
                )
            elif text.strip():  # an interval without a text is silence: a tier has no gaps
                yield where, {"start": start, "end": end, "text": text, "speaker": speaker}


def _textgrid(path: Path, encoding: str | None) -> tuple[list[tuple[str, list[tuple[float, float, str]]]], list[str]]:
    """Returns the interval tiers of a TextGrid with their `start end text`, and the names of its point tiers."""
    content = path.read_bytes()
    if content.startswith(b"ooBinaryFile"):
        raise ValueError("is a binary file of Praat; save it as text file")
    try:
        text = read_text(path, encoding)
    except ValueError:
        if encoding or b"\0" in content or content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise
        text = read_text(path, "cp1252")  # as Praat does with files from before Unicode
    tokens = PRAAT_TOKEN.finditer(text)

    def read(kind: int) -> str:
        token = next((token for token in tokens if token.lastindex), None)
        if token is None or token.lastindex != kind:
            kinds, found = {1: "a text", 2: "a flag", 3: "a number"}, token[0][:40] if token else "its end"
            raise ValueError(f"is no TextGrid, or is damaged: there is {found} instead of {kinds[kind]}")
        return token[kind].replace('""', '"')

    def number() -> float:
        if not math.isfinite(value := float(read(3))):
            raise ValueError(f"is no TextGrid, or is damaged: it has the number {value}")
        return value

    if not read(1).startswith("ooTextFile") or (kind := read(1)) != "TextGrid":
        raise ValueError("is no TextGrid, but another file of Praat")
    number(), number()
    intervals: list[tuple[str, list[tuple[float, float, str]]]] = []
    points: list[str] = []
    for _ in range(int(number()) if read(2) == "<exists>" else 0):
        kind, name = read(1), read(1)
        number(), number()
        if kind == "IntervalTier":
            intervals.append((name, [(number(), number(), read(1)) for _ in range(int(number()))]))
        else:
            points.append(name)
            for _ in range(int(number())):
                number(), read(1)
    return intervals, points


# -------------------------------------------------------------------------------------------------------- subtitles


def _read_subtitles(path: Path, suffix: str, encoding: str | None) -> Iterator[Interval]:
    try:
        from webvtt import WebVTT
        from webvtt.errors import MalformedCaptionError, MalformedFileError
    except ImportError as error:
        message = f"{path}: subtitles are read by webvtt-py, which comes with {install_command('annotations')}"
        raise ImportError(message) from error
    text = read_text(path, encoding)
    try:
        captions = WebVTT.from_buffer(io.StringIO(text.lstrip()), format=suffix[1:]).captions
    except (MalformedFileError, MalformedCaptionError) as error:
        kind = "WebVTT" if suffix == ".vtt" else "SubRip"
        raise ValueError(f"is no {kind} file, or is damaged: {error}") from error
    starts = set()
    for caption in captions:
        spoken = html.unescape(OVERRIDE.sub("", caption.text)).strip()
        where, voices = f"{path}:{caption.start}", {name.strip() for name in VOICE.findall(caption.raw_text)}
        if spoken:
            speaker = html.unescape(voices.pop()) if len(voices) == 1 else None
            start, end = (_seconds(time) for time in (caption.start, caption.end))
            starts.add(start)
            yield where, {"start": start, "end": end, "text": spoken, "speaker": speaker}
    for cue in CUE_START.finditer(text):
        if _seconds(cue[1]) not in starts:
            line = text.count("\n", 0, cue.start(1)) + 1
            yield f"{path}:{line}", RowError("cue without a text, or damaged", f"it starts at {cue[1]}")


def _seconds(time: str) -> float:
    """Returns the seconds of `hours:minutes:seconds` or `minutes:seconds`, or NaN."""
    try:
        parts = [float(part) for part in time.replace(",", ".").split(":")]
    except ValueError:
        return math.nan
    return round(sum(part * 60**power for power, part in enumerate(reversed(parts))), 3)
