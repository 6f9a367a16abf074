"""From utterances to batches: what training can use, batches by a budget of seconds, and their tensors.

A micro-batch is a function of (seed, its number) alone: which utterances it holds and how they are augmented. So a run
may be resumed, or spread over any number of processes and loader workers, by choosing the numbers that each one makes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence

from .audio import AudioError, load_audio
from .augment import SpecAugmentConfig, spec_augment
from .configuration_mlpl import MlplConfig
from .processing_mlpl import MlplProcessor
from .text import unknown_character_report

logger = logging.getLogger(__name__)

IGNORED = -100  # what losses skip: padding of labels, languages that a model does not know


@dataclass
class SpeechBatch:
    """Tensors of one forward.

    Args:
        input_features: (B, T, F); attention_mask: (B, T), padding on the right.
        labels: (B, L), padded with -100, or None; language_ids: (B,), -100 for a language that the model lacks.
        indices: rows of the data set, in the order of the batch.
        problems: row -> one line, for rows that could not be used; they are not in the batch.
    """

    input_features: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor | None
    language_ids: torch.Tensor
    indices: list[int]
    problems: dict[int, str] = field(default_factory=dict)

    def inputs(self, device: torch.device) -> dict[str, torch.Tensor]:
        """The arguments of `MlplForCTC.forward`."""
        tensors = {name: getattr(self, name) for name in ("input_features", "attention_mask")}
        if self.labels is not None:
            tensors |= {"labels": self.labels, "language_ids": self.language_ids}
        return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}


def min_ctc_frames(label_ids: Sequence[int]) -> int:
    """Output frames that CTC needs for a label sequence: one each, and a blank between equal neighbours."""
    return len(label_ids) + sum(a == b for a, b in zip(label_ids, label_ids[1:], strict=False))


def select_for_training(
    dataset: Dataset, processor: MlplProcessor, config: MlplConfig, max_seconds: float
) -> tuple[Dataset, Counter]:
    """Drops what training cannot use, one line each in the log, and counts it by reason.

    Dropped are utterances without text, with characters that the tokenizer lacks (their labels would be wrong), with
    more labels than output frames (their CTC loss is infinite), and longer than `max_seconds`.

    Raises:
        ValueError: for a language that the model does not know, and when nothing is left.
    """
    _check_languages(dataset, config)
    keep, dropped, unknown_characters = [], Counter(), Counter()
    rows = zip(dataset["id"][:], dataset["text"][:], dataset["duration_seconds"][:], strict=True)
    for index, (name, text, seconds) in enumerate(rows):
        reason = None
        if not text:
            reason = "no text"
        elif unknown := processor.tokenizer.unknown_characters(text):
            unknown_characters += unknown
            reason = "unknown characters"
        elif seconds > max_seconds:
            reason = f"longer than {max_seconds:g} s"
        elif min_ctc_frames(processor.tokenizer(text)["input_ids"]) > _num_output_frames(seconds, processor, config):
            reason = "more labels than frames"
        if reason is None:
            keep.append(index)
        else:
            dropped[reason] += 1
            logger.warning("utterance %s dropped: %s (%.2f s, %r)", name, reason, seconds, text)
    if unknown_characters:
        logger.warning("characters that the tokenizer lacks: %s", unknown_character_report(unknown_characters))
    if not keep:
        raise ValueError(f"none of {len(dataset)} utterances can be used for training: {dict(dropped)}")
    return dataset.select(keep), dropped


def select_unlabelled(dataset: Dataset, config: MlplConfig, max_seconds: float) -> Dataset:
    """Drops utterances longer than `max_seconds`, with one line in the log.

    Raises:
        ValueError: for a language that the model does not know, and when nothing is left.
    """
    _check_languages(dataset, config)
    keep = [row for row, seconds in enumerate(dataset["duration_seconds"][:]) if seconds <= max_seconds]
    if len(keep) < len(dataset):
        logger.warning("%d unlabelled utterances dropped: longer than %g s", len(dataset) - len(keep), max_seconds)
    if not keep:
        raise ValueError(f"none of {len(dataset)} unlabelled utterances is at most {max_seconds:g} s long")
    return dataset.select(keep)


def _check_languages(dataset: Dataset, config: MlplConfig) -> None:
    unknown = sorted(set(dataset["language"][:]) - set(config.languages))
    if unknown:
        raise ValueError(f"the model has no class for {', '.join(unknown)}; it knows {', '.join(config.languages)}")


def _num_output_frames(seconds: float, processor: MlplProcessor, config: MlplConfig) -> int:
    num_samples = round(seconds * processor.feature_extractor.sampling_rate)
    return config.num_output_frames(processor.feature_extractor.num_frames(num_samples))


def plan_batches(durations: np.ndarray, max_batch_seconds: float, rng: np.random.Generator | None = None) -> list:
    """Cuts utterances of similar length into batches of at most `max_batch_seconds`, padding counted.

    Args:
        durations: (N,) seconds.
        rng: varies which similar lengths meet, and shuffles the batches; without it the plan is the one of exact
            order, longest first, so that a batch that does not fit into memory fails at once.

    Returns:
        Lists of rows; an utterance longer than the budget is a batch of its own.
    """
    # 5 % of variation keeps over 95 % of the frames useful, if a length has utterances for several batches.
    keys = durations if rng is None else durations * rng.uniform(0.95, 1.05, len(durations))
    batches, longest = [], 0.0
    for row in np.argsort(-keys, kind="stable").tolist():
        longest = max(longest, durations[row])
        if not batches or longest * (len(batches[-1]) + 1) > max_batch_seconds:
            batches.append([])
            longest = durations[row]
        batches[-1].append(row)
    if rng is not None:
        rng.shuffle(batches)
    return batches


def repetitions(dataset: Dataset, alpha: float, pseudo_label_weight: float = 1.0) -> np.ndarray:
    """How often each utterance occurs in a pass, (N,), so that a group's share is proportional to its hours^alpha.

    Groups are the languages, with human labels and with pseudo-labels apart; the share of the latter is multiplied by
    `pseudo_label_weight`. The utterances of the group that needs it least occur once.
    """
    is_human = [source == "human" for source in dataset["source"][:]]
    groups = [f"{language} {human}" for language, human in zip(dataset["language"][:], is_human, strict=True)]
    names, index = np.unique(groups, return_inverse=True)
    hours = np.bincount(index, weights=np.array(dataset["duration_seconds"][:]), minlength=len(names))
    weights = np.where([name.endswith("True") for name in names], 1.0, pseudo_label_weight)
    rates = weights * hours ** (alpha - 1)
    return (rates / rates.min())[index]


class BatchPlan:
    """The endless sequence of a training run's micro-batches, pass after pass: `plan[number]` is a list of rows.

    Args:
        durations: (N,) seconds.
        max_batch_seconds: audio of one micro-batch, padding counted.
        seed: of what meets what, and of the order.
        repetitions: (N,) mean number of times that each utterance occurs in a pass; by default once.
    """

    def __init__(
        self, durations: np.ndarray, max_batch_seconds: float, seed: int, repetitions: np.ndarray | float = 1.0
    ):
        self.durations = durations
        self.repetitions = np.broadcast_to(repetitions, durations.shape)
        self.max_batch_seconds = max_batch_seconds
        self.seed = seed
        self.first_numbers = [0]  # of each pass
        self.current: tuple[int, list] = (-1, [])

    def __getitem__(self, number: int) -> list[int]:
        epoch = self.epoch(number)
        return self._batches(epoch)[number - self.first_numbers[epoch]]

    def epoch(self, number: int) -> int:
        """The pass over the data that micro-batch `number` belongs to."""
        while number >= self.first_numbers[-1]:
            last = len(self.first_numbers) - 1
            self.first_numbers.append(self.first_numbers[-1] + len(self._batches(last)))
        return int(np.searchsorted(self.first_numbers, number, side="right")) - 1

    def _batches(self, epoch: int) -> list:
        if self.current[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            counts = np.floor(self.repetitions + rng.random(len(self.durations))).astype(int)
            rows = np.repeat(np.arange(len(counts)), counts)
            batches = plan_batches(self.durations[rows], self.max_batch_seconds, rng)
            self.current = (epoch, [rows[batch].tolist() for batch in batches])
        return self.current[1]


class SpeechBatches(torch.utils.data.Dataset):
    """Ready tensors by batch number, for a `DataLoader` with `batch_size=None`: decoding runs in its workers.

    Args:
        dataset: utterances.
        plan: batch number -> rows, a list or a `BatchPlan`.
        with_labels: whether texts become labels; rows whose labels do not fit into their frames are then problems.
        augment: SpecAugment for the batches whose number is at least `augment_from`.
        seed: of the augmentation.
        cache_bytes: memory, in each loader worker, for features that are kept from one pass to the next; small sets
            are then decoded once.
    """

    def __init__(
        self,
        dataset: Dataset,
        plan: Sequence[list[int]] | BatchPlan,
        processor: MlplProcessor,
        config: MlplConfig,
        with_labels: bool,
        augment: SpecAugmentConfig | None = None,
        augment_from: int = 0,
        seed: int = 0,
        cache_bytes: int = 0,
    ):
        self.dataset = dataset
        self.plan = plan
        self.processor = processor
        self.config = config
        self.with_labels = with_labels
        self.augment = augment
        self.augment_from = augment_from
        self.seed = seed
        self.cache: dict[int, torch.Tensor] = {}
        self.cache_bytes_left = cache_bytes
        self.language_ids = {language: i for i, language in enumerate(config.languages)}

    def __getitem__(self, number: int) -> SpeechBatch:
        return self.batch(self.plan[number], number)

    def batch(self, rows: list[int], number: int | None) -> SpeechBatch:
        """Tensors of some rows; `number` decides how they are augmented, None leaves it out."""
        columns = self.dataset[rows]
        features, labels, languages, indices, problems = [], [], [], [], {}
        for i, row in enumerate(rows):
            try:
                frames = self._features(row, columns["audio"][i])
                ids = self._label_ids(columns["text"][i], len(frames)) if self.with_labels else []
            except (AudioError, ValueError) as error:
                problems[row] = f"utterance {columns['id'][i]}: {error}"
                continue
            features.append(frames)
            labels.append(torch.tensor(ids, dtype=torch.long))
            languages.append(self.language_ids.get(columns["language"][i], IGNORED))
            indices.append(row)
        if not features:
            # Every process must take part in every update, so a batch of which nothing is left becomes one silent
            # frame that says nothing.
            features, labels, languages = [torch.zeros(1, self.config.num_mel_bins)], [torch.tensor([])], [IGNORED]
        num_frames = torch.tensor([len(frames) for frames in features])
        batch = pad_sequence(features, batch_first=True)
        if self.augment is not None and number is not None and number >= self.augment_from:
            generator = torch.Generator().manual_seed(micro_batch_seed(self.seed, number))
            batch = spec_augment(batch, num_frames, self.augment, generator)
        return SpeechBatch(
            input_features=batch,
            attention_mask=(torch.arange(batch.shape[1]) < num_frames[:, None]).long(),
            labels=pad_sequence(labels, batch_first=True, padding_value=IGNORED).long() if self.with_labels else None,
            language_ids=torch.tensor(languages),
            indices=indices,
            problems=problems,
        )

    def _features(self, row: int, audio: dict) -> torch.Tensor:  # (T, F)
        if row in self.cache:
            return self.cache[row]
        extractor = self.processor.feature_extractor
        samples = load_audio(audio, extractor.sampling_rate)
        frames = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="pt")["input_features"][0]
        if self.cache_bytes_left >= frames.nbytes:
            self.cache[row] = frames
            self.cache_bytes_left -= frames.nbytes
        return frames

    def _label_ids(self, text: str, num_frames: int) -> list[int]:
        ids = self.processor.tokenizer(text)["input_ids"]
        if min_ctc_frames(ids) > self.config.num_output_frames(num_frames):
            raise ValueError(f"{len(ids)} labels do not fit into {num_frames} feature frames: {text!r}")
        return ids


def micro_batch_seed(seed: int, number: int) -> int:
    """One seed for everything random in micro-batch `number`: augmentation, dropout and LayerDrop."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)
