"""Holds what is measured and what is planned for it, and adds jobs that train and evaluate models of one seed.

A folder of a variant has the recipe's own name where its settings, and all before it, are those of the recipe, and
otherwise a name that ends with a checksum of them: what is equal is made once.
"""

from __future__ import annotations

import glob
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hf_mlpl.training_config import load_config
from hf_mlpl.training_config.files import FREE_IN_FOLDER, check_same_config, plain_settings

from .jobs import Job
from .variants import RECIPE, Variant

STAGES = "recipes/demo"  # the folder with a YAML file for each stage, which holds the defaults
RATE = "learning_rate=0.0015"  # of stage 1: half of the demo's, whose run is short


@dataclass(frozen=True)
class Options:
    """Says what is measured, on which data, and for how long; `recipes/proof.sh --help` explains all of it."""

    data: str  # a folder, or a pattern of folders
    output: str
    languages: tuple[str, ...]
    seeds: tuple[int, ...]
    models: tuple[str, ...]
    split: str = "test"
    variants: tuple[Variant, ...] = ()
    updates: int = 2000  # of stage 1
    later_updates: int = 1000  # of the control, and of both parts of stage 4 together
    batch_seconds: float = 15
    curriculum: int = 0  # updates of stage 1 on short utterances alone
    start: str = "tiny"
    settings: tuple[str, ...] = ()  # in addition to those of all stages
    launch: tuple[str, ...] = ("python",)
    has_known_texts: bool = True  # of the unlabelled speech
    committee: int = 1  # teachers who vote on the labels of a seed, unless a variant has another number
    average: int = 1  # trainings of the control, final model and oracle, whose weights are averaged
    lm_weight: float = 0.0  # of language models of the transcripts, with which labels are found; 0: they are greedy


@dataclass(frozen=True)
class Made:
    """Names a folder or file that jobs make, and the last of these jobs."""

    path: str
    jobs: tuple[str, ...]


@dataclass(frozen=True)
class Labels(Made):
    """Names files of labels, by a pattern, and the file for their scores.

    There are none of stage 1, whose scores are those of an evaluation on the same speech.
    """

    results: str = ""


@dataclass
class Plan:
    """Holds jobs in an order in which each follows those it needs, and the files of what the tables show.

    Args:
        results: of evaluations, by model or variant, then by seed. "NAME supervised", "NAME control" and "NAME oracle"
            are a variant's own.
        labels: by the model or variant that learns from them, then by seed; those of stage 1 by "supervised".
    """

    jobs: dict[str, Job] = field(default_factory=dict)
    results: defaultdict[str, dict[int, Path]] = field(default_factory=lambda: defaultdict(dict))
    labels: defaultdict[str, dict[int, Labels]] = field(default_factory=lambda: defaultdict(dict))


def files_of(options: Options, split: str) -> list[str]:
    """Returns the utterance files of a split, in the order of a shell."""
    return sorted(glob.glob(f"{options.data}/{split}.parquet"))


class SeedJobs:
    """Adds jobs of one seed to a plan.

    Args:
        folder: for what the jobs make, in `options.output`.
    """

    def __init__(self, options: Options, seed: int, plan: Plan, folder: str | None = None):
        self.options, self.seed, self.plan = options, seed, plan
        self.folder = folder or str(seed)
        self.run = f"{options.output}/{self.folder}"
        self.labelled = f"{options.data}/train.parquet"
        self.unlabelled = f"{options.data}/unlabelled.parquet"
        self.keys: dict[str, str] = {}  # of the recipe's own folders
        launch = [sys.executable if word == "python" else word for word in options.launch]
        self.launch, self.module = launch, (*launch, "-m", "hf_mlpl")

    def _common(self, stage: str, updates: int, train: str) -> list[str]:
        more = [f"tokens={self.options.output}/tokens-all.lst", "save_every=500"]
        stage_1 = [RATE, *([f"curriculum.updates={self.options.curriculum}"] if self.options.curriculum else [])]
        return [
            *(stage_1 if stage == "supervised" else []),
            f"seed={self.seed}",
            f"max_updates={updates}",
            "dev=[]",
            f"max_batch_seconds={self.options.batch_seconds:g}",
            *([] if stage == "language_finetune" else more),
            *self.options.settings,
            f"train=[{train}]",
        ]

    def _supervised(self, variant: Variant) -> Made:
        settings = [*self._common("supervised", self.options.updates, self.labelled), f"model={self.options.start}"]
        return self._train("supervised", "supervised", settings, ["tokens"], variant)

    def _train(
        self,
        base: str,
        stage: str,
        settings: Sequence[str],
        needs: Sequence[str],
        variant: Variant = RECIPE,
        changes: Sequence[str] | None = None,
    ) -> Made:
        """Adds a job that trains a model with a stage's settings and `changes`, by default the variant's of the stage.

        Args:
            base: name of the recipe's own folder.
        """
        changes = variant.settings.get(stage, ()) if changes is None else changes
        settings = [*settings, *changes]
        name = self._name(base, self._key(stage, settings), variant)
        folder = f"{self.run}/{name}"
        settings = [f"output_dir={folder}", *settings]
        check_same_config(load_config(stage_yaml(stage), settings), [])
        command = (*self.module, "train", stage_yaml(stage), *settings)
        return self._add(name, base, command, f"{folder}/model", needs)

    def _key(self, stage: str, settings: Sequence[str]) -> str:
        """Returns a checksum of all settings that change the result, but for the seed and the place of the output."""
        config = plain_settings(load_config(stage_yaml(stage), ["output_dir=any", *settings]))
        text = json.dumps([stage, {name: config[name] for name in config if name not in {*FREE_IN_FOLDER, "seed"}}])
        return self._checksum(text)

    def _checksum(self, text: str) -> str:
        text = text.replace(f"{self.run}/", "RUN/").replace(f"{self.options.output}/", "OUTPUT/")
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def _name(self, base: str, key: str, variant: Variant) -> str:
        """Returns the recipe's own name for what is equal to the recipe's, or one that tells what differs apart."""
        if variant is RECIPE:
            self.keys[base] = key
        return base if self.keys.get(base) == key else f"{base}-{key}"

    def _add(self, name: str, kind: str, command: Sequence[str], result: str, needs: Sequence[str], **more) -> Made:
        """Adds a job, unless an equal one is there already."""
        name = f"{self.folder}/{name}"
        if name not in self.plan.jobs:
            needs = tuple(dict.fromkeys(needs))
            self.plan.jobs[name] = Job(name, kind, tuple(command), Path(result), needs, **more)
        assert self.plan.jobs[name].result == Path(result), f"two different jobs are called {name}"
        return Made(result, (name,))


def command_line(*words: str) -> tuple[str, ...]:
    """Returns the words of a command of `hf-mlpl` that runs in one process."""
    return sys.executable, "-m", "hf_mlpl", *words


def stage_yaml(stage: str) -> str:
    """Returns the file with a stage's defaults."""
    return f"{STAGES}/{stage}.yaml"


def share_of(updates: int, share: tuple[int, int]) -> int:
    """Returns a share of a number of updates, given as numerator and denominator."""
    return updates * share[0] // share[1]
