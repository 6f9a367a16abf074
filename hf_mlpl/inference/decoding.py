"""Decodes a data set, greedily or by a search, with scores of the confidence of each text."""

from __future__ import annotations

import logging
import math
import os
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from threading import Event

import numpy as np
import torch
import torch.distributed as dist
from datasets import Dataset
from torch.distributed.fsdp import FSDPModule
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

from ..audio.open_recordings import OpenRecordings
from ..audio.reading import stream_audio
from ..ctc_models import CtcInterface, ctc_interface
from ..data.batches import Batches, SpeechBatch, plan_batches
from ..data.heard_speech import HeardSpeech
from ..data.rows import durations_of, recording_of, select_rows
from ..model.tokenization_mlpl import IGNORED
from .candidates import PathSearch
from .clock import Clock, Stopwatch, TimedBatch
from .paths import Adjust, GreedyPath, best_paths, collapsed_length, searched_paths
from .pieces import Piece, cut, join_language_log_probs, seconds_in_pieces

logger = logging.getLogger(__name__)

MAX_PARALLEL_FORWARDS = 4  # on a CPU: each needs memory
DURATION_TOLERANCE = 1.1  # tables round durations: a batch may have so many times the audio that was planned for it
FEWEST_EXPECTED = 0.01  # labels; where posteriors expect fewer, a ratio to what they expect would say nothing


@dataclass(frozen=True)
class Hypothesis:
    """Holds the text of one utterance, and how sure the model is of it.

    Args:
        row: row of the data set.
        text: of the greedy path, or of the one that a search has chosen; all scores are of this path.
        language: the likeliest language, None for a model without languages.
        num_frames: output frames of a CTC model, of 30 ms with `MlplForCTC`.
        mean_log_prob: mean, over output frames, of the log-probability of the path's class, without a language model,
            or over generated tokens, their end included; its exponential is the geometric mean of the probabilities.
        lowest_word_confidence: the same exponential over the frames of a word, for the word where it is lowest; None
            without words.
        letter_log_prob: sum over output frames of the class's log-probability, divided by the number of labels of the
            text: blanks do not dilute it. None for a model that generates text.
        length_ratio: number of labels of the text, divided by the number that the posteriors expect: below 1, letters
            are probably missing. None for a model that generates text.
        expected_labels: number of labels that the posteriors expect; 0 for a model that generates text.
        blank_ratio: share of the output frames in which the path has the blank; None for a model that generates text.
        language_probability: of the utterance's own language; None where the model does not know that language.
        no_speech_probability: of the piece where it is highest; None for a model that has none.
        is_complete: whether a generated text ended by itself, before its longest length.
        seconds: duration of the audio itself, not of the data set's entry; rounded to frames where only features
            were given.
        error: one line, where the audio could not be read; the other fields are then empty.
    """

    row: int
    text: str = ""
    language: str | None = None
    num_frames: int = 0
    mean_log_prob: float = 0.0
    letter_log_prob: float | None = None
    length_ratio: float | None = None
    expected_labels: float = 0.0
    lowest_word_confidence: float | None = None
    blank_ratio: float | None = 0.0
    language_probability: float | None = None
    no_speech_probability: float | None = None
    is_complete: bool = True
    seconds: float = 0.0
    error: str | None = None


