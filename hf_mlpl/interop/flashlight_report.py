"""Recognises lists of recordings and reports error rates, as flashlight's `fl_asr_test` does.

docs/from_flashlight.md lists the differences.
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

from ..atomic import atomic_write
from ..audio.reading import AudioError, audio_format, load_audio, stream_audio
from ..corpora.flashlight_lists import ListEntry
from ..data.trn import file_name, trn_files
from ..error_line import error_line
from ..inference.pieces import Piece, cut, is_memory_error, prefetch
from ..model.feature_extraction_mlpl import MlplFeatureExtractor
from ..model.missing_model import check_checkpoint, check_model
from ..model.modeling_mlpl import MlplForCTC
from ..model.processing_mlpl import MlplProcessor, check_num_tokens
from ..model.text import WORD_BOUNDARY
from ..model.tokenization_mlpl import MlplTokenizer
from .flashlight import read_checkpoint

BATCH_SECONDS = 60.0  # of audio in one forward, padding counted; a longer recording is alone
BLANK = "#"  # in flashlight's dictionaries, so that a transcript's # is a letter there


def load_acoustic_model(am: str, tokens: str = "", surround: str | None = None) -> tuple[MlplForCTC, MlplProcessor]:
    """Loads a model in evaluation mode and fp32, and its processor.

    Args:
        am: a flashlight checkpoint, or a folder or Hub name of one of our models.
        tokens: a tokens file; needed for a checkpoint, else by default the model's own.
        surround: of the tokenizer; by default as in the checkpoint's flags or in the model's own tokenizer.

    Raises:
        OSError, ValueError: for a file that cannot be read or is no such model, and for more or fewer tokens than the
            CTC head has classes besides the blank.
    """
    if os.path.isfile(am):
        checkpoint = read_checkpoint(am)
        return checkpoint.model, checkpoint.processor(tokens, surround)
    if am.endswith(".bin"):
        check_checkpoint(am, tokens)
    check_model(am)
    model = AutoModelForCTC.from_pretrained(am, dtype=torch.float32)
    if not isinstance(model, MlplForCTC):
        raise ValueError(f"{am}: is a model of another kind, {model.config.model_type}")
    tokenizer = AutoTokenizer.from_pretrained(am, **({} if surround is None else {"surround": surround}))
    if tokens:
        tokenizer = MlplTokenizer(tokens, surround=tokenizer.surround)
    check_num_tokens(tokens or am, tokenizer, model.config)
    return model, MlplProcessor(AutoFeatureExtractor.from_pretrained(am), tokenizer)


@dataclass
class Sample:
    """Holds a recording of a list and the model's output for it.

    Args:
        seconds: duration of the recording.
        sampling_rate, channels: those of the file, before it is resampled and averaged.
        logits: (S, V) in fp32; None for a sample with a `problem`, and on request.
        path: (S,), the best classes, by default those of the logits; None for a sample with a `problem`.
        problem: one line with the file's name and the reason why it cannot be used.
    """

    entry: ListEntry
    seconds: float = 0.0
    sampling_rate: int = 0
    channels: int = 0
    logits: np.ndarray | None = None
    path: np.ndarray | None = None
    problem: str | None = None

    def __post_init__(self):
        if self.path is None and self.logits is not None:
            self.path = self.logits.argmax(-1)

    def duration_problem(self) -> str | None:
        """Describes in one line durations of list and recording that differ by more than 1 s, or a listed 0."""
        listed = self.entry.duration
        if listed > 0 and (abs(listed / 1000 - self.seconds) <= 1 or self.duration_is_in_seconds()):
            return None
        return (
            f"its duration is {listed:.10g} ms in the list, but {1000 * self.seconds:.10g} ms in {self.entry.path}; "
            "only the order depends on it"
        )

    def duration_is_in_seconds(self) -> bool:
        """Detects a list in seconds, as `soxi -D` prints them for the original's notebook, instead of ms."""
        listed = self.entry.duration
        return abs(listed / 1000 - self.seconds) > 1 and abs(listed - self.seconds) <= 0.1


@dataclass
class Part:
    """Holds a sample or a piece of it, with features (T, F); without them the sample has a `problem`."""

    sample: Sample
    piece: Piece | None = None
    features: np.ndarray | None = None


