"""Aligns recordings with known texts: finds when each word and each segment is spoken, and how likely it is."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby, islice

import numpy as np
import torch

from ..audio.reading import SAMPLING_RATE, Audio, audio_duration, stream_audio
from ..data.selection import min_ctc_frames
from ..model.modeling_mlpl import MlplForCTC
from ..model.processing_mlpl import MlplProcessor
from ..model.text import WORD_BOUNDARY, normalize_text
from ..model.tokenization_mlpl import MlplTokenizer
from .pieces import PIECE_SECONDS, cut, explain_memory_errors, join_language_log_probs, prefetch
from .tiers import Interval
from .trellis import LabelSpans, viterbi

UNKNOWN_WORD_SECONDS = 0.5  # at most, of a word without letters that the model knows
# CTC marks the frames in which letters are recognised. Words sound before the first and after the last of them: on
# spoken digits, these values made the median errors of starts and ends smallest (docs/align.md).
EARLIER_SECONDS, LATER_SECONDS = 0.03, 0.06
# Of a frame between two segments that has another sound than silence, for instance words that the text lacks. Without
# it, words beside such speech are dragged into it; any value from -0.25 to -1 brought the same result there.
GAP_LOG_PROB = -0.5


@dataclass(frozen=True)
class Word(Interval):
    """Holds a word of the text with its time, and its score as `confidence`.

    The score is the geometric mean of the probabilities that the model gives to the word's letters, over the output
    frames of these letters. A word without letters that the model knows has no score, and lasts half a second at
    most, beside another word of its segment.

    Args:
        characters: parts of the word, each an entry of the tokenizer with the unknown characters after it.
        num_frames: output frames of its letters.
        log_prob: sum of the log-probabilities in these frames.
    """

    characters: tuple[Interval, ...] = ()
    num_frames: int = 0
    log_prob: float = 0.0


@dataclass(frozen=True)
class Segment(Interval):
    """Holds a segment of the text, from the start of its first word to the end of its last.

    Its score, as `confidence`, is the mean over the frames of all its letters.
    """

    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Alignment:
    """Holds the times and scores of a text in a recording.

    Args:
        segments: in the order of the text, without empty ones.
        seconds: duration of the recording.
        unknown_characters: counts the characters that the tokenizer lacks. They are in the words, but were not looked
            for in the recording.
        language: the likeliest language of the recording, None for a model without languages.
        language_probability: its probability.
    """

    segments: list[Segment]
    seconds: float
    unknown_characters: Counter[str]
    language: str | None
    language_probability: float | None

    @property
    def words(self) -> list[Word]:
        return [word for segment in self.segments for word in segment.words]

    @property
    def score(self) -> float | None:
        return score_of(self.words)


def align(
    model: MlplForCTC,
    processor: MlplProcessor,
    audio: Audio,
    text: str | Iterable[str],
    max_batch_seconds: float | None = None,
    progress: Callable[[float], object] | None = None,
) -> Alignment:
    """Finds the time of each word of a text in a recording, which may be hours long.

    The model computes the probabilities of the text's letters in overlapping pieces of the recording. One search, see
    [`~trellis.viterbi`], then finds the likeliest alignment with the whole recording. Silence and noise between the
    words become blanks. Before, between and after segments, there may also be speech that the text lacks.

    Args:
        model: in evaluation mode.
        audio: as for [`~reading.load_audio`].
        text: segments, or a text whose lines are segments.
        max_batch_seconds: audio of one forward; by default 50 on a CPU, and else 200.
        progress: called after each forward with the seconds by which it has advanced.

    Raises:
        AudioError: for a recording that cannot be read.
        MemoryError: for a batch that does not fit into memory.
        ValueError: for a text without characters that the tokenizer knows, and for one that needs more output frames
            than the recording has.
    """
    target = _Target(processor.tokenizer, text.splitlines() if isinstance(text, str) else text)
    classes = np.unique([*target.labels, model.config.blank_token_id])
    *labels, blank = np.searchsorted(classes, [*target.labels, model.config.blank_token_id]).tolist()
    frame_seconds = model.config.inputs_to_logits_ratio / processor.feature_extractor.sampling_rate
    seconds = _short_seconds(audio, target.num_frames * frame_seconds)
    target.check_fits(1 + seconds / frame_seconds, seconds, frame_seconds)  # there are no more frames
    speech = _Speech(model, processor, audio, classes, blank, max_batch_seconds, progress)
    target.check_fits(len(speech.log_probs), speech.seconds, frame_seconds)
    spans = viterbi(speech.log_probs, labels, target.blanks(blank, gap=len(classes)))
    log_probs = _label_log_probs(speech.log_probs, labels, spans)
    words = [
        _place(word, spans, log_probs, frame_seconds, speech.seconds) if word.labels else None for word in target.words
    ]
    placed = _fill(target.words, _widen(words, speech.seconds), speech.seconds)
    segments = []
    for _, run in groupby(zip(target.words, placed, strict=True), lambda pair: pair[0].segment):
        segments.append(join_words([word for _, word in run]))
    return Alignment(segments, speech.seconds, target.unknown_characters, speech.language, speech.language_probability)


def join_words(words: Sequence[Word]) -> Segment:
    """Returns successive words as one segment."""
    text = " ".join(word.text for word in words)
    return Segment(words[0].start, words[-1].end, text, score_of(words), tuple(words))


def score_of(words: Iterable[Word]) -> float | None:
    """Returns the score of words together; None without letters that the model knows."""
    num_frames, log_prob = map(sum, zip((0, 0.0), *((word.num_frames, word.log_prob) for word in words), strict=True))
    return math.exp(log_prob / num_frames) if num_frames else None


# ------------------------------------------------------------------------------------------------------ text to labels


@dataclass(frozen=True)
class _TargetWord:
    segment: int
    text: str
    parts: list[str]  # of `Word.characters`
    labels: range  # positions of its labels


class _Target:
    """Holds the words of a text, and the labels that training would have for the whole text."""

    def __init__(self, tokenizer: MlplTokenizer, segments: Iterable[str]):
        normalized = [segment for segment in map(normalize_text, segments) if segment]
        whole = " ".join(normalized)
        self.unknown_characters = tokenizer.unknown_characters(whole)
        if self.unknown_characters.total() == len(whole.replace(" ", "")):
            raise ValueError(
                f"the text {whole[:30]!r} has no character that the model knows" if whole else "the text is empty"
            )
        tokens = tokenizer.tokenize(whole)
        self.labels: list[int] = tokenizer.convert_tokens_to_ids(tokens)
        self.num_frames = min_ctc_frames(self.labels)  # that it needs
        is_known = cache(lambda word: tokenizer.unknown_characters(word).total() < len(word))
        runs = groupby(range(len(tokens)), lambda i: tokens[i] == WORD_BOUNDARY)
        positions = (list(run) for is_boundary, run in runs if not is_boundary)
        self.words = []
        for number, segment in enumerate(normalized):
            for word in segment.split(" "):
                labels = next(positions) if is_known(word) else []
                parts = _parts(word, [tokens[i] for i in labels]) if labels else [word]
                labels_range = range(labels[0], labels[-1] + 1) if labels else range(0)
                self.words.append(_TargetWord(number, word, parts, labels_range))

    def check_fits(self, num_frames: float, seconds: float, frame_seconds: float) -> None:
        if self.num_frames > num_frames:
            raise ValueError(
                f"the text is too long: its {len(self.labels)} letters and word boundaries take "
                f"{self.num_frames * frame_seconds:.2f} s at least, and the recording has {seconds:.2f} s"
            )

    def blanks(self, blank: int, gap: int) -> list[int]:
        """Returns columns (L + 1,) of the blanks around the labels, `gap` before, between and after segments."""
        columns, end, segment = [blank] * (len(self.labels) + 1), 0, None
        for word in self.words:
            if word.labels:
                if word.segment != segment:
                    columns[end : word.labels.start + 1] = [gap] * (word.labels.start + 1 - end)
                end, segment = word.labels.stop, word.segment
        return columns[:end] + [gap] * (len(columns) - end)


def _parts(word: str, entries: Sequence[str]) -> list[str]:
    """Cuts a word before each of its entries but the first."""
    starts, position = [], 0
    for entry in entries:
        position = word.index(entry, position)  # characters between entries match none
        starts.append(position)
        position += len(entry)
    return [word[start:end] for start, end in zip([0, *starts[1:]], [*starts[1:], len(word)], strict=True)]


# ---------------------------------------------------------------------------------------------- recording to log-probs


def _short_seconds(audio: Audio, enough: float) -> float:
    """Returns the seconds of a file without the model; infinity if its header gives `enough`, and for other audio."""
    if not isinstance(audio, (str, os.PathLike)) or not os.path.isfile(audio) or audio_duration(audio) >= enough:
        return math.inf
    return sum(map(len, stream_audio(audio))) / SAMPLING_RATE  # because a header may give too little


class _Speech:
    """Holds what a model computes from a recording: log-probabilities (T, C + 1) of some classes, and its language.

    The last column is that of frames between segments: of the blank, or of a sound that the text lacks.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: MlplForCTC,
        processor: MlplProcessor,
        audio: Audio,
        classes: np.ndarray,
        blank: int,
        max_batch_seconds: float | None,
        progress: Callable[[float], object] | None,
    ):
        extractor, config = processor.feature_extractor, model.config
        if max_batch_seconds is None:
            max_batch_seconds = 50.0 if model.device.type == "cpu" else 200.0
        size, rate = max(1, int(max_batch_seconds / PIECE_SECONDS)), extractor.sampling_rate
        blocks: list[np.ndarray] = []
        languages: list[torch.Tensor] = []
        self.seconds = 0.0
        with closing(prefetch(cut(stream_audio(audio, rate), rate, config.inputs_to_logits_ratio), size)) as pieces:
            while batch := list(islice(pieces, size)):
                features = extractor(
                    [piece.samples for piece in batch],
                    sampling_rate=rate,
                    return_tensors="pt",
                    return_attention_mask=True,
                )
                with explain_memory_errors(
                    f"a batch of {size} pieces of {PIECE_SECONDS:g} s does not fit into memory; let batches have "
                    "fewer seconds (--batch-seconds, max_batch_seconds)"
                ):
                    output = model(**features.to(model.device))
                lengths = config.num_output_frames(features["attention_mask"].sum(1)).tolist()
                for logits, length, piece in zip(output.logits, lengths, batch, strict=True):
                    middle = logits[piece.left : length - piece.right].float().log_softmax(-1)
                    block = middle[:, classes].cpu().numpy()
                    blocks.append(np.column_stack([block, np.maximum(block[:, blank], GAP_LOG_PROB)]))
                if output.language_log_probs is not None:
                    languages.extend(output.language_log_probs.float().cpu())
                advance = math.fsum(piece.seconds for piece in batch)
                self.seconds += advance
                if progress is not None:
                    progress(advance)
        self.log_probs = np.concatenate(blocks)
        self.language = self.language_probability = None
        if languages:
            log_probs = join_language_log_probs(torch.stack(languages), torch.tensor(list(map(len, blocks))))
            self.language = config.languages[int(log_probs.argmax())]
            self.language_probability = float(log_probs.max().exp())


