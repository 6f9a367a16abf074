"""Shows a transcript beside its recording: words in the colour of their confidence, which play where they are."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean

import regex
from markupsafe import Markup

from .document import TEMPLATES, is_language_tag, render

# Letters of scripts that are written without spaces between words
UNSPACED = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
)
MEDIA_TYPES = {"json": "application/json", "vtt": "text/vtt"}


@dataclass(frozen=True)
class Word:
    """Holds a word, or a character of a script without spaces, and the text between it and the one before.

    Args:
        start, end: seconds.
        confidence: its probability, None where it is not known.
    """

    gap: str
    text: str
    start: float
    end: float
    confidence: float | None


def transcript_view(
    result: Mapping,
    audio: str,
    seconds: float,
    *,
    name: str = "",
    spectrogram: Sequence[str] = (),
    downloads: Mapping[str, str] | None = None,
) -> Markup:
    """
    Returns a recording with its transcript, as `attachTranscript` of `player.js` expects it.

    Without the script, the recording plays and the text can be read.

    Args:
        result: of a speech recognition pipeline: `text`; `chunks` of characters or words with their `timestamp` and,
            where it is known, `confidence`; `language` and `language_probability`, or `languages`, the likeliest.
        audio: address of the recording, from `audio_source` or of a file.
        seconds: duration of the recording.
        name: of the recording, the heading; without it there is none.
        spectrogram: pictures from `Spectrogram`.
        downloads: contents of files to download, by their names.
    """
    words = list(_words(result["text"], result.get("chunks", ())))
    shown = "".join(word.gap + word.text for word in words)
    languages = result.get("languages") or []
    if not languages and result.get("language"):
        languages = [{"language": result["language"], "probability": result["language_probability"]}]
    tag = languages[0]["language"] if languages else ""
    return render(
        TEMPLATES / "transcript.html",
        words=words,
        text=result["text"],
        rest=result["text"].removeprefix(shown),
        has_confidence=any(word.confidence is not None for word in words),
        languages=languages,
        tag=tag if is_language_tag(tag) else "",
        audio=audio,
        seconds=seconds,
        name=name,
        tiles=list(spectrogram),
        downloads=[(name, _address(name, content)) for name, content in (downloads or {}).items()],
    )


def _words(text: str, chunks: Sequence[Mapping]) -> Iterator[Word]:
    """Yields words and the text before each, so that all together are the text up to its last word."""
    group: list[Word] = []  # chunks of one word
    position = 0
    for chunk in chunks:
        if not chunk["text"].strip():
            continue
        place = text.find(chunk["text"], position)
        gap = text[position:place] if place >= 0 else " "
        position = place + len(chunk["text"]) if place >= 0 else position
        start, end = map(float, chunk["timestamp"])
        part = Word(gap, chunk["text"], start, end, chunk.get("confidence"))
        if group and (gap or not _continues(group[-1].text, part.text)):
            yield _join(group)
            group = []
        group.append(part)
    if group:
        yield _join(group)


def _continues(before: str, text: str) -> bool:
    """Returns whether a character belongs to the same word as the one before, or is a mark on it."""
    if len(regex.findall(r"\X", before[-1] + text)) == len(regex.findall(r"\X", text)):
        return True
    return not (UNSPACED.search(before) or UNSPACED.search(text))


def _join(parts: Sequence[Word]) -> Word:
    known = [max(part.confidence, 1e-9) for part in parts if part.confidence is not None]
    confidence = geometric_mean(known) if known else None
    text = "".join(part.text for part in parts)
    return Word(parts[0].gap, text, parts[0].start, parts[-1].end, confidence)


def _address(name: str, content: str) -> str:
    media_type = MEDIA_TYPES.get(name.rpartition(".")[2], "text/plain")
    return f"data:{media_type};charset=utf-8;base64,{base64.b64encode(content.encode()).decode()}"