@torch.inference_mode()
def recognize(
    model: MlplForCTC,
    extractor: MlplFeatureExtractor,
    entries: Sequence[ListEntry],
    in_pieces: bool = False,
    with_logits: bool = True,
) -> Iterator[Sample]:
    """Yields the entries' samples in the same order, each with `path` and `logits`, or with a `problem`.

    Neighbouring recordings share a batch, which changes the speed only, and one batch is read ahead.

    Args:
        in_pieces: cuts long recordings, as all other commands do. By default a recording is recognised as a whole, as
            in the original, and memory grows with the square of the longest one.
        with_logits: keeps `logits`, which take most of the memory of long recordings in pieces.
    """
    paths, logits = [], []  # of the pieces of a sample
    for batch in prefetch(_batches(entries, extractor, model.config.inputs_to_logits_ratio if in_pieces else None)):
        for part, middle in zip(batch, _forward(model, extractor, batch), strict=True):
            sample = part.sample
            if middle is not None:
                paths.append(middle.argmax(-1))
                logits += [middle] if with_logits else []
            if part.piece is not None and not part.piece.is_last:
                continue
            if sample.problem is None:
                sample.path = np.concatenate(paths)
                sample.logits = np.concatenate(logits) if with_logits else None
            yield sample
            paths, logits = [], []


def _batches(
    entries: Sequence[ListEntry], extractor: MlplFeatureExtractor, samples_per_frame: int | None
) -> Iterator[list[Part]]:
    """Yields parts of up to `BATCH_SECONDS`; unreadable recordings, and those under 1 s, count as 1 s."""
    frames_per_second: float = extractor.sampling_rate / extractor.hop_length
    batch: list[Part] = []
    longest = 1.0
    for entry in entries:
        for part in _parts(Sample(entry), extractor, samples_per_frame):
            seconds = max(1.0, 0.0 if part.features is None else len(part.features) / frames_per_second)
            longest = max(longest, seconds)
            if batch and longest * (len(batch) + 1) > BATCH_SECONDS:
                yield batch
                batch, longest = [], seconds
            batch.append(part)
    if batch:
        yield batch


def _parts(sample: Sample, extractor: MlplFeatureExtractor, samples_per_frame: int | None) -> Iterator[Part]:
    """Yields a sample in pieces if `samples_per_frame`, the samples of an output frame, is given; else as a whole."""
    path, rate = sample.entry.path, extractor.sampling_rate
    try:
        sample.sampling_rate, sample.channels = audio_format(path)
        if samples_per_frame is None:
            waveform = load_audio(path, rate)
            pieces = [Piece(waveform, 0, 0, True, len(waveform) / rate)]
        else:
            pieces = cut(stream_audio(path, rate), rate, samples_per_frame)
        for piece in pieces:
            sample.seconds += piece.seconds
            features = extractor(piece.samples, sampling_rate=rate)["input_features"][0]
            yield Part(sample, replace(piece, samples=None), features)
    except (OSError, ValueError) as error:
        reason = error_line(error)
        sample.problem = reason if isinstance(error, AudioError) else f"{path}: {reason}"
        yield Part(sample)


def _forward(model: MlplForCTC, extractor: MlplFeatureExtractor, parts: list[Part]) -> list[np.ndarray | None]:
    """Returns logits (S, V) in fp32 of the middle of each part; None for a part whose sample has a `problem`."""
    logits = iter(_logits(model, extractor, [part for part in parts if part.features is not None]))
    return [None if part.features is None else next(logits) for part in parts]


def _logits(model: MlplForCTC, extractor: MlplFeatureExtractor, parts: list[Part]) -> list[np.ndarray | None]:
    """Computes logits of parts with features; a sample that does not fit into memory gets a `problem`."""
    if not parts:
        return []
    inputs = extractor.pad(
        {"input_features": [part.features for part in parts]}, return_attention_mask=True, return_tensors="pt"
    )
    try:
        logits = model(**inputs.to(model.device)).logits.float().cpu().numpy()  # (B, S, V)
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        if len(parts) > 1:
            return [logits for part in parts for logits in _logits(model, extractor, [part])]
        sample = parts[0].sample
        sample.problem = (
            f"{sample.entry.path}: its {sample.seconds:.0f} s do not fit into memory as a whole; --pieces cuts long "
            "recordings into pieces, and so does hf-mlpl transcribe"
        )
        return [None]
    lengths = [model.config.num_output_frames(len(part.features)) for part in parts]
    return [
        rows[part.piece.left : length - part.piece.right].copy()
        for part, rows, length in zip(parts, logits, lengths, strict=True)
    ]


@dataclass
class ErrorRate:
    """Counts edits and the reference's length; edits without a reference are infinitely many per cent."""

    edits: int = 0
    length: int = 0

    def add(self, hypothesis: Sequence[str], reference: Sequence[str]) -> ErrorRate:
        """Adds the edits of one hypothesis, and returns itself."""
        self.edits += Levenshtein.distance(hypothesis, reference)
        self.length += len(reference)
        return self

    def __str__(self) -> str:  # as C++ prints it
        rate = self.edits * 100 / self.length if self.length else math.inf if self.edits else 0
        return f"{rate:g}%"


