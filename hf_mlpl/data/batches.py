"""Plans batches by a budget of seconds, and makes their tensors.

The utterances of a micro-batch and their augmentation are a function of the seed and the micro-batch's number alone.
Thus a run can be resumed, and any number of processes and loader workers can share out the numbers.
"""

from __future__ import annotations

import math
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TypeVar, cast

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig, ProcessorMixin

from ..audio.reading import AudioError, stream_audio
from ..ctc_models import ctc_interface
from ..model.tokenization_mlpl import IGNORED
from ..training_config import SpecAugmentConfig, WaveformAugmentConfig
from .augmentation import add_noise, augment_waveform, spec_augment
from .rows import blocks, durations_of, recording_of, with_offsets
from .selection import min_ctc_frames
from .shared_arrays import SharedArrays

T = TypeVar("T")
U = TypeVar("U", np.ndarray, torch.Tensor)
PART = 100_000  # utterances that are planned at a time, where more would take much memory


@dataclass
class SpeechBatch:
    """Holds the tensors of one forward pass."""

    input_features: torch.Tensor  # (B, T, F) features, or (B, T) samples for models of waveforms
    attention_mask: torch.Tensor  # (B, T), padding on the right
    labels: torch.Tensor | None  # (B, L), padded with -100
    language_ids: torch.Tensor  # (B,), -100 for a language that the model lacks
    indices: list[int]  # rows of the data set, in the order of the batch
    problems: dict[int, str] = field(default_factory=dict)  # one line for each row that had to be left out

    def inputs(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Returns the arguments of `CtcInterface.forward`, or with labels of `CtcInterface.loss`."""
        names = ["input_features", "attention_mask"] + ["labels", "language_ids"] * (self.labels is not None)
        return {name: getattr(self, name).to(device, non_blocking=True) for name in names}


def row_type(count: int) -> type[np.signedinteger]:
    """Returns the smallest type for the numbers of so many rows, and for their count."""
    return np.int32 if count < 2**31 else np.int64


class Batches(Sequence):
    """Reads batches of rows in one array: 4 bytes a row (8 from 2^31 rows on) instead of the 40 of Python's lists.

    Args:
        array: from `pack`; it may be a file that is mapped into memory.
    """

    def __init__(self, array: np.ndarray):
        first = 1 + int(array[0])
        self.order, self.starts, self.rows = array[1:first], array[first : 2 * first], array[2 * first :]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, number: int) -> list[int]:
        batch = self.order[number]
        return self.rows[self.starts[batch] : self.starts[batch + 1]].tolist()


def pack(rows: np.ndarray, starts: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Puts M batches into one array: M, `order`, `starts`, `rows`.

    Args:
        rows: (N,), batch after batch.
        starts: (M + 1,), positions in `rows` where batches start, and its length.
        order: (M,), which of these batches comes when.
    """
    dtype = row_type(max(len(rows), int(rows.max(initial=0)) + 1))
    return np.concatenate([[len(order)], order, starts, rows], dtype=dtype)


def plan_batches(durations: np.ndarray, max_batch_seconds: float, rng: np.random.Generator | None = None) -> Batches:
    """Groups utterances of similar length into batches of at most `max_batch_seconds`, padding counted.

    An utterance longer than the budget is a batch of its own.

    Args:
        durations: (N,) seconds.
        rng: varies the order of similar lengths, and shuffles the batches. By default the order is exact, longest
            first, so that a batch that does not fit into memory fails at once.
    """
    return Batches(_plan(durations, np.arange(len(durations)), max_batch_seconds, rng))


def _plan(
    durations: np.ndarray, rows: np.ndarray, max_batch_seconds: float, rng: np.random.Generator | None
) -> np.ndarray:
    """Plans batches of some rows, each of which may occur several times, and packs them."""
    keys = durations[rows].astype(float, copy=False)
    np.negative(keys, out=keys)
    if rng is not None:
        # Lengths that differ by 2 % leave 98 % of the frames useful (benchmarks/bench_batches.py). Where there are few
        # batches they may differ by up to 5 %, or the same utterances would meet in each pass.
        num_batches = max(-keys.sum() / max_batch_seconds, 1)
        variation = np.clip(2 / num_batches, 0.02, 0.05)
        for first in range(0, len(keys), PART):
            part = keys[first : first + PART]
            part *= rng.uniform(1 - variation, 1 + variation, len(part))
    rows = rows[stable_order(keys)]
    del keys  # 8 bytes an utterance
    sizes, size, longest = array("q"), 0, 0.0
    for first in range(0, len(rows), PART):  # because Python's numbers take much memory
        for seconds in durations[rows[first : first + PART]].tolist():
            size += 1
            if seconds > longest:  # max() takes as long as the rest of the loop
                longest = seconds
            if longest * size > max_batch_seconds and size > 1:
                sizes.append(size - 1)
                size, longest = 1, seconds
    if size:
        sizes.append(size)
    order = np.arange(len(sizes))
    if rng is not None:
        rng.shuffle(order)
    return pack(rows, np.append(0, np.cumsum(sizes)), order)


def stable_order(keys: np.ndarray) -> np.ndarray:
    """Returns `np.argsort(keys, kind="stable")` of (N,) numbers, in a sixth of the time for millions of them.

    It sorts words whose upper bits are a key, rounded, and whose lower bits are its position, because processors sort
    numbers several at a time. Keys that are rounded to the same number are then sorted exactly.
    """
    span = float(np.ptp(keys)) if len(keys) else 0.0
    if not 1e-290 < span < math.inf:
        return np.argsort(keys, kind="stable")
    bits = len(keys).bit_length()  # of a position
    lowest, scale = keys.min(), 2.0 ** (64 - bits) / span * (1 - 1e-9)
    words, tied = np.arange(len(keys), dtype=np.uint64), []
    for first in range(0, len(keys), PART):
        words[first : first + PART] |= ((keys[first : first + PART] - lowest) * scale).astype(np.uint64) << bits
    words.sort()
    for first in range(0, len(keys), PART):
        part = words[first : first + PART + 1]
        tied.append(first + np.flatnonzero((part[1:] ^ part[:-1]) < 1 << bits))  # with the next one
    words &= (1 << bits) - 1
    positions = words.astype(row_type(len(keys)))
    if len(places := np.concatenate(tied)):
        places = np.union1d(places, places + 1)
        equal = positions[places]
        positions[places] = equal[np.argsort(keys[equal], kind="stable")]
    return positions


def repetitions(dataset: Dataset, alpha: float, pseudo_label_weight: float = 1.0) -> np.ndarray:
    """Returns (N,) mean occurrences of utterances in a pass that make a group's share proportional to its hours^alpha.

    A group is the human or the pseudo-labels of a language; the share of the latter is multiplied by
    `pseudo_label_weight`. The utterances of the group with the smallest factor occur once.
    """
    index, durations = 2 * _language_numbers(dataset), durations_of(dataset)
    for first, block in with_offsets(blocks(dataset, ["source"])):
        index[first : first + len(block)] += pc.fill_null(pc.equal(block["source"], "human"), False).to_numpy()
    present = np.bincount(index) > 0
    hours = np.where(present, np.bincount(index, weights=durations), 1.0)
    weights = np.resize([pseudo_label_weight, 1.0], len(hours))
    rates = weights * hours ** (alpha - 1)
    return (rates / rates[present].min())[index]


def _language_numbers(dataset: Dataset) -> np.ndarray:
    """Returns (N,) numbers that are the same for utterances of the same language."""
    numbers: dict[str, int] = {}
    index = np.empty(len(dataset), np.int16)
    for first, block in with_offsets(blocks(dataset, ["language"])):
        languages = block["language"].combine_chunks().dictionary_encode()
        codes = [numbers.setdefault(name, len(numbers)) for name in languages.dictionary.to_pylist()]
        index[first : first + len(block)] = np.array(codes)[languages.indices.to_numpy()]
    return index


def short_utterances(dataset: Dataset, share: float) -> np.ndarray:
    """Returns (N,) whether utterances are among this share of their language's, the shortest; of each at least one."""
    durations, languages = durations_of(dataset), _language_numbers(dataset)
    is_short = np.zeros(len(durations), bool)
    for language in np.unique(languages):
        rows = np.flatnonzero(languages == language)
        last = math.ceil(share * len(rows)) - 1
        is_short[rows] = durations[rows] <= np.partition(durations[rows], last)[last]
    return is_short


@dataclass(eq=False, repr=False)
class BatchPlan:
    """Plans a training run's micro-batches without end, pass after pass: `plan[number]` is a list of rows.

    Args:
        durations: (N,) seconds.
        max_batch_seconds: audio of one micro-batch, padding counted.
        seed: determines which utterances share a batch, and the order of the batches.
        repetitions: (N,) mean occurrences of each utterance in a pass; by default 1.
        arrays: where the processes of a machine share the passes, so that one of them plans each; plans of other
            arguments have other arrays.
        is_short: (N,), which utterances the passes of the first `num_short` micro-batches have; the last of these
            passes ends with them.
    """

    durations: np.ndarray
    max_batch_seconds: float
    seed: int
    repetitions: np.ndarray | float = 1.0
    arrays: SharedArrays = field(default_factory=SharedArrays)
    is_short: np.ndarray | bool = True
    num_short: int = 0

    def __post_init__(self):
        self.first_numbers = [0]  # of each pass
        self.passes: dict[int, Batches] = {}  # the last ones that were used

    def __getitem__(self, number: int) -> list[int]:
        epoch = self.epoch(number)
        return self._batches(epoch)[number - self.first_numbers[epoch]]

    def epoch(self, number: int) -> int:
        """Returns the pass over the data that micro-batch `number` belongs to."""
        while number >= self.first_numbers[-1]:
            first = self.first_numbers[-1]
            end = first + len(self._batches(len(self.first_numbers) - 1))
            self.first_numbers.append(min(end, self.num_short) if first < self.num_short else end)
        return bisect_right(self.first_numbers, number) - 1

    def state_dict(self, number: int) -> dict:
        """Returns, for JSON, what spares a run that goes on with micro-batch `number` the planning of earlier passes.

        It does not depend on the processes of the run, or on how far their loaders have read ahead.
        """
        if number:
            self.epoch(number - 1)
        return {"first_numbers": [first for first in self.first_numbers if first <= number], "crc32": self._checksum}

    @cached_property
    def _checksum(self) -> int:
        """Returns a checksum of all that passes depend on."""
        checksum = zlib.crc32(repr((float(self.max_batch_seconds), self.seed)).encode())
        short = (self.is_short, self.num_short) if self.num_short else ()  # older runs have none
        for numbers in (self.durations, self.repetitions, *short):
            checksum = zlib.crc32(np.ascontiguousarray(numbers, float).data, checksum)
        return checksum

    def load_state_dict(self, state: dict) -> None:
        """Restores the passes of `state_dict`, unless they are of a plan with other arguments.

        Raises:
            ValueError: for passes that `state_dict` does not return.
        """
        if state.get("crc32") != self._checksum:
            return
        first_numbers = [int(number) for number in state["first_numbers"]]
        if first_numbers[:1] != [0] or any(later <= first for first, later in pairwise(first_numbers)):
            raise ValueError(f"passes begin at {first_numbers[:10]}; numbers that ascend from 0 are accepted")
        self.first_numbers = first_numbers

    def _batches(self, epoch: int) -> Batches:
        if epoch not in self.passes:
            self.passes[epoch] = Batches(self.arrays.get(f"pass-{epoch:08d}", lambda: self._plan(epoch)))
            # Two are kept: loaders read ahead, into the next pass.
            self.arrays.remove_all_but_last("pass-*", 2)
            while len(self.passes) > 2:
                del self.passes[next(iter(self.passes))]
        return self.passes[epoch]

    def _plan(self, epoch: int) -> np.ndarray:
        rng, count = np.random.default_rng([self.seed, epoch]), len(self.durations)
        means, num_rows = np.broadcast_to(self.repetitions, count), 0
        if self.first_numbers[epoch] < self.num_short:
            means = means * self.is_short
        rows = np.empty(count + math.ceil(means.sum()) + 1, row_type(count))  # at most; what is not used is no memory
        for first in range(0, count, PART):
            part = np.arange(first, min(first + PART, count), dtype=rows.dtype)
            part = np.repeat(part, (rng.random(len(part)) + means[first : first + PART]).astype(np.int64))
            rows[num_rows : num_rows + len(part)] = part
            num_rows += len(part)
        return _plan(self.durations, rows[:num_rows], self.max_batch_seconds, rng)


@dataclass(eq=False, repr=False)
class SpeechBatches(torch.utils.data.Dataset):
    """Makes tensors by batch number, for a `DataLoader` with `batch_size=None`: decoding runs in its workers.

    Args:
        plan: maps batch numbers to rows of the data set.
        with_labels: texts become labels, and rows whose labels do not fit into their frames are problems.
        augment: SpecAugment for the batches from number `augment_from` on, with a seed of its own; without effect for
            models whose inputs cannot be masked.
        waveform_augment: changes of the audio, in the same way.
        cache_bytes: memory in each loader worker for features, or with `waveform_augment` for samples, from which each
            pass makes other features, so that a small data set is decoded only once.
        snr: decibels between speech and the white noise that batches without augmentation get; None adds none. Each
            row has its own noise, always the same.
        match: changes the features of batches without augmentation, such as `speaker_spectra.SpeakerSpectra`.
    """

    dataset: Dataset
    plan: Sequence[list[int]] | BatchPlan
    processor: ProcessorMixin
    config: PreTrainedConfig
    with_labels: bool
    augment: SpecAugmentConfig | None = None
    augment_from: int = 0
    waveform_augment: WaveformAugmentConfig | None = None
    waveform_augment_from: int = 0
    seed: int = 0
    cache_bytes: int = 0
    snr: float | None = None
    match: Callable[[torch.Tensor, torch.Tensor, Sequence[str]], torch.Tensor] | None = None

    def __post_init__(self):
        self.cache: dict[int | tuple[int, float | None], np.ndarray | torch.Tensor] = {}  # by row, or by row and noise
        self.cache_bytes_left = self.cache_bytes
        self.ctc = ctc_interface(self.config, self.processor)
        self.language_ids = {language: i for i, language in enumerate(self.ctc.languages)}
        if not self.ctc.masks_features:
            self.augment = None

    def __getitem__(self, number: int) -> SpeechBatch:
        return self.batch(self.plan[number], number)

    def batch(self, rows: list[int], number: int | None) -> SpeechBatch:
        """Makes the tensors of some rows; `number` seeds their augmentation, None turns it off."""
        columns = self.dataset[rows]
        features, labels, languages, indices, speakers, problems = [], [], [], [], [], {}
        names = columns.get("speaker", [None] * len(rows))
        changes_waveforms = self.waveform_augment and number is not None and number >= self.waveform_augment_from
        snr = self.snr if number is None else None
        for i, row in enumerate(rows):
            try:
                rng = np.random.default_rng([self.seed, number, i]) if changes_waveforms else None
                audio = columns["audio"][i], columns["duration_seconds"][i]
                frames, ids = self._example(row, *audio, columns["text"][i], rng, snr)
            except (AudioError, ValueError) as error:
                problems[row] = f"utterance {columns['id'][i]}: {error}"
                continue
            features.append(frames)
            labels.append(torch.tensor(ids, dtype=torch.long))
            languages.append(self.language_ids.get(columns["language"][i], IGNORED))
            indices.append(row)
            speakers.append(recording_of(columns["audio"][i]) if names[i] is None else names[i])
        if not features:
            # Every process must take part in every update, so a batch without usable rows becomes silence.
            features, labels, languages = [self.ctc.extract(np.empty(0, np.float32))], [torch.tensor([])], [IGNORED]
        num_frames = torch.tensor([len(frames) for frames in features])
        batch = pad_sequence(features, batch_first=True)
        if self.augment is not None and number is not None and number >= self.augment_from:
            generator = torch.Generator().manual_seed(micro_batch_seed(self.seed, number))
            batch = spec_augment(batch, num_frames, self.augment, generator, self.ctc.has_zero_mean)
        if self.match is not None and number is None and indices:
            batch = self.match(batch, num_frames, speakers)
        return SpeechBatch(
            input_features=batch,
            attention_mask=(torch.arange(batch.shape[1]) < num_frames[:, None]).long(),
            labels=pad_sequence(labels, batch_first=True, padding_value=IGNORED).long() if self.with_labels else None,
            language_ids=torch.tensor(languages),
            indices=indices,
            problems=problems,
        )

    def _example(
        self,
        row: int,
        audio: dict,
        stated_seconds: float,
        text: str | None,
        rng: np.random.Generator | None,
        snr: float | None,
    ) -> tuple[torch.Tensor, list[int]]:
        """Returns inputs (T, F) or (T,) and label ids; `rng` changes the waveform, unless the labels would not fit."""
        if self.with_labels and text is None:
            raise ValueError("it has no text")
        ids = self.ctc.label_ids(text) if self.with_labels else []
        if rng is not None:
            samples = self._samples(row, audio, stated_seconds)
            samples = augment_waveform(samples, self.ctc.sampling_rate, self.waveform_augment, rng)
            if self._fit(ids, frames := self.ctc.extract(samples)):
                return frames, ids
        if not self._fit(ids, frames := self._features(row, audio, stated_seconds, snr)):
            num_frames = self.ctc.num_output_frames(len(frames))
            raise ValueError(f"{len(ids)} labels do not fit into {num_frames} output frames: {text!r}")
        return frames, ids

    def _fit(self, ids: list[int], frames: torch.Tensor) -> bool:
        return min_ctc_frames(ids) <= self.ctc.num_output_frames(len(frames))

    def _features(self, row: int, audio: dict, stated_seconds: float, snr: float | None) -> torch.Tensor:
        """Returns the inputs (T, F) or (T,) of a row, with noise unless `snr` is None."""
        if self.waveform_augment:
            return self._extract(row, audio, stated_seconds, snr)
        return self._cached((row, snr), lambda: self._extract(row, audio, stated_seconds, snr))

    def _extract(self, row: int, audio: dict, stated_seconds: float, snr: float | None) -> torch.Tensor:
        samples = self._samples(row, audio, stated_seconds)
        if snr is not None:
            samples = add_noise(samples, snr, np.random.default_rng([self.seed, row]))
        return self.ctc.extract(samples)

    def _samples(self, row: int, audio: dict, stated_seconds: float) -> np.ndarray:
        if not self.waveform_augment:
            return self._decode(audio, stated_seconds)
        return self._cached(row, lambda: self._decode(audio, stated_seconds))

    def _cached(self, key: int | tuple[int, float | None], compute: Callable[[], U]) -> U:
        """Returns what is kept under a key, or computes it, and keeps it while there is memory for it."""
        if key in self.cache:
            return cast(U, self.cache[key])
        value = compute()
        if self.cache_bytes_left >= value.nbytes:
            self.cache[key] = value
            self.cache_bytes_left -= value.nbytes
        return value

    def _decode(self, audio: dict, stated_seconds: float) -> np.ndarray:
        """Decodes audio to (N,); raises AudioError if it is far longer than stated, because no batch could hold it."""
        rate, pieces, seconds = self.ctc.sampling_rate, [], 0.0
        for piece in stream_audio(audio, rate):
            pieces.append(piece)
            seconds += len(piece) / rate
            if seconds > 2 * stated_seconds + 1:
                raise AudioError(
                    f"its audio goes on after {seconds:.1f} s, but its duration_seconds is {stated_seconds:.2f}; "
                    "correct that, or cut the recording"
                )
        return np.concatenate(pieces) if len(pieces) > 1 else pieces[0]


def fill_share(share: list[T], empty: T, total: int, num_processes: int) -> list[T]:
    """Returns a process's share of the `total` micro-batches of an update, with `empty` ones up to the largest share.

    Processes meet in each forward with FSDP, and in the last backward of an update without it. An empty micro-batch
    has no utterances and adds nothing to the gradient.
    """
    return share + [empty] * (math.ceil(total / num_processes) - len(share))


def micro_batch_seed(seed: int, number: int) -> int:
    """Returns the seed of the augmentation, dropout and LayerDrop of micro-batch `number`."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0]) >> 1
