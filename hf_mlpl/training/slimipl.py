"""slimIPL: one model that labels unlabelled speech while it trains on its earlier labels.

The algorithm is that of https://arxiv.org/abs/2010.11524 as its authors' program has it (wav2letter
`recipes/slimIPL/src/Train.cpp`). There each process has a cache of its own; here there is one for the whole run, and
a *batch* is one of an update's micro-batches, so a run is the same on any number of processes.

`SlimIplPlan` says which utterances each update trains on and which it labels. Labels play no part in that, so every
process follows the same plan, and loader workers run ahead of it. `SlimIpl` carries it out: it labels, keeps the
labels by utterance id, and hands out batches with them. A label is kept by one process, which a hash of the id
chooses: variants that keep all labels need no more memory on many processes, and a run goes on with another number of
them. `LabelHealth` tells what the labels are like.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from safetensors.torch import load_model, save_model
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from ..atomic import write_json
from ..data.batches import BatchPlan, SpeechBatch, SpeechBatches
from ..data.rows import Column, blocks
from ..data.selection import min_ctc_frames
from ..evaluation.error_rate import ErrorRate
from ..inference.decoding import Hypothesis, decode_batch
from ..inference.unsharded import unsharded
from ..model.modeling_mlpl import MlplForCTC
from ..model.processing_mlpl import MlplProcessor
from ..model.tokenization_mlpl import IGNORED
from ..training_config import SlimIplConfig

COLLAPSED_SHARE = 0.9  # of an interval's labels, empty or equal: what training on them would learn is that one text
COLLAPSED_LENGTH = 0.1  # of the characters that human transcripts have: what it would learn is to say next to nothing
FEWEST_LABELS = 10  # of which that can be said


@dataclass
class Step:
    """What one update does; a batch is a list of rows of the labelled or the unlabelled data set.

    Args:
        supervised: whether `train` is labelled speech.
        train: an update's micro-batches; none while the cache is filled.
        label: batches to label, at most as many.
    """

    supervised: bool
    train: list[list[int]] = field(default_factory=list)
    label: list[list[int]] = field(default_factory=list)


class SlimIplPlan:
    """The endless sequence of a run's steps; its state is a few numbers and the rows that are in the cache.

    Args:
        labelled, unlabelled: the batches of either set, without end.
        micro_batches: of an update, over all processes; `cache_size` must be a multiple of it.
    """

    def __init__(
        self, config: SlimIplConfig, labelled: BatchPlan, unlabelled: BatchPlan, micro_batches: int, seed: int
    ):
        self.config = config
        self.batches = {True: labelled, False: unlabelled}
        self.micro_batches = micro_batches
        self.rng = np.random.default_rng([seed, 0x511])  # of its own: the batches' are seeded by [seed, pass]
        self.update = 0
        self.used = {True: 0, False: 0}  # batches taken from either plan
        self.pattern: list[bool] = []  # steps that are still to come before it is shuffled again
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
        """Everything that the steps to come depend on, as JSON knows it."""
        return {
            "update": self.update,
            "used": [self.used[True], self.used[False]],
            "pattern": self.pattern,
            "cache": self.cache,
            "position": self.position,
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict) -> None:
        self.update, self.position = state["update"], state["position"]
        self.used = dict(zip((True, False), state["used"], strict=True))
        self.pattern, self.cache = list(state["pattern"]), [list(rows) for rows in state["cache"]]
        self.rng.bit_generator.state = state["rng"]


class SlimIpl:
    """Carries out a plan: `for batches in slimipl` gives this process its share of each update's micro-batches.

    A share is a list of pairs of a micro-batch's number and the micro-batch; it is empty where the update must not
    change the model, because the cache is being filled or one of its batches has no label yet. Call `after_update`
    after each, also after an empty one.

    Args:
        model: the student, not wrapped; it labels too, unless `ema_decay` makes a teacher of its own.
        labelled, unlabelled: makers of the batches of either data set. Where unlabelled utterances have a text, it is
            compared with their labels and used for nothing else.
        num_workers: processes that decode audio ahead of training.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: MlplForCTC,
        processor: MlplProcessor,
        plan: SlimIplPlan,
        labelled: SpeechBatches,
        unlabelled: SpeechBatches,
        num_workers: int,
    ):
        self.accelerator = accelerator
        self.model = model
        self.processor = processor
        self.config = plan.config
        self.plan = plan
        self.step = Step(supervised=True)
        self.loader = _StepLoader(labelled, unlabelled)
        self.num_workers = num_workers
        self.utterances = unlabelled.dataset
        self.ids = Column(unlabelled.dataset, "id")
        self.labels: dict[str, str] = {}  # by utterance id, this process's shard
        self.label_next: list[SpeechBatch] = []  # what `after_update` labels
        self.loaded: list[SpeechBatch] = []  # for the last update, with the problems that were met
        self.teacher = model if self.config.ema_decay is None else copy.deepcopy(model)
        self.health = LabelHealth(labelled.dataset)

    def __iter__(self) -> Iterator[list[tuple[int, SpeechBatch]]]:
        ahead = copy.deepcopy(self.plan)
        shares = (self._share(ahead.update, step) for step in ahead)
        for train, label in DataLoader(self.loader, batch_size=None, sampler=shares, num_workers=self.num_workers):
            self.step = next(self.plan)
            self.loaded = [batch for _, batch in train] + label
            if self.plan.update > self.config.start_update and self.config.dynamic_dropout is not None:
                set_dropout(self.model, self.config.dynamic_dropout)
            yield train if self.step.supervised else self._labelled(train, label)

    def _share(self, update: int, step: Step) -> tuple[bool, list[tuple[int, list[int]]], list[list[int]]]:
        """This process's part of a step; micro-batches are numbered through the whole run."""
        mine = slice(self.accelerator.process_index, None, self.accelerator.num_processes)
        first = (update - 1) * self.plan.micro_batches
        return step.supervised, list(enumerate(step.train, first))[mine], step.label[mine]

    def _labelled(
        self, train: list[tuple[int, SpeechBatch]], label: list[SpeechBatch]
    ) -> list[tuple[int, SpeechBatch]]:
        """An update's batches with the labels that there are before it makes new ones, which it does on the way."""
        labels = self._label(label) if self.config.variant == "naive" else self._look_up(self.step.train)
        known = all(any(self.ids[row] in labels for row in rows) for rows in self.step.train)
        batches = [(number, self._with_labels(batch, labels)) for number, batch in train] if known else []
        if self.config.variant == "cache":
            self.label_next = label
        elif self.config.variant != "naive" and self.step.label:
            self._keep(self._label(label))
        return batches

    @torch.no_grad()
    def after_update(self) -> None:
        """Moves the teacher towards the model, and makes the labels that `cache` makes after an update."""
        if self.teacher is not self.model:
            for mean, current in zip(self.teacher.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(current, 1 - self.config.ema_decay)
        if self.config.variant == "cache" and not self.step.supervised:
            self._keep(self._label(self.label_next))
            self.label_next = []
        num_cached = sum(map(len, self.plan.cache)) / self.accelerator.num_processes  # about: a hash shares them out
        if self.config.variant == "fixed-pre-cache" and len(self.labels) > 2 * num_cached:
            names = (self.ids[row] for rows in self.plan.cache for row in rows)
            self.labels = {name: self.labels[name] for name in names if name in self.labels}

    def _label(self, batches: list[SpeechBatch]) -> dict[str, str]:
        """Greedy labels, in evaluation mode, of this process's and all other processes' batches, by utterance id."""
        was_training = self.teacher.training
        self.teacher.eval()
        made = []
        with unsharded(self.teacher):
            hypotheses = [label for batch in batches for label in decode_batch(self.teacher, self.processor, batch)]
        for hypothesis in hypotheses:
            label_ids = self.processor.tokenizer(hypothesis.text)["input_ids"]
            fits = min_ctc_frames(label_ids) <= hypothesis.num_frames  # `surround` can make it longer than its path
            made.append((hypothesis.row, hypothesis, fits))
        self.teacher.train(was_training)
        made = gather_object(made)
        self.health.unfit += sum(not fits for _, _, fits in made)
        made = [(row, hypothesis) for row, hypothesis, fits in made if fits]
        self.health.add((self.utterances[row], hypothesis) for row, hypothesis in made)
        return {self.ids[row]: hypothesis.text for row, hypothesis in made}

    def _is_mine(self, name: str) -> bool:
        return zlib.crc32(name.encode()) % self.accelerator.num_processes == self.accelerator.process_index

    def _keep(self, labels: dict[str, str]) -> None:
        self.labels |= {name: text for name, text in labels.items() if self._is_mine(name)}

    def _look_up(self, batches: list[list[int]]) -> dict[str, str]:
        """The labels that there are of an update's micro-batches, of all processes, by utterance id."""
        names = (self.ids[row] for rows in batches for row in rows)
        return dict(gather_object([(name, self.labels[name]) for name in names if name in self.labels]))

    def _with_labels(self, batch: SpeechBatch, labels: dict[str, str]) -> SpeechBatch:
        """Those utterances of a batch that have a label, with it."""
        kept = [i for i, row in enumerate(batch.indices) if self.ids[row] in labels]
        if not kept:  # whatever has one cannot be read any more; without indices the batch counts for nothing
            silence = torch.empty(len(batch.language_ids), 0, dtype=torch.long)
            unknown = torch.full_like(batch.language_ids, IGNORED)
            return dataclasses.replace(batch, labels=silence, language_ids=unknown, indices=[])
        rows = [batch.indices[i] for i in kept]
        ids = [self.processor.tokenizer(labels[self.ids[row]])["input_ids"] for row in rows]
        return dataclasses.replace(
            batch,
            input_features=batch.input_features[kept],
            attention_mask=batch.attention_mask[kept],
            labels=pad_sequence([torch.tensor(i, dtype=torch.long) for i in ids], True, IGNORED),
            language_ids=batch.language_ids[kept],
            indices=rows,
        )

    def save(self, folder: Path) -> None:
        """Plan, teacher and labels, whose shards are for any number of processes to read; all processes call it."""
        write_json(folder / f"slimipl-labels-{self.accelerator.process_index:05d}.json", self.labels)
        if self.accelerator.is_main_process:
            write_json(folder / "slimipl.json", self.plan.state_dict())
            if self.teacher is not self.model:
                save_model(self.teacher, folder / "teacher.safetensors")

    def load(self, folder: Path) -> None:
        self.plan.load_state_dict(json.loads((folder / "slimipl.json").read_text(encoding="utf-8")))
        for shard in folder.glob("slimipl-labels-*.json"):
            self._keep(json.loads(shard.read_text(encoding="utf-8")))
        if self.teacher is not self.model:
            load_model(self.teacher, folder / "teacher.safetensors")


class _StepLoader(torch.utils.data.Dataset):
    """Tensors of one process's part of a step: batches to train on, and batches to label, without SpecAugment."""

    def __init__(self, labelled: SpeechBatches, unlabelled: SpeechBatches):
        self.labelled = labelled
        self.unlabelled = unlabelled

    def __getitem__(self, share) -> tuple[list[tuple[int, SpeechBatch]], list[SpeechBatch]]:
        supervised, train, label = share
        batches = self.labelled if supervised else self.unlabelled
        return (
            [(number, batches.batch(rows, number)) for number, rows in train],
            [self.unlabelled.batch(rows, None) for rows in label],
        )


def set_dropout(model: MlplForCTC, probability: float) -> None:
    """Sets dropout and LayerDrop of the transformer layers, as the original's `slimIPL_dyn_dropout` does."""
    for layer in model.model.layers:
        layer.layerdrop = probability
        layer.activation_dropout.p = probability
        layer.attention.attention_dropout = probability


class LabelHealth:
    """What the labels made since the last report are like, and whether training on them can still lead anywhere."""

    def __init__(self, labelled: Dataset):
        characters, seconds = Counter(), Counter()
        for block in blocks(labelled, ["language", "text", "duration_seconds"]):
            texts, durations = block["text"], block["duration_seconds"]
            table = pa.table(
                {"language": block["language"], "characters": pc.utf8_length(texts), "seconds": durations}
            )
            sums = table.group_by("language", use_threads=False).aggregate([("characters", "sum"), ("seconds", "sum")])
            for row in sums.to_pylist():
                for group in (row["language"], None):  # None: all of them, for a language without labelled speech
                    characters[group] += row["characters_sum"]
                    seconds[group] += row["seconds_sum"]
        self.rates = {group: characters[group] / seconds[group] for group in seconds}  # characters per second
        self.rows: list[tuple[dict, Hypothesis]] = []
        self.unfit = 0
        self.unjudged: dict[str, list[tuple[dict, Hypothesis]]] = defaultdict(list)  # by language

    def add(self, rows: Iterable[tuple[dict, Hypothesis]]) -> None:
        """Utterances and their labels."""
        for row, label in rows:
            self.rows.append((row, label))
            self.unjudged[row["language"]].append((row, label))

    def collapsed(self) -> str | None:
        """Says in one line in which languages the labels have collapsed since this was last asked, if they have.

        A language with fewer than ten labels waits for more.
        """
        judged = {language: rows for language, rows in self.unjudged.items() if len(rows) >= FEWEST_LABELS}
        for language in judged:
            del self.unjudged[language]
        problems = {language: collapse(self._statistics(rows)) for language, rows in sorted(judged.items())}
        told = [f"{problem} ({language})" for language, problem in problems.items() if problem]
        if not told:
            return None
        return (
            f"{'; '.join(told)}: training on them teaches nothing else. "
            "Begin later (slimipl.start_update), lower learning_rate, or train longer on labelled speech first"
        )

    def report(self) -> dict | None:
        """Statistics of the labels since the last report; None where there were none.

        `length_ratio`: characters, divided by those that human transcripts of the same languages and durations have;
        `blank_ratio`: share of the output frames that say blank; `empty`: share of the labels; `commonest`: share of
        the commonest label; `language_agreement`: how often the language-ID head is right; `cer`: over the
        utterances that have a text, None where there are none; `unfit`, if any: labels that were not kept because they
        are longer than CTC can learn.
        """
        rows, unfit, self.rows, self.unfit = self.rows, self.unfit, [], 0
        if not rows:
            self.unfit = unfit  # the next report says it
            return None
        return self._statistics(rows) | ({"unfit": unfit} if unfit else {})

    def _statistics(self, rows: list[tuple[dict, Hypothesis]]) -> dict:
        expected = sum(self.rates.get(row["language"], self.rates[None]) * row["duration_seconds"] for row, _ in rows)
        frames = sum(label.num_frames for _, label in rows)
        texts = Counter(label.text for _, label in rows)
        languages = [label.language == row["language"] for row, label in rows if label.language is not None]
        pairs = [(label.text, row["text"]) for row, label in rows if row["text"] is not None]
        errors = ErrorRate()
        for pair in pairs:
            errors.add(*pair)
        return {
            "labels": len(rows),
            "length_ratio": sum(len(label.text) for _, label in rows) / expected,
            "blank_ratio": sum(label.blank_ratio * label.num_frames for _, label in rows) / frames,
            "empty": texts[""] / len(rows),
            "commonest": texts.most_common(1)[0][1] / len(rows),
            "language_agreement": sum(languages) / len(languages) if languages else None,
            "cer": errors.rate if pairs else None,
        }


def collapse(report: dict) -> str | None:
    """Says in a clause how the labels of a report have collapsed, if they have."""
    if report["labels"] < FEWEST_LABELS:
        return None
    for share, what in ((report["empty"], "empty"), (report["commonest"], "the same text")):
        if share >= COLLAPSED_SHARE:
            return f"{share:.0%} of {report['labels']} pseudo-labels are {what}"
    if (ratio := report.get("length_ratio", 1.0)) < COLLAPSED_LENGTH:
        return f"{report['labels']} pseudo-labels have {ratio:.0%} of the letters that transcripts have"
    return None