# ----------------------------------------------------------------------------------------------------- labels to times


def _label_log_probs(log_probs: np.ndarray, labels: Sequence[int], spans: LabelSpans) -> np.ndarray:
    """Returns the sums (L,) of the labels' log-probabilities in their frames."""
    lengths = spans.ends - spans.starts
    offsets = np.cumsum(lengths) - lengths
    frames = np.repeat(spans.starts - offsets, lengths) + np.arange(lengths.sum())
    return np.add.reduceat(log_probs[frames, np.repeat(labels, lengths)].astype(np.float64), offsets)


def _place(word: _TargetWord, spans: LabelSpans, log_probs: np.ndarray, frame_seconds: float, seconds: float) -> Word:
    """Returns a word at the time of its labels."""
    times = [(spans.starts[i] * frame_seconds, min(spans.ends[i] * frame_seconds, seconds)) for i in word.labels]
    characters = tuple(Interval(*time, part) for time, part in zip(times, word.parts, strict=True))
    num_frames = int(sum(spans.ends[i] - spans.starts[i] for i in word.labels))
    log_prob = math.fsum(log_probs[i] for i in word.labels)
    score = math.exp(log_prob / num_frames)
    return Word(times[0][0], times[-1][1], word.text, score, characters, num_frames, log_prob)