def transcribe(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    dataset: Dataset,
    max_batch_seconds: float | None = None,
    num_workers: int | None = None,
    progress: tqdm | None = None,
    clock: Clock | None = None,
    search: PathSearch | None = None,
    heard: HeardSpeech | None = None,
) -> Iterator[Hypothesis]:
    """Transcribes every utterance of a data set exactly once, about the longest first, in evaluation mode.

    Long utterances are transcribed in overlapping pieces, which [`~pieces.cut`] makes of the audio itself, whatever
    duration the data set states. So memory does not grow with an utterance.

    Without workers, a model on a CPU whose interface has `runs_in_threads` computes several batches at a time, each
    from the files to the texts in a thread of its own.

    A model whose outputs depend on the padding of a batch computes one utterance or piece at a time.

    Args:
        max_batch_seconds: audio of one forward, padding counted. It changes the speed, not the texts. By default 50
            on a CPU, whose cache is small, and else 200.
        num_workers: processes that decode audio; by default none for a CPU, and else up to 8.
        progress: a bar that counts utterances.
        clock: gets the times of batches.
        search: finds the paths of the texts, such as `label_search.LabelSearch`; by default they are greedy.
        heard: how the model hears the utterances; by default as they are.

    Raises:
        MemoryError: for a batch that does not fit into memory.
    """
    on_cpu = model.device.type == "cpu"
    max_batch_seconds, num_workers = default_batch_seconds(model, max_batch_seconds), workers_of(model, num_workers)
    clock = clock or Clock()
    clock.batch_seconds = max_batch_seconds
    batches = PieceBatches(dataset, processor, model.config, max_batch_seconds, heard)
    plan = batches.plan  # before there are workers, which need it
    # What torch.compile returns is no PreTrainedModel. It and FSDP can run one forward at a time only.
    is_wrapped = isinstance(model, FSDPModule) or not isinstance(model, PreTrainedModel)
    if on_cpu and not num_workers and batches.ctc.runs_in_threads and not is_wrapped:
        results = decode_in_threads(
            lambda number: _decode_batches(
                model, batches.ctc, batches.make_batches(sorted(plan[number])), clock, search
            ),
            len(plan),
        )
    else:
        loader = DataLoader(batches, batch_size=None, num_workers=num_workers)
        results = _decode_batches(model, batches.ctc, loader, clock, search)
    was_training = model.training
    if not was_training:  # training has said it already
        for remark in batches.ctc.remarks(model, training=False):
            _log_once(remark)
    model.eval()
    try:
        with closing(results):
            for hypotheses in results:
                yield from hypotheses
                if progress is not None:
                    progress.update(len(hypotheses))
    finally:
        model.train(was_training)
        batches.recordings.close()


def default_batch_seconds(model: PreTrainedModel, max_batch_seconds: float | None) -> float:
    """Returns what `transcribe` takes if `max_batch_seconds` is None."""
    if max_batch_seconds is not None:
        return max_batch_seconds
    return 50.0 if model.device.type == "cpu" else 200.0


def workers_of(model: PreTrainedModel, num_workers: int | None) -> int:
    """Returns the number of loader workers, by default none for a CPU, and else up to 8."""
    if num_workers is None:
        return 0 if model.device.type == "cpu" else min(8, os.cpu_count() or 1)
    return num_workers


@cache
def _log_once(remark: str) -> None:
    if not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0:
        logger.warning("%s", remark)


@dataclass
class PieceBatch(SpeechBatch):
    """Holds pieces of utterances, whose rows are `indices`. Rows in `problems` may have pieces in earlier batches."""

    pieces: list[Piece] = field(default_factory=list)  # (B,), without their samples
    extraction_seconds: float = 0.0  # that its features took, without the decoding of audio
    locales: list[str | None] = field(default_factory=list)  # (B,), languages as the data set names them

    def pin_memory(self) -> PieceBatch:
        return replace(self, input_features=self.input_features.pin_memory())


