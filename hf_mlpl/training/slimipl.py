"""Trains by slimIPL: one model labels unlabelled speech while it trains on its earlier labels.

The algorithm is that of https://arxiv.org/abs/2010.11524 as its authors' program has it (wav2letter
`recipes/slimIPL/src/Train.cpp`). There each process has a cache of its own; here there is one for the whole run, and
a *batch* is one of an update's micro-batches, so a run is the same on any number of processes.

`SlimIplPlan` chooses the utterances that each update trains on and those that it labels. It does not depend on the
labels, so every process follows the same plan, and loader workers run ahead of it. `SlimIpl` carries it out: it
labels, keeps the labels by utterance id, and hands out batches with them. Each label is kept by one process, which a
hash of the id chooses: variants that keep all labels need no more memory on many processes, and a run can be resumed
with another number of them.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress, islice, zip_longest
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, ProcessorMixin

from ..atomic import write_json
from ..ctc_models import ctc_interface
from ..data.batches import BatchPlan, SpeechBatch, SpeechBatches, fill_share
from ..data.rows import Column
from ..data.selection import min_ctc_frames
from ..inference.decoding import Hypothesis, decode_batch
from ..inference.hearing import Hearing, choose_hearing, hear
from ..inference.unsharded import unsharded
from ..model.tokenization_mlpl import IGNORED
from ..stop_signal import outlive_signals
from ..training_config import SlimIplConfig
from .label_health import LabelHealth
from .label_probe import LabelProbes
from .label_selection import ClassPrior, ConfidentLabels, TeacherLabel
from .log import TrainingLog
from .trained_weights import copy_of_trained, host_copy_of_trained, load_trained, save_trained

RowBatches = Sequence[list[int]] | BatchPlan
MicroBatch = tuple[int, SpeechBatch]  # with its number, counted through the whole run
Share = tuple[bool, list[tuple[int, list[int]]], list[list[int]]]  # of one process in a `Step`


@dataclass
class Step:
    """Holds the batches of one update; a batch is a list of rows of the labelled or the unlabelled data set.

    Args:
        supervised: whether `train` is labelled speech.
        train: micro-batches to train on; none while the cache is filled.
        label: batches to label, at most as many.
    """

    supervised: bool
    train: list[list[int]] = field(default_factory=list)
    label: list[list[int]] = field(default_factory=list)


class SlimIplPlan:
    """Iterates over a run's steps without end; its state is a few numbers and the rows in the cache.

    Args:
        labelled, unlabelled: endless batches of either data set.
        micro_batches: of an update, over all processes; `cache_size` must be a multiple of it.
    """

    def __init__(
        self, config: SlimIplConfig, labelled: RowBatches, unlabelled: RowBatches, micro_batches: int, seed: int
    ):
        self.config, self.micro_batches = config, micro_batches
        self.batches = {True: labelled, False: unlabelled}
        self.rng = np.random.default_rng([seed, 0x511])  # differs from the batches', whose seed is [seed, pass]
        self.update = 0
        self.used = {True: 0, False: 0}  # batches taken from either data set
        self.pattern: list[bool] = []  # whether each of the next steps is supervised; shuffled anew when it is empty
        self.cache: list[list[int]] = []
        self.position = 0  # in the pass over the cache

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        self.update += 1
        if self.update <= self.config.start_update:
            return Step(True, self._take(True))
        if not self.pattern:
            self.pattern = [True] * self.config.supervised_updates + [False] * self.config.unsupervised_updates
            self.rng.shuffle(self.pattern)
        if self.pattern.pop():
            return Step(True, self._take(True))
        if self.config.variant != "fixed-pre-cache":
            batches = self._take(False)
            return Step(False, train=batches, label=batches)
        if len(self.cache) < self.config.cache_size:
            new = self._take(False)
            self.cache += new
            self.position = len(self.cache)
            return Step(False, label=new)
        replaced = self.rng.random(self.micro_batches) < self.config.cache_update_probability
        if self.position == len(self.cache):
            self.rng.shuffle(self.cache)
            self.position = 0
        step = Step(False)
        for is_replaced in replaced:
            step.train.append(self.cache[self.position])
            if is_replaced:
                step.label += self._take(False, 1)
                self.cache[self.position] = step.label[-1]
            self.position += 1
        return step

    def _take(self, supervised: bool, count: int | None = None) -> list[list[int]]:
        first = self.used[supervised]
        self.used[supervised] += self.micro_batches if count is None else count
        return [self.batches[supervised][number] for number in range(first, self.used[supervised])]

    def state_dict(self) -> dict:
        """Returns all that the next steps depend on, for JSON."""
        return {
            "update": self.update,
            "used": [self.used[True], self.used[False]],
            "pattern": self.pattern,
            "cache": self.cache,
            "position": self.position,
            "rng": self.rng.bit_generator.state,
        }

    def copy(self) -> SlimIplPlan:
        """Returns a plan that goes on from the same state, with the same batches, of which there is no copy."""
        other = SlimIplPlan(self.config, self.batches[True], self.batches[False], self.micro_batches, seed=0)
        other.load_state_dict(copy.deepcopy(self.state_dict()))
        return other

    def load_state_dict(self, state: dict) -> None:
        self.update, self.position = state["update"], state["position"]
        self.used = dict(zip((True, False), state["used"], strict=True))
        self.pattern, self.cache = list(state["pattern"]), [list(rows) for rows in state["cache"]]
        self.rng.bit_generator.state = state["rng"]


class SlimIpl:
    """Carries out a plan: `for batches in slimipl` yields this process's share of each update's micro-batches.

    A share is empty if the update must not change the model, because the cache is being filled or one of the
    update's batches has no label yet (with `first_label_share`, if none of them has one). Call `after_update` after
    each share, empty ones too.

    Args:
        model: the student, not wrapped; also the teacher, unless `ema_decay` is set.
        labelled, unlabelled: batches of either data set. Texts of unlabelled utterances are compared with their labels
            and not learned.
        num_workers: processes that decode audio ahead of training.
        max_updates: of the run, by which the share of labels that are learned grows.
        max_batch_seconds: audio of a batch.
    """

    probes: LabelProbes | None = None  # that follow what labels become; a run sets them

    def __init__(
        self,
        accelerator: Accelerator,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        plan: SlimIplPlan,
        labelled: SpeechBatches,
        unlabelled: SpeechBatches,
        num_workers: int,
        max_updates: int,
        max_batch_seconds: float,
    ):
        self.accelerator, self.model, self.processor = accelerator, model, processor
        self.ctc = ctc_interface(model.config, processor)
        self.plan, self.config, self.num_workers = plan, plan.config, num_workers
        self.step = Step(supervised=True)
        self.loader = _StepLoader(labelled, unlabelled)
        self.utterances = unlabelled.dataset
        self.ids = Column(unlabelled.dataset, "id")
        self.languages = Column(unlabelled.dataset, "language")
        self.labels: dict[str, str] = {}  # by utterance id, this process's shard
        self.label_next: list[SpeechBatch] = []  # for `after_update`
        self.loaded: list[SpeechBatch] = []  # for the last update, with the problems of reading them
        self.teacher = model if self.config.ema_decay is None else copy_of_trained(model)
        self.health = LabelHealth(labelled.dataset)
        self.max_updates, self.max_batch_seconds = max_updates, max_batch_seconds
        self.prior = ClassPrior(labelled.dataset, self.ctc, model.config.vocab_size, self.config.prior_strength)
        self.confident = ConfidentLabels(self.config.first_label_share)
        self.hearing: Hearing | None = None  # that was chosen
        self.has_begun = False  # whether unlabelled speech sounds like that yet

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        ahead = self.plan.copy()
        shares = (self._share(ahead.update, step) for step in ahead)
        # Workers hold a copy of the loader, so those that make batches to label begin when all is chosen.
        if self.plan.update < self.config.start_update:
            yield from self._updates(islice(shares, self.config.start_update - self.plan.update))
        self.begin_labels()
        yield from self._updates(shares)

    def _updates(self, shares: Iterator[Share]) -> Iterator[list[MicroBatch]]:
        workers = {"num_workers": self.num_workers, "worker_init_fn": outlive_signals}
        for train, label in DataLoader(self.loader, batch_size=None, sampler=shares, **workers):
            self.step = next(self.plan)
            self.loaded = [batch for _, batch in train] + label
            if self.plan.update > self.config.start_update and self.config.dynamic_dropout is not None:
                self.ctc.set_dropout(self.model, self.config.dynamic_dropout)
            yield train if self.step.supervised else self._pseudo_labelled(train, label)

    def begin_labels(self) -> None:
        """Chooses how the teacher hears unlabelled speech, unless that is done; all processes call it."""
        if self.has_begun or not self.config.choose_hearing:
            return
        speech = self.loader.unlabelled, self.loader.labelled
        if self.hearing is None:
            self.hearing = choose_hearing(self.accelerator, self.teacher, *speech, self.max_batch_seconds)
        else:
            hear(self.accelerator, self.hearing, *speech)
        self.has_begun = True

    def _share(self, update: int, step: Step) -> Share:
        own = slice(self.accelerator.process_index, None, self.accelerator.num_processes)
        first = (update - 1) * self.plan.micro_batches
        train = list(enumerate(step.train, first))[own]
        train = fill_share(train, (first, []), len(step.train), self.accelerator.num_processes)
        return step.supervised, train, step.label[own]

    def _pseudo_labelled(self, train: list[MicroBatch], label: list[SpeechBatch]) -> list[MicroBatch]:
        """Returns an update's batches with the labels from before the update, then labels others if it is due."""
        labels = self._label(label) if self.config.variant == "naive" else self._find_labels(self.step.train)
        has_labels = [any(self.ids[row] in labels for row in rows) for rows in self.step.train]
        # Where labels are left out on purpose, a batch may have none: the update is then made with the others.
        is_learned = all(has_labels) if self.config.first_label_share == 1 else any(has_labels)
        batches = [(number, self._with_labels(batch, labels)) for number, batch in train] if is_learned else []
        if self.probes:
            self.probes.learned += is_learned and bool(self.step.train)
        if self.config.variant == "cache":
            self.label_next = label
        elif self.config.variant != "naive" and self.step.label:
            self._store(self._label(label))
        return batches

    @torch.no_grad()
    def after_update(self) -> None:
        """Moves the teacher towards the model, makes the labels of variant `cache`, and drops labels out of use."""
        if self.teacher is not self.model:
            for mean, current in zip(self.teacher.parameters(), self.model.parameters(), strict=True):
                if current.requires_grad:  # a frozen parameter is the teacher's too
                    mean.lerp_(current, 1 - self.config.ema_decay)
        if self.config.variant == "cache" and not self.step.supervised:
            self._store(self._label(self.label_next))
            self.label_next = []
        num_cached = sum(map(len, self.plan.cache)) / self.accelerator.num_processes  # in this process, on average
        if self.config.variant == "fixed-pre-cache" and len(self.labels) > 2 * num_cached:
            self.labels = self._own_labels(self.plan.cache)

    def follow_labels(self, update: int, log: TrainingLog) -> bool:
        """Takes a probe of the labels if it is due; returns whether training ends with the weights of the best one."""
        if update >= self.config.start_update:
            self.begin_labels()
        if not self.probes.follow(update, self.teacher, log):
            return False
        self.probes.restore_best(self.model)
        return True

    def outcome(self, update: int) -> dict:
        """Returns what the probes say for `run.json`, and as `hearing` what the teacher hears, if that was chosen."""
        return self.probes.outcome(update) | ({"hearing": str(self.hearing)} if self.hearing else {})

    def _label(self, batches: list[SpeechBatch]) -> dict[str, str]:
        """Labels this process's batches, without dropout; returns all processes' labels, by utterance id.

        Labels that are not to be learned are left out, and older ones of these utterances are forgotten: a fixed cache
        would keep them for as long as the number of processes says.
        """
        was_training = self.teacher.training
        self.teacher.eval()
        with unsharded(self.teacher):
            batches_of_labels = [self._decode(batch) for batch in batches]
        self.teacher.train(was_training)
        # Processes share out the batches one by one: this is their order.
        by_turns = zip_longest(*gather_object([batches_of_labels]), fillvalue=())
        made: list[TeacherLabel] = list(chain.from_iterable(chain.from_iterable(by_turns)))
        self.prior.update(made)
        fitting = [label for label in made if self._fits(label.hypothesis)]
        self.health.unfit += len(made) - len(fitting)
        progress = (self.plan.update - self.config.start_update) / max(self.max_updates - self.config.start_update, 1)
        selected = self.confident.select(fitting, progress)
        labels = [label.hypothesis for label in compress(fitting, selected)]
        self.health.add((self.utterances[label.row], label) for label in labels)
        for label in made:
            self.labels.pop(self.ids[label.hypothesis.row], None)
        return {self.ids[label.row]: label.text for label in labels}

    def _fits(self, label: Hypothesis) -> bool:
        """Returns whether CTC can learn a label, to whose text `surround` may add tokens."""
        return min_ctc_frames(self.ctc.label_ids(label.text)) <= label.num_frames

    def _decode(self, batch: SpeechBatch) -> list[TeacherLabel]:
        """Returns the teacher's labels of a batch."""
        languages: list[str] = [self.languages[row] for row in batch.indices]
        counts: list[np.ndarray | None] = []

        def shift(log_probs: torch.Tensor, num_frames: torch.Tensor, first: int) -> torch.Tensor:
            if not languages:  # the silence of a batch without readable utterances
                return log_probs
            shifted, new = self.prior.shifted(log_probs, num_frames, languages[first : first + len(log_probs)])
            counts.extend(new)
            return shifted

        hypotheses = decode_batch(self.teacher, self.ctc, batch, shift if self.config.prior_strength else None)
        counts = counts or [None] * len(hypotheses)
        return [TeacherLabel(*label) for label in zip(languages, hypotheses, counts, strict=True)]

    def _store(self, labels: dict[str, str]) -> None:
        """Keeps this process's part of the labels."""
        count, own = self.accelerator.num_processes, self.accelerator.process_index
        self.labels |= {name: text for name, text in labels.items() if zlib.crc32(name.encode()) % count == own}

    def _own_labels(self, batches: list[list[int]]) -> dict[str, str]:
        """Returns this process's labels of some batches, by utterance id."""
        ids = (self.ids[row] for rows in batches for row in rows)
        return {name: self.labels[name] for name in ids if name in self.labels}

    def _find_labels(self, batches: list[list[int]]) -> dict[str, str]:
        """Returns all processes' labels of some batches, by utterance id."""
        return dict(gather_object(list(self._own_labels(batches).items())))

    def _with_labels(self, batch: SpeechBatch, labels: dict[str, str]) -> SpeechBatch:
        """Returns a batch of those utterances that have a label, which fits into their frames at the speed drawn."""
        ids, kept = [], []
        frames = self.ctc.num_output_frames(batch.attention_mask.sum(dim=1))
        for i, row in enumerate(batch.indices):
            if self.ids[row] in labels:
                label_ids = self.ctc.label_ids(labels[self.ids[row]])
                if min_ctc_frames(label_ids) <= frames[i]:
                    ids.append(label_ids)
                    kept.append(i)
        if not kept:  # those with a label can no longer be read; without indices the batch adds nothing to the loss
            silence = torch.empty(len(batch.language_ids), 0, dtype=torch.long)
            unknown = torch.full_like(batch.language_ids, IGNORED)
            return dataclasses.replace(batch, labels=silence, language_ids=unknown, indices=[])
        return dataclasses.replace(
            batch,
            input_features=batch.input_features[kept],
            attention_mask=batch.attention_mask[kept],
            labels=pad_sequence([torch.tensor(i, dtype=torch.long) for i in ids], True, IGNORED),
            language_ids=batch.language_ids[kept],
            indices=[batch.indices[i] for i in kept],
        )

    def copy_state(self, copies_teacher: bool = True) -> Callable[[Path], None]:
        """Copies plan, teacher and labels; returns a function that writes the copies into a folder, in any thread.

        All processes call both; any number of processes can read what they write. A teacher that is not copied must
        not change until it is written.
        """
        labels, plan, teacher = dict(self.labels), copy.deepcopy(self.plan.state_dict()), None
        selection = {"prior": self.prior.state_dict(), "scores": self.confident.state_dict(), "hearing": self.hearing}
        if self.teacher is not self.model and self.accelerator.is_main_process:
            teacher = host_copy_of_trained(self.teacher) if copies_teacher else self.teacher
        write_probes = self.probes.copy_state() if self.probes else None

        def write(folder: Path) -> None:
            write_json(folder / f"slimipl-labels-{self.accelerator.process_index:05d}.json", labels)
            if self.accelerator.is_main_process:
                write_json(folder / "slimipl.json", plan)
                write_json(folder / "slimipl-selection.json", selection)
            if teacher is not None:
                save_trained(teacher, folder / "teacher.safetensors")
            if write_probes is not None:
                write_probes(folder)

        return write

    def load(self, folder: Path) -> None:
        """Restores what `copy_state` has written."""
        self.plan.load_state_dict(json.loads((folder / "slimipl.json").read_text(encoding="utf-8")))
        for shard in folder.glob("slimipl-labels-*.json"):
            self._store(json.loads(shard.read_text(encoding="utf-8")))
        if (selection := folder / "slimipl-selection.json").exists():  # an older version wrote none
            state = json.loads(selection.read_text(encoding="utf-8"))
            self.prior.load_state_dict(state["prior"])
            self.confident.load_state_dict(state["scores"])
            self.hearing = Hearing(*hearing) if (hearing := state.get("hearing")) else None
        if self.teacher is not self.model:
            load_trained(self.teacher, folder / "teacher.safetensors")
        if self.probes:
            self.probes.load(folder, self.model)


class _StepLoader(torch.utils.data.Dataset):
    """Loads one process's part of a step: batches to train on, and batches to label, without SpecAugment."""

    def __init__(self, labelled: SpeechBatches, unlabelled: SpeechBatches):
        self.labelled, self.unlabelled = labelled, unlabelled

    def __getitem__(self, share: Share) -> tuple[list[MicroBatch], list[SpeechBatch]]:
        supervised, train, label = share
        batches = self.labelled if supervised else self.unlabelled
        return (
            [(number, batches.batch(rows, number)) for number, rows in train],
            [self.unlabelled.batch(rows, None) for rows in label],
        )
