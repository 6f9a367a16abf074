"""Makes jobs of what shall be measured: the models of the paper, a control, an oracle, and variants, for each seed.

What is equal is made once: a folder of a variant has the recipe's own name where its settings, and all before it, are
those of the recipe, and otherwise a name that ends with a checksum of them. So variants that differ in stage 4 alone
share the models of stages 1 and 2 and the labels, and a variant that is written again under another name is complete.
"""

from __future__ import annotations

import glob
import hashlib
import json
import shlex
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import yaml

from hf_mlpl.atomic import read_json
from hf_mlpl.training_config import load_config
from hf_mlpl.training_config.files import FREE_IN_FOLDER, check_same_config, language_setting, plain_settings

from .jobs import Job
from .variants import RECIPE, Variant

STAGES = "recipes/demo"  # the folder with a YAML file for each stage, which holds the defaults
SEEDS_APART = 100  # of the teachers of a committee
# Updates of a stage as shares of those of the control
SLIMIPL, SLIMIPL_START, MIXED, FINAL = (3, 5), (1, 5), (4, 5), (1, 5)


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
    start: str = "tiny"
    settings: tuple[str, ...] = ()  # in addition to those of all stages
    launch: tuple[str, ...] = ("python",)
    has_known_texts: bool = True  # of the unlabelled speech
    committee: int = 1  # teachers who vote on the labels of a seed, unless a variant has another number
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


def make_plan(options: Options) -> Plan:
    """Returns the jobs of all seeds.

    Raises:
        ValueError: for settings that do not exist or have wrong values, and for models in `output` that were trained
            with others.
    """
    plan = Plan()
    train_files = _files(options, "train")
    tokens = Path(f"{options.output}/tokens-all.lst")
    command = (sys.executable, "-m", "hf_mlpl", "build-tokenizer", *train_files, "--output", str(tokens))
    plan.jobs["tokens"] = Job("tokens", "tokens", command, tokens)
    for seed in options.seeds:
        _SeedPlan(options, seed, plan).add_all()
    return plan


def _files(options: Options, split: str) -> list[str]:
    """Returns the utterance files of a split, in the order of a shell."""
    return sorted(glob.glob(f"{options.data}/{split}.parquet"))