class PieceBatches(IterableDataset):
    """Makes batches of at most `max_batch_seconds` from the pieces of utterances, padding counted.

    A plan, by the durations that the data set states, says which utterances are batched together. Where they have
    more audio than it states, they make more batches, not larger ones. A loader worker makes the batches of its share
    of the plan.
    """

    def __init__(
        self,
        dataset: Dataset,
        processor: ProcessorMixin,
        config: PreTrainedConfig,
        max_batch_seconds: float,
        heard: HeardSpeech | None = None,
    ):
        self.dataset, self.heard = dataset, heard
        self.ctc = ctc_interface(config, processor)
        self.max_batch_seconds, self.max_seconds = max_batch_seconds, DURATION_TOLERANCE * max_batch_seconds
        self.language_ids = {language: i for i, language in enumerate(self.ctc.languages)}
        self.recordings = OpenRecordings()

    def __iter__(self) -> Iterator[PieceBatch]:
        worker = get_worker_info()
        share = slice(None) if worker is None else slice(worker.id, None, worker.num_workers)
        for number in range(len(self.plan))[share]:
            yield from self.make_batches(sorted(self.plan[number]))  # files are read in their order

    @cached_property
    def plan(self) -> Batches:
        """Returns the rows of each batch."""
        return plan_batches(seconds_in_pieces(durations_of(self.dataset)), self.max_batch_seconds)

    def plan_of(self, rows: np.ndarray) -> list[list[int]]:
        """Returns the plan of some rows."""
        batches = plan_batches(
            seconds_in_pieces(durations_of(select_rows(self.dataset, rows))), self.max_batch_seconds
        )
        return [rows[np.sort(batch)].tolist() for batch in batches]

    def make_batches(self, rows: list[int]) -> Iterator[PieceBatch]:
        """Yields one batch or more of the utterances of a batch of the plan."""
        ctc, problems = self.ctc, {}
        columns, rate = self.dataset[rows], ctc.sampling_rate
        items, longest, extraction = [], 0, Stopwatch()
        for i, row in enumerate(rows):
            language_id = self.language_ids.get(columns["language"][i], IGNORED)
            try:
                pieces = cut(stream_audio(columns["audio"][i], rate, self.recordings), rate, ctc.samples_per_frame)
                for number, piece in enumerate(pieces):
                    with extraction:
                        features = self._extract(piece.samples, columns, i, number)
                    longest = max(longest, len(features))
                    if items and ctc.input_seconds(longest * (len(items) + 1)) > self.max_seconds:
                        yield self._collate(items, problems, extraction)
                        items, longest, problems, extraction = [], len(features), {}, Stopwatch()
                    language = columns["language"][i]
                    items.append((features, row, language_id, replace(piece, samples=None), language))
            except (OSError, ValueError) as error:
                problems[row] = f"utterance {columns['id'][i]}: {error}"
        if items or problems:
            yield self._collate(items, problems, extraction)

    def _extract(self, samples: np.ndarray, columns: dict, i: int, number: int) -> torch.Tensor:
        """Returns the inputs (T, F) or (T,) of a piece of the utterance in line `i` of the columns."""
        if self.heard is None:
            return self.ctc.extract(samples)
        features = self.ctc.extract(self.heard.samples(samples, columns["id"][i], number))
        speaker = columns["speaker"][i] if "speaker" in columns else None
        return self.heard.features(features, recording_of(columns["audio"][i]) if speaker is None else speaker)

    def _collate(
        self,
        items: list[tuple[torch.Tensor, int, int, Piece, str | None]],
        problems: dict[int, str],
        extraction: Stopwatch,
    ) -> PieceBatch:
        features, rows, language_ids, pieces, locales = (
            map(list, zip(*items, strict=True)) if items else ([], [], [], [], [])
        )
        with extraction:
            padded, mask = pad(features or [self.ctc.extract(np.empty(0, np.float32))])
        tensors = padded, mask[: len(features)], None, torch.tensor(language_ids)
        return PieceBatch(*tensors, rows, problems, pieces, extraction.seconds, locales)


