"""Greedy CTC decoding of a data set, with scores that say how sure the model is of each text."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from threading import Event

import numpy as np
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

from ..audio.reading import stream_audio
from ..data.batches import SpeechBatch, plan_batches
from ..data.rows import durations_of
from ..model.configuration_mlpl import MlplConfig
from ..model.modeling_mlpl import MlplForCTC
from ..model.processing_mlpl import MlplProcessor
from ..model.tokenization_mlpl import IGNORED
from .pieces import Piece, cut, explained_memory_errors, join_language_log_probs, seconds_in_pieces

MAX_FORWARDS = 4  # that a CPU does at a time: each needs memory
ROUNDED = 1.1  # times the audio that was planned for a batch may be in it: tables round durations
BLOCK_SCORES = 2**20  # logits that are turned into probabilities at a time, 4 MB


@dataclass(frozen=True)
class Hypothesis:
    """What the model says of one utterance.

    Args:
        row: of the data set.
        text: greedy, without a language model.
        language: the likeliest, None for a model without languages.
        num_frames: output frames, of 30 ms.
        mean_log_prob: mean, over output frames, of the best class's log-probability; its exponential is the geometric
            mean of the probabilities.
        lowest_word_confidence: the same exponential over the frames of a word, for the word where it is lowest; None
            without words.
        blank_ratio: share of the output frames that say blank.
        language_probability: of the utterance's own language; None where the model does not know it.
        seconds: of the audio that was found, whatever its data set says; to a frame where only features were there.
        error: one line, where the audio could not be read; the rest is then empty.
    """

    row: int
    text: str = ""
    language: str | None = None
    num_frames: int = 0
    mean_log_prob: float = 0.0
    lowest_word_confidence: float | None = None
    blank_ratio: float = 0.0
    language_probability: float | None = None
    seconds: float = 0.0
    error: str | None = None


def transcribe(
    model: MlplForCTC,
    processor: MlplProcessor,
    dataset: Dataset,
    max_batch_seconds: float | None = None,
    num_workers: int | None = None,
    progress: tqdm | None = None,
) -> Iterator[Hypothesis]:
    """Transcribes every utterance of a data set exactly once, about the longest first, in evaluation mode.

    Long utterances are transcribed in overlapping pieces, which [`~pieces.cut`] makes of the audio that is really
    there. So memory does not grow with an utterance.

    Without workers, a model on a CPU does several batches at a time, each from the files to the texts in a thread of
    its own, and meanwhile torch's number of threads is smaller: threads that share one forward wait for each other.

    Args:
        max_batch_seconds: audio of one forward, padding counted. It changes the speed, not the texts. By default 50
            on a CPU, whose cache is small, and else 200.
        num_workers: processes that decode audio; by default none for a CPU, and else up to 8.
        progress: a bar that counts utterances.

    Raises:
        MemoryError: for a batch that does not fit into memory.
    """
    on_cpu = model.device.type == "cpu"
    if max_batch_seconds is None:
        max_batch_seconds = 50.0 if on_cpu else 200.0
    if num_workers is None:
        num_workers = 0 if on_cpu else min(8, os.cpu_count() or 1)
    batches = PieceBatches(dataset, processor, model.config, max_batch_seconds)
    # What FSDP or torch.compile have made of a model is of another class, and does one forward at a time.
    in_threads = type(model) is MlplForCTC and on_cpu and not num_workers
    was_training = model.training
    model.eval()
    try:
        with closing(_in_threads(model, batches) if in_threads else _in_turn(model, batches, num_workers)) as parts:
            for hypotheses in parts:
                yield from hypotheses
                if progress is not None:
                    progress.update(len(hypotheses))
    finally:
        model.train(was_training)


@dataclass
class PieceBatch:
    """Holds the pieces of one forward.

    Args:
        input_features: (B, T, F); attention_mask: (B, T), padding on the right.
        rows: (B,), of the data set; language_ids: (B,), -100 for a language that the model lacks.
        pieces: (B,), without their samples.
        problems: row -> one line, for rows that cannot be used. Earlier batches may have pieces of them.
    """

    input_features: torch.Tensor
    attention_mask: torch.Tensor
    rows: list[int]
    language_ids: list[int]
    pieces: list[Piece]
    problems: dict[int, str]


class PieceBatches(IterableDataset):
    """Makes batches of at most `max_batch_seconds` of the pieces of utterances, padding counted.

    A plan, by the durations that the data set states, says which utterances are batched together. Where they have
    more audio than it states, that makes more batches, not larger ones. A loader worker makes the batches of its
    share of the plan.
    """

    def __init__(self, dataset: Dataset, processor: MlplProcessor, config: MlplConfig, max_batch_seconds: float):
        self.dataset = dataset
        self.processor = processor
        self.config = config
        self.max_batch_seconds = max_batch_seconds
        self.plan = plan_batches(seconds_in_pieces(durations_of(dataset)), max_batch_seconds)
        self.language_ids = {language: i for i, language in enumerate(config.languages)}

    def __iter__(self) -> Iterator[PieceBatch]:
        worker = get_worker_info()
        mine = slice(None) if worker is None else slice(worker.id, None, worker.num_workers)
        for number in range(len(self.plan))[mine]:
            yield from self.planned(number)

    def planned(self, number: int) -> Iterator[PieceBatch]:
        """Yields the batches of those utterances that the plan has in one."""
        rows, problems = self.plan[number], {}
        columns = self.dataset[rows]
        batch, longest, most = [], 0, self._max_frames()
        for i, row in enumerate(rows):
            try:
                for piece, features in self._pieces(columns["audio"][i]):
                    longest = max(longest, len(features))
                    if batch and longest * (len(batch) + 1) > most:
                        yield self._collated(batch, problems)
                        batch, longest, problems = [], len(features), {}
                    batch.append((features, row, self.language_ids.get(columns["language"][i], IGNORED), piece))
            except (OSError, ValueError) as error:
                problems[row] = f"utterance {columns['id'][i]}: {error}"
        if batch or problems:
            yield self._collated(batch, problems)

    def _max_frames(self) -> float:
        extractor = self.processor.feature_extractor
        return ROUNDED * self.max_batch_seconds * extractor.sampling_rate / extractor.hop_length

    def _pieces(self, audio: dict) -> Iterator[tuple[Piece, torch.Tensor]]:
        """Yields the pieces of a recording, without their samples, and features (T, F) of each."""
        extractor = self.processor.feature_extractor
        rate = extractor.sampling_rate
        for piece in cut(stream_audio(audio, rate), rate, self.config.inputs_to_logits_ratio):
            features = extractor(piece.samples, sampling_rate=rate, return_tensors="pt")["input_features"][0]
            yield replace(piece, samples=None), features

    def _collated(self, batch: list[tuple], problems: dict[int, str]) -> PieceBatch:
        nothing = (torch.empty(0, self.config.num_mel_bins),), (), (), ()
        features, rows, language_ids, pieces = zip(*batch, strict=True) if batch else nothing
        padded = pad_sequence(list(features), batch_first=True)
        num_frames = torch.tensor([len(frames) for frames in features])
        mask = (torch.arange(padded.shape[1]) < num_frames[:, None]).long()
        return PieceBatch(padded, mask, list(rows), list(language_ids), list(pieces), problems)


def _in_turn(model: MlplForCTC, batches: PieceBatches, num_workers: int) -> Iterator[list[Hypothesis]]:
    return _hypotheses(model, batches.processor, DataLoader(batches, batch_size=None, num_workers=num_workers))


def _in_threads(model: MlplForCTC, batches: PieceBatches) -> Iterator[list[Hypothesis]]:
    num_threads, num_batches, stopped = torch.get_num_threads(), len(batches.plan), Event()
    at_a_time = max(1, min(num_threads, num_batches, MAX_FORWARDS))
    torch.set_num_threads(num_threads // at_a_time)  # of each thread that begins from now on
    pool = ThreadPoolExecutor(at_a_time)

    def hypotheses(number: int) -> list[Hypothesis]:
        found = []
        for some in _hypotheses(model, batches.processor, batches.planned(number)):
            found += some
            if stopped.is_set():  # nobody waits for the rest, which may be hours
                break
        return found

    try:
        yield from pool.map(hypotheses, range(num_batches))
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(num_threads)


def _hypotheses(
    model: MlplForCTC, processor: MlplProcessor, batches: Iterable[PieceBatch]
) -> Iterator[list[Hypothesis]]:
    """Yields after each batch the hypotheses of the utterances that end in it."""
    begun: dict[int, list[Frames]] = defaultdict(list)
    for batch in batches:
        ended = []
        frames_of_pieces = _decode_pieces(model, processor, batch) if batch.rows else []
        for row, language_id, piece, frames in zip(
            batch.rows, batch.language_ids, batch.pieces, frames_of_pieces, strict=True
        ):
            begun[row].append(frames)
            if piece.is_last:
                ended.append(_hypothesis(model, processor, row, language_id, begun.pop(row)))
        for row, problem in batch.problems.items():
            begun.pop(row, None)
            ended.append(Hypothesis(row=row, error=problem))
        yield ended


@dataclass
class Frames:
    """Holds what a model says of the output frames of an utterance, or of the middle of a piece.

    Args:
        log_probs: (S,), of the best class; path: (S,), the best class.
        language_log_probs: (L,), of the whole piece; None for a model without languages.
        seconds: of the audio.
    """

    log_probs: np.ndarray
    path: np.ndarray
    language_log_probs: torch.Tensor | None
    seconds: float


def decode_batch(model: MlplForCTC, processor: MlplProcessor, batch: SpeechBatch) -> list[Hypothesis]:
    """Returns what a model in evaluation mode says of the utterances of one batch.

    Raises:
        MemoryError: for a batch that does not fit into memory.
    """
    decoded = _decode(model, processor, batch.inputs(model.device))
    # There are more of them than rows where a batch of nothing has become one silent frame.
    return [
        _hypothesis(model, processor, row, int(language_id), [frames])
        for row, language_id, frames in zip(batch.indices, batch.language_ids, decoded, strict=False)
    ]


def _decode_pieces(model: MlplForCTC, processor: MlplProcessor, batch: PieceBatch) -> list[Frames]:
    inputs = {"input_features": batch.input_features, "attention_mask": batch.attention_mask}
    middles = []
    for piece, frames in zip(batch.pieces, _decode(model, processor, inputs), strict=True):
        middle = slice(piece.left, len(frames.path) - piece.right)
        middles.append(Frames(frames.log_probs[middle], frames.path[middle], frames.language_log_probs, piece.seconds))
    return middles


@torch.inference_mode()
def _decode(model: MlplForCTC, processor: MlplProcessor, inputs: dict[str, torch.Tensor]) -> list[Frames]:
    """Returns what a model says of each row of its inputs, without padding."""
    mask, extractor = inputs["attention_mask"], processor.feature_extractor  # mask: (B, T)
    seconds_of_frame = extractor.hop_length / extractor.sampling_rate
    with explained_memory_errors(
        f"a batch of {len(mask)} utterances or pieces, together {mask.numel() * seconds_of_frame:.0f} s with padding, "
        "does not fit into memory; let batches have fewer seconds (--batch-seconds, max_batch_seconds)"
    ):
        output = model(**{name: tensor.to(model.device, non_blocking=True) for name, tensor in inputs.items()})
        log_probs, path = (tensor.cpu().numpy() for tensor in best_classes(output.logits))  # (B, S)
    languages = [None] * len(mask) if output.language_log_probs is None else output.language_log_probs.cpu()
    num_frames = mask.sum(1).cpu()  # (B,), of features
    lengths = model.config.num_output_frames(num_frames).tolist()
    return [
        Frames(log_probs[i, :length].copy(), path[i, :length].astype(np.int32), languages[i], float(seconds))
        for i, (length, seconds) in enumerate(zip(lengths, num_frames * seconds_of_frame, strict=True))
    ]


def _hypothesis(
    model: MlplForCTC, processor: MlplProcessor, row: int, language_id: int, parts: list[Frames]
) -> Hypothesis:
    """Joins what a model says of an utterance as a whole, or of its pieces in their order."""
    log_probs = np.concatenate([part.log_probs for part in parts])
    path = np.concatenate([part.path for part in parts])
    decoded = processor.tokenizer.decode(path.tolist(), output_word_offsets=True)
    words = [log_probs[word["start_offset"] : word["end_offset"]].mean() for word in decoded.word_offsets]
    language, language_probability = None, None
    if model.config.languages:
        languages = join_language_log_probs(
            torch.stack([part.language_log_probs for part in parts]), torch.tensor([len(part.path) for part in parts])
        )
        language = model.config.languages[int(languages.argmax())]
        language_probability = float(languages[language_id].exp()) if language_id >= 0 else None
    return Hypothesis(
        row=row,
        text=decoded.text,
        language=language,
        num_frames=len(path),
        mean_log_prob=float(log_probs.mean()),
        lowest_word_confidence=float(np.exp(min(words))) if words else None,
        blank_ratio=float((path == model.config.blank_token_id).mean()),
        language_probability=language_probability,
        seconds=math.fsum(part.seconds for part in parts),
    )


def best_classes(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The best class of each frame (B, S, V), its log-probability first: two (B, S)."""
    # Of some frames at a time, which stay in a processor's cache: the log-probabilities of all are never there.
    frames = logits.flatten(0, 1).split(max(1, BLOCK_SCORES // logits.shape[2]))
    blocks = [block.float().log_softmax(-1).max(-1) for block in frames]
    log_probs, best = (torch.cat(parts).view(logits.shape[:2]) for parts in zip(*blocks, strict=True))
    return log_probs, best