class _SeedPlan:
    """Adds the jobs of one seed to a plan.

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
        self.finals: dict[str, Made] = {}  # final models of variants
        self.committee: list[_SeedPlan] = []  # of the other teachers, with seeds of their own, up to stage 3
        launch = [sys.executable if word == "python" else word for word in options.launch]
        self.launch, self.module = launch, (*launch, "-m", "hf_mlpl")

    def add_all(self) -> None:
        models, later = self.options.models, self.options.later_updates
        supervised = self._supervised(RECIPE)
        self._evaluate("supervised", supervised)
        if any(model in models for model in ("final", "scratch")) or self.options.variants:
            labels = self._labels(RECIPE, supervised)
            if self.options.has_known_texts:
                self.plan.labels["supervised"][self.seed] = self._labels_of_stage_1(supervised)
            self.plan.labels["final"][self.seed] = labels
        if "final" in models or self.options.variants:
            self.finals["final"] = self._stage_4("final", RECIPE, supervised, labels)
            self._evaluate("final", self.finals["final"])
        if "control" in models:
            self._evaluate("control", self._control(RECIPE, supervised))
        if "oracle" in models:
            self._evaluate("oracle", self._stage_4("oracle", RECIPE, supervised, self._true_texts()))
        if "at_once" in models:
            self._add_at_once(supervised)
        if "scratch" in models:
            settings = self._common("supervised", self.options.updates, f"{self.labelled}, {labels.path}")
            mixed = self._train("scratch_mixed", "supervised", settings, ["tokens", *labels.jobs])
            settings = [*self._common("final", _share(later, FINAL), self.labelled), f"model={mixed.path}"]
            self._evaluate("scratch", self._train("scratch", "final", settings, mixed.jobs))
        for variant in self.options.variants:
            self._add_variant(variant)

    def _add_variant(self, variant: Variant) -> None:
        supervised = self._supervised(variant)
        labels = self._labels(variant, supervised)
        self.plan.labels[variant.name][self.seed] = labels
        self.finals[variant.name] = self._stage_4("final", variant, supervised, labels)
        self._evaluate(variant.name, self.finals[variant.name])
        if "supervised" in variant.settings:
            self._evaluate(f"{variant.name} supervised", supervised)
        if "control" in variant.settings:
            self._evaluate(f"{variant.name} control", self._control(variant, supervised))
        if "oracle" in variant.settings:
            oracle = self._stage_4("oracle", variant, supervised, self._true_texts())
            self._evaluate(f"{variant.name} oracle", oracle)

    def _common(self, stage: str, updates: int, train: str) -> list[str]:
        more = [] if stage == "language_finetune" else [f"tokens={self.options.output}/tokens-all.lst"]
        more += [] if stage == "language_finetune" else ["save_every=500"]
        return [
            f"seed={self.seed}",
            f"max_updates={updates}",
            "dev=[]",
            f"max_batch_seconds={self.options.batch_seconds:g}",
            *more,
            *self.options.settings,
            f"train=[{train}]",
        ]

    def _supervised(self, variant: Variant) -> Made:
        settings = [*self._common("supervised", self.options.updates, self.labelled), f"model={self.options.start}"]
        return self._train("supervised", "supervised", settings, ["tokens"], variant)

    def _control(self, variant: Variant, supervised: Made) -> Made:
        """Trains on labels alone, with the settings of stage 4's first part, for as many updates as stage 4 has."""
        settings = self._common("mixed", self.options.later_updates, self.labelled)
        settings.append(f"model={supervised.path}")
        return self._train("control", "mixed", settings, supervised.jobs, variant, variant.settings.get("control", ()))

    def _stage_4(self, name: str, variant: Variant, supervised: Made, labels: Made) -> Made:
        """Trains on labels and other texts, then on labels alone."""
        later = self.options.later_updates
        more = variant.settings.get("oracle", ()) if name == "oracle" else ()
        settings = self._common("mixed", _share(later, MIXED), f"{self.labelled}, {labels.path}")
        settings.append(f"model={supervised.path}")
        changes = (*variant.settings.get("mixed", ()), *more)
        mixed = self._train(f"{name}_mixed", "mixed", settings, (*supervised.jobs, *labels.jobs), variant, changes)
        settings = [*self._common("final", _share(later, FINAL), self.labelled), f"model={mixed.path}"]
        changes = (*variant.settings.get("final", ()), *more)
        return self._train(name, "final", settings, mixed.jobs, variant, changes)

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
        check_same_config(load_config(_yaml(stage), settings), [])
        command = (*self.module, "train", _yaml(stage), *settings)
        return self._add(name, base, command, f"{folder}/model", needs)

    def _key(self, stage: str, settings: Sequence[str]) -> str:
        """Returns a checksum of all settings that change the result, but for the seed and the place of the output."""
        config = plain_settings(load_config(_yaml(stage), ["output_dir=any", *settings]))
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

    # ------------------------------------------------------------------------------------------------------- labels

    def _true_texts(self) -> Made:
        return Made(self.unlabelled, ())

    def _labels(self, variant: Variant, supervised: Made) -> Labels:
        """Adds stages 2 and 3 of all languages, and what a variant does with labels afterwards."""
        wanted = variant.labels
        labels = self._labels_of_teacher(variant, supervised)
        size = wanted.committee or self.options.committee
        if size > 1 and wanted.teacher not in self.finals:  # other seeds have no final models
            others = [each._labels_of_teacher(variant, each._supervised(variant)) for each in self._others(size - 1)]
            labels = self._voted([labels, *others])
        return self._filtered(labels, wanted.filter) if wanted.filter else labels

    def _others(self, count: int) -> list[_SeedPlan]:
        """Returns the plans of the other teachers of a committee; their folders have the names of this seed's."""
        for number in range(len(self.committee) + 1, count + 1):
            seed, folder = self.seed + SEEDS_APART * number, f"{self.folder}/committee-{number}"
            other = _SeedPlan(self.options, seed, self.plan, folder)
            other.keys = self.keys
            self.committee.append(other)
        return self.committee[:count]

    def _labels_of_teacher(self, variant: Variant, supervised: Made) -> Labels:
        wanted = variant.labels
        if wanted.teacher == "language_finetune":
            labels, teachers = self._language_finetune(variant, supervised)
        else:
            teacher = supervised if wanted.teacher == "supervised" else self.finals[wanted.teacher]
            labels, teachers = None, dict.fromkeys(self.options.languages, teacher)
        if wanted.options or labels is None:
            labels = self._label(teachers, wanted.options)
        return labels

    def _language_finetune(self, variant: Variant, supervised: Made) -> tuple[Labels, dict[str, Made]]:
        """Adds slimIPL and the labels of its model, a job for each language; returns the labels and the models."""
        options, later = self.options, self.options.later_updates
        settings = [
            *self._common("language_finetune", _share(later, SLIMIPL), self.labelled),
            f"model={supervised.path}",
            f"slimipl.start_update={_share(later, SLIMIPL_START)}",
            f"unlabelled=[{self.unlabelled}]",
            *variant.settings.get("language_finetune", ()),
        ]
        base, search, needs = "labels", [], supervised.jobs
        if options.lm_weight:
            base = f"labels_lm_{options.lm_weight:g}"  # labels of another weight are others
            search = ["--lm", self._language_models(), "--lm-weight", f"{options.lm_weight:g}"]
            needs = (*needs, "lm")
        key = self._key("language_finetune", [*settings, "language=any"])
        labels = f"{self.run}/{self._name(base, key, variant)}"
        model = f"{self.run}/{self._name('{language}', key, variant)}"
        settings = [f"output_dir={model}", *settings]
        command = [
            sys.executable,
            "-m",
            "hf_mlpl",
            "language-finetune",
            _yaml("language_finetune"),
            "--labels",
            labels,
        ]
        command += ["--launch", shlex.join(self.launch), *search, *settings, "--languages"]
        teachers = {}
        for language in options.languages:
            folder = model.replace("{language}", language)
            check_same_config(load_config(_yaml("language_finetune"), [*settings, language_setting(language)]), [])
            name = f"{folder.removeprefix(self.run + '/')}.labels"
            done = f"{labels}/{language}/complete.json"
            made = self._add(name, "language_finetune", [*command, language], done, needs)
            teachers[language] = Made(f"{folder}/model", made.jobs)
        jobs = tuple(job for teacher in teachers.values() for job in teacher.jobs)
        if len(teachers) > 1:  # each language has written counts of its own alone to labels/complete.json
            name, counted = labels.removeprefix(self.run + "/"), f"{labels}/complete.json"
            is_whole = partial(_has_languages, Path(counted), options.languages)
            command += options.languages
            jobs = self._add(name, "labels", command, counted, jobs, is_whole=is_whole).jobs
        return Labels(f"{labels}/*/labels.parquet", jobs, f"{labels}.json"), teachers

    def _language_models(self) -> str:
        """Adds the job that makes a language model of each language's transcripts; returns their folder."""
        folder, languages = Path(f"{self.options.output}/lm"), self.options.languages
        command = (
            sys.executable,
            "-m",
            "hf_mlpl",
            "build-lm",
            *_files(self.options, "train"),
            "--output",
            str(folder),
        )
        is_whole = partial(_has_language_models, folder, languages)
        self.plan.jobs.setdefault("lm", Job("lm", "lm", command, folder, is_whole=is_whole))
        return str(folder)

    def _label(self, teachers: dict[str, Made], options: Sequence[str]) -> Labels:
        """Adds jobs that label each language with a model."""
        key = self._checksum(json.dumps([sorted((name, made.path) for name, made in teachers.items()), list(options)]))
        folder, jobs = f"{self.run}/labels-{key}", []
        for language, teacher in teachers.items():
            command = [
                *self.module,
                "pseudo-label",
                "--model",
                teacher.path,
                "--data",
                *_files(self.options, "unlabelled"),
            ]
            command += ["--languages", language, "--output", f"{folder}/{language}", *options]
            name, done = f"labels-{key}-{language}", f"{folder}/{language}/complete.json"
            jobs += self._add(name, "pseudo-label", command, done, teacher.jobs).jobs
        return Labels(f"{folder}/*/labels.parquet", tuple(jobs), f"{folder}.json")

    def _voted(self, labels: Sequence[Labels]) -> Labels:
        paths = [each.path for each in labels]
        key = self._checksum(json.dumps([paths, self.options.languages]))
        path = f"{self.run}/voted-{key}.parquet"
        command = (sys.executable, "-m", "hf_mlpl", "vote-labels", *paths, "--output", path)
        jobs = [job for each in labels for job in each.jobs]
        made = self._add(f"voted-{key}", "vote-labels", command, path, jobs)
        return Labels(path, made.jobs, f"{path.removesuffix('.parquet')}.json")

    def _filtered(self, labels: Labels, conditions: Sequence[str]) -> Labels:
        key = self._checksum(json.dumps([labels.path, list(conditions)]))
        path, filters = f"{self.run}/kept-{key}.parquet", Path(f"{self.run}/kept-{key}.yaml")
        files = dict.fromkeys(labels.path.replace("*", language) for language in self.options.languages)
        command = [
            sys.executable,
            "-m",
            "hf_mlpl",
            "filter-labels",
            *files,
            "--filters",
            str(filters),
            "--output",
            path,
        ]
        text = yaml.safe_dump({"filter": list(conditions)}, allow_unicode=True)
        made = self._add(f"kept-{key}", "filter-labels", command, path, labels.jobs, inputs={filters: text})
        return Labels(path, made.jobs, f"{path.removesuffix('.parquet')}.json")

    # -------------------------------------------------------------------------------------------------- evaluations

    def _add_at_once(self, supervised: Made) -> None:
        """Adds the paper's negative result, slimIPL on all languages at once, and its labels, for comparison."""
        settings = [
            *self._common("at_once", self.options.later_updates, self.labelled),
            *("language=null", "language_alpha=0.3", f"model={supervised.path}", "slimipl.cache_size=32"),
            # as the paper's, whose harm others would hide
            *("slimipl.auto_stop=false", "slimipl.first_label_share=1.0"),
            *("slimipl.prior_strength=0.0", "slimipl.match_speakers=false"),
            f"unlabelled=[{self.unlabelled}]",
        ]
        at_once = self._train("at_once", "language_finetune", settings, supervised.jobs)
        self._evaluate("at_once", at_once)
        folder = f"{self.run}/labels_at_once"
        data = ("--data", *_files(self.options, "unlabelled"), "--output", folder, "--num-workers", "0")
        command = (*self.module, "pseudo-label", "--model", at_once.path, *data)
        made = self._add("labels_at_once", "pseudo-label", command, f"{folder}/complete.json", at_once.jobs)
        self.plan.labels["at_once"][self.seed] = Labels(f"{folder}/labels.parquet", made.jobs, f"{folder}.json")

    def _evaluate(self, column: str, model: Made) -> None:
        """Adds an evaluation on the speakers of the split, for a column of the tables."""
        split = self.options.split
        folder = Path(model.path).parent.name
        results = f"{self.run}/{folder}.json" if split == "test" else f"{self.run}/{folder}.{split}.json"
        self._evaluation(f"{folder}.{split}", results, model, _files(self.options, split))
        self.plan.results[column][self.seed] = Path(results)

    def _labels_of_stage_1(self, supervised: Made) -> Labels:
        """Adds an evaluation on the unlabelled speech, which stands for the labels that stage 1 would make."""
        languages = ("--languages", *self.options.languages)
        results = f"{self.run}/labels_supervised.json"
        self._evaluation("labels_supervised", results, supervised, _files(self.options, "unlabelled"), languages)
        return Labels("", (), results)

    def _evaluation(self, name: str, results: str, model: Made, data: Sequence[str], more: Sequence[str] = ()) -> None:
        command = (sys.executable, "-m", "hf_mlpl", "evaluate", "--model", model.path, "--data", *data, *more)
        source = Path(model.path)
        self._add(name, "evaluate", (*command, "--output", results), results, model.jobs, source=source)


def _yaml(stage: str) -> str:
    return f"{STAGES}/{stage}.yaml"


def _has_languages(counts: Path, languages: Sequence[str]) -> bool:
    return set(languages) <= read_json(counts, languages=dict)["languages"].keys()


def _has_language_models(folder: Path, languages: Sequence[str]) -> bool:
    return all((folder / f"{language}.arpa").exists() for language in languages)


def _share(updates: int, share: tuple[int, int]) -> int:
    return updates * share[0] // share[1]