def _widen(words: Sequence[Word | None], seconds: float) -> list[Word | None]:
    """Lets words begin earlier and end later than their letters, by half of the pauses at most."""
    widened: list[Word | None] = []
    for before, word, after in zip([None, *words], words, [*words[1:], None], strict=False):
        if word is not None:
            # Words without a time need the pauses beside them.
            earliest = word.start if widened else 0.0
            latest = word.end if len(widened) + 1 < len(words) else seconds
            if before is not None:
                earliest = (before.end + word.start) / 2
            if after is not None:
                latest = (word.end + after.start) / 2
            start, end = max(earliest, word.start - EARLIER_SECONDS), min(latest, word.end + LATER_SECONDS)
            *rest, last = [replace(word.characters[0], start=start), *word.characters[1:]]
            word = replace(word, start=start, end=end, characters=(*rest, replace(last, end=end)))
        widened.append(word)
    return widened


def _fill(targets: Sequence[_TargetWord], words: Sequence[Word | None], seconds: float) -> Iterator[Word]:
    """Yields the words, with times for those that have none.

    These follow the word before them. At the beginning of a segment, they stand before the word after them.
    """
    for is_missing, run in groupby(range(len(words)), lambda i: words[i] is None):
        numbers = list(run)
        if not is_missing:
            yield from (words[i] for i in numbers)
            continue
        before = numbers[0] - 1 if numbers[0] else None
        after = numbers[-1] + 1 if numbers[-1] + 1 < len(words) else None
        start = 0.0 if before is None else words[before].end
        end = seconds if after is None else words[after].start
        leading = []
        if after is not None and (before is None or targets[before].segment < targets[after].segment):
            leading = [i for i in numbers if before is None or targets[i].segment == targets[after].segment]
        trailing = numbers[: len(numbers) - len(leading)]
        middle = (start + end) / 2 if leading and trailing else end if trailing else start
        yield from _spread(targets, trailing, start, min(middle, start + UNKNOWN_WORD_SECONDS * len(trailing)))
        yield from _spread(targets, leading, max(middle, end - UNKNOWN_WORD_SECONDS * len(leading)), end)


def _spread(targets: Sequence[_TargetWord], numbers: Sequence[int], start: float, end: float) -> Iterator[Word]:
    """Yields words without known letters, which share a time."""
    times = np.linspace(start, end, len(numbers) + 1).tolist()
    for i, word_start, word_end in zip(numbers, times, times[1:], strict=False):
        character = Interval(word_start, word_end, targets[i].text)
        yield Word(word_start, word_end, targets[i].text, characters=(character,))
