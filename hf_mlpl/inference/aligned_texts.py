"""Pairs recordings with their texts, formats their alignments, and cuts them into utterances for training."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Features, Value

from ..audio.reading import looks_like_audio
from ..data.utterances import FEATURES
from ..model.text import encoding_of
from .alignment import Alignment, Segment, join_words
from .subtitles import to_srt, to_vtt
from .tiers import DECIMALS, Interval, to_ctm, to_textgrid
from .transcription import Recording, ctm_name, find_recordings, printable, spelled_as_on_disk

COLUMNS = ("path", "start", "end", "score", "text")  # of a table
SCORED_FEATURES = Features({**FEATURES, "score": Value("float64")})
PADDING_SECONDS = 0.25  # before the first and after the last word of an utterance, at most

# ------------------------------------------------------------------------------------------------ recordings and texts


def pair_texts(paths: Sequence[str | os.PathLike]) -> tuple[list[Recording], list[Path], list[Path]]:
    """
    Returns recordings with their `text`, recordings in folders without one, and the other files in folders.

    A path is a recording, the text of the recording before it, or a folder. A recording in a folder, and one that no
    text follows, has the text of the file beside it that has its name and the suffix `.txt`. `-` is standard input,
    after a recording its text. A recording that is named and has no text gets a `problem`.

    Raises:
        ValueError: for a text that follows no recording, for a recording with two texts, and for `-` more than once.
    """
    if [os.fspath(path) for path in paths].count("-") > 1:
        raise ValueError("-: standard input can be read once only; name files for the others")
    texts: dict[str, Path] = {}  # of named recordings, by their real paths
    audio: list[str] = []
    named: set[str] = set()
    waiting = None  # the real path of the recording that a text may follow
    for name in [os.fspath(path) for path in paths]:
        path = spelled_as_on_disk(Path(name))
        if not _is_text(path, follows_recording=waiting is not None):
            audio.append(name)
            waiting = None if path.is_dir() else os.path.realpath(path)
            named |= {waiting} if waiting else set()
        elif waiting is None:
            raise ValueError(f"{printable(path)}: a text follows its recording, but no recording is before it")
        elif texts.setdefault(waiting, path) != path:
            raise ValueError(f"{printable(path)}: the recording has a text already, {printable(texts[waiting])}")
        else:
            waiting = None
    recordings, others = find_recordings(audio)
    for recording in recordings:
        path = Path(str(recording.path))
        real_path, beside = os.path.realpath(path), path.with_suffix(".txt")
        recording.text = texts.get(real_path) or (beside if recording.source is None and beside.is_file() else None)
        if recording.problem is None and recording.text is None and real_path in named:
            recording.problem = f"{recording.name}: has no text; name it after the recording, or call it {beside.name}"
    aligned = [recording for recording in recordings if recording.text is not None or recording.problem is not None]
    without_text = [Path(str(r.path)) for r in recordings if r.text is None and r.problem is None]
    used = {recording.text for recording in aligned}
    return aligned, without_text, [path for path in others if path not in used]


def _is_text(path: Path, follows_recording: bool) -> bool:
    if path.suffix.lower() == ".txt":
        return True
    return follows_recording and (os.fspath(path) == "-" or path.is_file() and not looks_like_audio(path))


def read_segments(path: Path, by_paragraph: bool = False) -> list[str]:
    """
    Returns the lines of a text file, or its paragraphs, between which lines are empty. `-` is standard input.

    Raises:
        OSError: for a file that cannot be read.
        ValueError: for one that is neither UTF-8 nor UTF-16 with a byte order mark.
    """
    try:
        content = sys.stdin.buffer.read() if os.fspath(path) == "-" else path.read_bytes()
        text = content.decode(encoding_of(content))
    except OSError as error:
        raise OSError(f"{printable(path)}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{printable(path)}: is not UTF-8; convert it, for instance with iconv") from error
    if "\0" in text:
        raise ValueError(f"{printable(path)}: has NUL characters; is it text?")
    return re.split(r"\n\s*\n", text) if by_paragraph else text.splitlines()


# ------------------------------------------------------------------------------------------------------------- formats


def format_alignment(recording: Recording, alignment: Alignment, output_format: str, with_header: bool = True) -> str:
    """
    Formats an alignment, with a line feed at its end.

    `tsv` is a table of segments with the columns `COLUMNS`, `json` one line; `ctm` is a line for each word, with its
    score; `textgrid` has the tiers `segments` and `words`; `srt` and `vtt` are subtitles, none of which has words of
    two segments. Times are seconds.

    Args:
        with_header: of a table.
    """
    if output_format in ("srt", "vtt"):
        return {"srt": to_srt, "vtt": to_vtt}[output_format](_characters(alignment), alignment.seconds)
    if output_format == "ctm":
        return to_ctm(alignment.words, ctm_name(recording))
    if output_format == "textgrid":
        tiers = {"segments": _with_time(alignment.segments), "words": _with_time(alignment.words)}
        return to_textgrid(tiers, alignment.seconds)
    if output_format == "tsv":
        rows = ((recording.name, *_rounded(segment).values(), segment.text) for segment in alignment.segments)
        table = [COLUMNS, *rows] if with_header else rows
        return "".join("\t".join("" if cell is None else str(cell) for cell in row) + "\n" for row in table)
    content = {"file": recording.name, "seconds": round(alignment.seconds, DECIMALS)}
    if alignment.language is not None:
        content |= {"language": alignment.language, "language_probability": round(alignment.language_probability, 4)}
    content["score"] = _rounded_score(alignment.score)
    content["unknown_characters"] = dict(alignment.unknown_characters.most_common())
    content["segments"] = [
        {
            "text": segment.text,
            **_rounded(segment),
            "words": [{"word": word.text, **_rounded(word)} for word in segment.words],
        }
        for segment in alignment.segments
    ]
    return json.dumps(content, ensure_ascii=False) + "\n"


def _rounded(interval: Interval) -> dict[str, float | None]:
    start, end = round(interval.start, DECIMALS), round(interval.end, DECIMALS)
    return {"start": start, "end": end, "score": _rounded_score(interval.confidence)}


def _rounded_score(score: float | None) -> float | None:
    return None if score is None else round(score, 4)


def _characters(alignment: Alignment) -> list[dict]:
    """Returns the characters of a text with their times, as the pipeline has them, and lines between segments."""
    characters = []
    for segment in alignment.segments:
        for word in segment.words:
            parts = [{"text": part.text, "timestamp": (part.start, part.end)} for part in word.characters]
            characters += [*parts, {"text": " ", "timestamp": (word.end, word.end)}]
        characters[-1]["text"] = "\n"
    return characters


def _with_time(intervals: Sequence[Interval]) -> list[Interval]:
    """Joins intervals that are shorter than a millisecond with those before or after them.

    Only words without letters that the model knows are so short, where no time is left between their neighbours.
    """
    joined: list[Interval] = []
    for interval in intervals:
        last = joined[-1] if joined else interval
        if joined and min(round(each.end - each.start, DECIMALS) for each in (last, interval)) <= 0:
            joined[-1] = Interval(last.start, interval.end, f"{last.text} {interval.text}")
        else:
            joined.append(interval)
    return joined


# ---------------------------------------------------------------------------------------------------------- utterances


@dataclass
class UtteranceReport:
    """Counts utterances, their seconds by language, and those that are left out by reason."""

    utterances: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    left_out: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        hours = ", ".join(f"{seconds / 3600:.2f} h of {language}" for language, seconds in self.seconds.items())
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.most_common())
        kept = ", ".join(filter(None, [f"{self.utterances} utterances", hours]))
        return f"{kept}; left out: {reasons}" if reasons else kept


def aligned_utterances(
    recording: Recording,
    alignment: Alignment,
    report: UtteranceReport,
    language: str,
    max_seconds: float,
    min_score: float = 0.0,
) -> Iterator[dict]:
    """
    Yields segments as rows of an utterance file with a `score`, each with at most a quarter of a second of the pauses
    around it, and at most half of them.

    Longer segments become as few utterances as possible, cut where the pauses between words are widest together.

    Args:
        report: counts the utterances, and what is left out: utterances whose score is below `min_score`, those
            without letters that the model knows, and words that take longer than `max_seconds`.
    """
    path = os.path.abspath(str(recording.path))
    for utterance in _cut_utterances(alignment, max_seconds):
        seconds = utterance.end - utterance.start
        if utterance.confidence is None:
            report.left_out["without letters that the model knows"] += 1
        elif seconds > max_seconds:
            report.left_out[f"longer than {max_seconds:g} s"] += 1
        elif utterance.confidence < min_score:
            report.left_out[f"score below {min_score:g}"] += 1
        else:
            report.utterances += 1
            report.seconds[language] += seconds
            yield {
                "id": f"{recording.output.as_posix()}:{utterance.start:.{DECIMALS}f}-{utterance.end:.{DECIMALS}f}",
                "audio": {"path": path, "offset": None, "size": None, "start": utterance.start, "end": utterance.end},
                "duration_seconds": seconds,
                "language": language,
                "text": utterance.text,
                "speaker": None,
                "source": "human",
                "score": utterance.confidence,
            }


def _cut_utterances(alignment: Alignment, max_seconds: float) -> Iterator[Segment]:
    """Yields segments, and parts of those that are too long, with pauses around them."""
    words = alignment.words
    pauses = [after.start - before.end for before, after in zip(words, words[1:], strict=False)]
    # The pauses at both ends of the recording belong to one utterance alone.
    before = [2 * words[0].start, *pauses]
    after = [*pauses, 2 * (alignment.seconds - words[-1].end)]
    padded = [
        (word.start - min(first / 2, PADDING_SECONDS), word.end + min(second / 2, PADDING_SECONDS))
        for word, first, second in zip(words, before, after, strict=True)
    ]
    starts, ends = ([round(second, DECIMALS) for second in seconds] for seconds in zip(*padded, strict=True))
    first = 0
    for segment in alignment.segments:
        last = first + len(segment.words)
        # The fewest utterances of the words from `first` on, then the widest pauses between them, and the last cut
        best = {first: (0, 0.0, first)}
        for end in range(first + 1, last + 1):
            choices = []
            for start in range(end - 1, first - 1, -1):
                if start < end - 1 and ends[end - 1] - starts[start] > max_seconds:
                    break
                count, width, _ = best[start]
                choices.append((count + 1, width - (pauses[start - 1] if start > first else 0.0), start))
            best[end] = min(choices)
        cuts = [last]
        while cuts[-1] > first:
            cuts.append(best[cuts[-1]][2])
        for start, end in zip(cuts[:0:-1], cuts[-2::-1], strict=True):
            joined = join_words(words[start:end])
            yield Segment(starts[start], ends[end - 1], joined.text, joined.confidence, joined.words)
        first = last