def pad(features: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Joins the inputs (T, F) or (T,) of utterances; returns them padded, and the mask (B, T) of what is valid."""
    padded = pad_sequence(features, batch_first=True)
    num_inputs = torch.tensor([len(each) for each in features])
    return padded, (torch.arange(padded.shape[1]) < num_inputs[:, None]).long()


def decode_in_threads(
    decode: Callable[[int], Iterable[list[Hypothesis]]], num_batches: int, stopped: Event | None = None
) -> Generator[list[Hypothesis], None, None]:
    """Yields the hypotheses of each batch of a plan, in its order, of which threads decode several at a time.

    Meanwhile torch's number of threads is smaller: threads that share one forward wait for each other.

    Args:
        decode: returns the hypotheses of a batch, given its number.
        stopped: is set when nobody waits for the rest, so that `decode` can end before its batch.
    """
    num_threads, stopped = torch.get_num_threads(), stopped or Event()
    num_parallel = max(1, min(num_threads, num_batches, MAX_PARALLEL_FORWARDS))
    torch.set_num_threads(num_threads // num_parallel)  # for each thread that begins from now on
    pool = ThreadPoolExecutor(num_parallel, thread_name_prefix="decoder")

    def decode_all(number: int) -> list[Hypothesis]:
        hypotheses = []
        for finished in decode(number):
            hypotheses += finished
            if stopped.is_set():  # nobody waits for the rest, which may be hours
                break
        return hypotheses

    try:
        yield from pool.map(decode_all, range(num_batches))
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(num_threads)


def _decode_batches(
    model: PreTrainedModel,
    ctc: CtcInterface,
    batches: Iterable[PieceBatch],
    clock: Clock,
    search: PathSearch | None = None,
) -> Generator[list[Hypothesis], None, None]:
    """Yields after each batch the hypotheses of the utterances that end in it."""
    paths_of_row: dict[int, list[GreedyPath]] = defaultdict(list)
    for batch in batches:
        with Stopwatch() as computing:
            paths = _paths(model, ctc, batch, search)
            finished = _finish(ctc, batch, paths, paths_of_row, search)
        if batch.pieces:
            size = len(batch.pieces)
            seconds, audio = batch.extraction_seconds + computing.seconds, sum(piece.seconds for piece in batch.pieces)
            clock.add(TimedBatch(audio, seconds, size, forwards=1 if ctc.pads_exactly else size))
        yield finished


def decode_beside(
    model: PreTrainedModel, ctc: CtcInterface, batches: Iterable[PieceBatch], search: PathSearch | None = None
) -> Generator[list[Hypothesis], None, None]:
    """Yields the same as `_decode_batches`, whose texts a thread makes beside the next forward."""
    paths_of_row: dict[int, list[GreedyPath]] = defaultdict(list)
    texts: Future[list[Hypothesis]] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="texts") as pool:
        for batch in batches:
            paths = _paths(model, ctc, batch, search)
            if texts is not None:
                yield texts.result()
            texts = pool.submit(_finish, ctc, batch, paths, paths_of_row, search)
        if texts is not None:
            yield texts.result()


def _paths(
    model: PreTrainedModel, ctc: CtcInterface, batch: PieceBatch, search: PathSearch | None
) -> list[GreedyPath]:
    if not batch.indices:
        return []
    return best_paths(model, ctc, batch.input_features, batch.attention_mask, with_candidates=search is not None)


def _finish(
    ctc: CtcInterface,
    batch: PieceBatch,
    paths: list[GreedyPath],
    paths_of_row: dict[int, list[GreedyPath]],
    search: PathSearch | None,
) -> list[Hypothesis]:
    """Returns the hypotheses of the utterances that end in a batch; `paths_of_row` keeps the paths of the others."""
    finished = []
    for row, language_id, locale, piece, path in zip(
        batch.indices, batch.language_ids.tolist(), batch.locales, batch.pieces, paths, strict=True
    ):
        paths_of_row[row].append(path.middle(piece))
        if piece.is_last:
            whole = searched_paths(paths_of_row.pop(row), search, locale)
            finished.append(_make_hypothesis(ctc, row, language_id, whole))
    for row, problem in batch.problems.items():
        paths_of_row.pop(row, None)
        finished.append(Hypothesis(row=row, error=problem))
    return finished


def decode_batch(
    model: PreTrainedModel, ctc: CtcInterface, batch: SpeechBatch, adjust: Adjust | None = None
) -> list[Hypothesis]:
    """Returns the hypotheses of a model in evaluation mode for the utterances of one batch.

    Args:
        adjust: changes the model's log-probabilities before they are decoded.

    Raises:
        MemoryError: for a batch that does not fit into memory.
    """
    paths = best_paths(model, ctc, batch.input_features, batch.attention_mask, adjust=adjust)
    # A batch without readable utterances has silence, and no row for it.
    return [
        _make_hypothesis(ctc, row, language_id, [path])
        for row, language_id, path in zip(batch.indices, batch.language_ids.tolist(), paths, strict=False)
    ]


def _make_hypothesis(ctc: CtcInterface, row: int, language_id: int, paths: list[GreedyPath]) -> Hypothesis:
    """Joins the paths of an utterance's pieces, in their order, to its text and scores."""
    log_probs = np.concatenate([path.log_probs for path in paths])
    labels = np.concatenate([path.labels for path in paths])
    expected = math.fsum(float(path.expected_labels.sum(dtype=np.float64)) for path in paths)
    decoded, num_labels = ctc.decode(labels.tolist()), collapsed_length(labels, ctc.blank_id)
    words = [log_probs[start:end].mean() for _, start, end in decoded.words]
    language, language_probability = None, None
    if ctc.languages:
        num_frames = torch.tensor([len(path.labels) for path in paths])
        language_log_probs = torch.stack([path.language_log_probs for path in paths])
        language_log_probs = join_language_log_probs(language_log_probs, num_frames)
        language = ctc.languages[int(language_log_probs.argmax())]
        language_probability = float(language_log_probs[language_id].exp()) if language_id >= 0 else None
    return Hypothesis(
        row=row,
        text=decoded.text,
        language=language,
        num_frames=len(labels),
        mean_log_prob=float(log_probs.mean()),
        letter_log_prob=float(log_probs.sum(dtype=np.float64)) / max(num_labels, 1),
        length_ratio=num_labels / max(expected, FEWEST_EXPECTED),
        expected_labels=expected,
        lowest_word_confidence=float(np.exp(min(words))) if words else None,
        blank_ratio=float((labels == ctc.blank_id).mean()),
        language_probability=language_probability,
        seconds=math.fsum(path.seconds for path in paths),
    )