class Report:
    """Formats the lines that `fl_asr_test` prints, and sums up the error rates of all samples.

    Args:
        num_entries: entries of the lists, including those that cannot be used.

    Attributes:
        wer, ter: `ErrorRate`.
        unknown: counts of transcripts' characters that the tokens file lacks.
        without_transcript: number of samples.
    """

    def __init__(self, tokenizer: MlplTokenizer, num_entries: int):
        self.tokenizer = tokenizer
        self.num_entries = num_entries
        self.num_done = self.num_scored = self.without_transcript = 0
        self.wer, self.ter = ErrorRate(), ErrorRate()
        self.unknown: Counter[str] = Counter()
        self._letters = {BLANK: BLANK}
        for entry, index in tokenizer.get_vocab().items():
            self._letters[entry] = tokenizer.convert_ids_to_tokens(index)

    def add(self, sample: Sample) -> tuple[str, list[str], list[str]]:
        """Adds a sample without a problem; returns its three lines, and the words of hypothesis and reference."""
        entry = sample.entry
        letters = self.tokenizer.ctc_letters(sample.path.tolist())
        reference = self.reference_letters(entry.transcript)
        words = _words("".join(letters))
        reference_words = _words(entry.transcript.replace(" ", WORD_BOUNDARY))
        self.num_done += 1
        self.num_scored += 1
        self.without_transcript += not entry.transcript
        self.wer.add(words, reference_words)
        self.ter.add(letters, reference)
        wer, ter = ErrorRate().add(words, reference_words), ErrorRate().add(letters, reference)
        # in float32, as in the original
        progress = np.float32(self.num_done) / np.float32(self.num_entries) * np.float32(100)
        lines = (
            f"|T|: {' '.join(reference)}\n|P|: {' '.join(letters)}\n"
            f"[sample: {entry.id}, WER: {wer}, TER: {ter}, total WER: {self.wer}, total TER: {self.ter}, "
            f"progress (thread 0): {progress:g}%]\n"
        )
        return lines, words, reference_words

    def skip(self) -> None:
        """Counts a sample with a problem as done."""
        self.num_done += 1

    def reference_letters(self, transcript: str) -> list[str]:
        """Returns the letters of a transcript as the original counts them (flashlight `wrd2Target`, `targetFeatures`):
        the known characters of each word and a boundary after them, then trimmed as the hypothesis is.
        """
        letters = []
        for word in filter(None, transcript.split(" ")):
            letters += [self._letters[character] for character in word if character in self._letters]
            letters.append(WORD_BOUNDARY)
            self.unknown.update(character for character in word if character not in self._letters)
        if self.tokenizer.surround and letters[:1] not in ([], [WORD_BOUNDARY]):
            letters.insert(0, WORD_BOUNDARY)
        return self.tokenizer.trim_boundaries(letters)

    def total(self, test: str, seconds: float) -> str:
        """Returns the last line of the original's log for a test of so many seconds; `test` names the list files."""
        per_sample = seconds / max(self.num_scored, 1)
        return (
            f"[Test {test} ({self.num_scored} samples) in {seconds:g}s (actual decoding time {per_sample:.3g}s/sample)"
            f" -- WER: {self.wer}, TER: {self.ter}]"
        )


def _words(text: str) -> list[str]:
    """Splits text at boundaries into words in NFC, in which all Unicode forms of a word are equal."""
    return [word for word in unicodedata.normalize("NFC", text).split(WORD_BOUNDARY) if word]


class EmissionFiles:
    """Writes logits of samples to files `ID.npz`, which appear complete or not at all.

    `numpy.load` returns `emissions` (S, V), the raw logits in float32; `id` and `path`, strings; and `num_frames`, S.
    The second sample with an id has the file `ID.2.npz`, and so on. Slashes of an id become `#`.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._names: set[str] = set()
        self._repetitions: Counter[str] = Counter()

    def write(self, sample: Sample) -> Path:
        """Writes a sample's file and returns its path; raises `OSError` if it cannot be written."""
        name = stem = file_name(sample.entry.id)
        while name in self._names:
            self._repetitions[stem] += 1
            name = f"{stem}.{self._repetitions[stem] + 1}"
        self._names.add(name)
        path = self.folder / f"{name}.npz"
        with atomic_write(path) as partial:
            entry, num_frames = sample.entry, len(sample.logits)
            np.savez(partial, emissions=sample.logits, id=entry.id, path=entry.path, num_frames=num_frames)
        return path


def sclite_files(folder: Path, test: str) -> AbstractContextManager[Callable[[str, str, str], None]]:
    """Opens the original's files of hypotheses and references for sclite, as `trn_files` does."""
    name = file_name(test)
    return trn_files(folder / f"{name}.hyp", folder / f"{name}.viterbi.ref")
