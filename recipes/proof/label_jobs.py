"""Adds jobs of stages 2 and 3: slimIPL and its labels, those of other teachers, votes on them, and their filters."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import yaml

from hf_mlpl.atomic import read_json
from hf_mlpl.training_config import load_config
from hf_mlpl.training_config.files import check_same_config, language_setting

from .jobs import Job
from .seed_jobs import Labels, Made, Options, Plan, SeedJobs, command_line, files_of, share_of, stage_yaml
from .variants import Variant

SEEDS_APART = 100  # of the teachers of a committee, and of the models of a mean
SLIMIPL, SLIMIPL_START = (3, 5), (1, 5)  # updates as shares of those of the control


class LabelJobs(SeedJobs):
    """Adds jobs that make labels for one seed."""

    def __init__(self, options: Options, seed: int, plan: Plan, folder: str | None = None):
        super().__init__(options, seed, plan, folder)
        self.finals: dict[str, Made] = {}  # final models of variants
        self.committee: list[LabelJobs] = []  # of the other teachers, with seeds of their own, up to stage 3

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

    def _others(self, count: int) -> list[LabelJobs]:
        """Returns the plans of the other teachers of a committee; their folders have the names of this seed's."""
        for number in range(len(self.committee) + 1, count + 1):
            seed, folder = self.seed + SEEDS_APART * number, f"{self.folder}/committee-{number}"
            other = LabelJobs(self.options, seed, self.plan, folder)
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
            *self._common("language_finetune", share_of(later, SLIMIPL), self.labelled),
            f"model={supervised.path}",
            f"slimipl.start_update={share_of(later, SLIMIPL_START)}",
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
        command = command_line("language-finetune", stage_yaml("language_finetune"), "--labels", labels)
        command = (*command, "--launch", shlex.join(self.launch), *search, *settings, "--languages")
        teachers = {}
        for language in options.languages:
            folder = model.replace("{language}", language)
            config = load_config(stage_yaml("language_finetune"), [*settings, language_setting(language)])
            check_same_config(config, [])
            name = f"{folder.removeprefix(self.run + '/')}.labels"
            done = f"{labels}/{language}/complete.json"
            made = self._add(name, "language_finetune", (*command, language), done, needs)
            teachers[language] = Made(f"{folder}/model", made.jobs)
        jobs = tuple(job for teacher in teachers.values() for job in teacher.jobs)
        if len(teachers) > 1:  # each language has written counts of its own alone to labels/complete.json
            name, counted = labels.removeprefix(self.run + "/"), f"{labels}/complete.json"
            is_whole = partial(_has_languages, Path(counted), options.languages)
            command = (*command, *options.languages)
            jobs = self._add(name, "labels", command, counted, jobs, is_whole=is_whole).jobs
        return Labels(f"{labels}/*/labels.parquet", jobs, f"{labels}.json"), teachers

    def _language_models(self) -> str:
        """Adds the job that makes a language model of each language's transcripts; returns their folder."""
        folder, languages = Path(f"{self.options.output}/lm"), self.options.languages
        command = command_line("build-lm", *files_of(self.options, "train"), "--output", str(folder))
        is_whole = partial(_has_language_models, folder, languages)
        self.plan.jobs.setdefault("lm", Job("lm", "lm", command, folder, is_whole=is_whole))
        return str(folder)

    def _label(self, teachers: dict[str, Made], options: Sequence[str]) -> Labels:
        """Adds jobs that label each language with a model."""
        key = self._checksum(json.dumps([sorted((name, made.path) for name, made in teachers.items()), list(options)]))
        folder, jobs = f"{self.run}/labels-{key}", []
        for language, teacher in teachers.items():
            data = ("--data", *files_of(self.options, "unlabelled"), "--languages", language)
            command = (*self.module, "pseudo-label", "--model", teacher.path, *data)
            command = (*command, "--output", f"{folder}/{language}", *options)
            name, done = f"labels-{key}-{language}", f"{folder}/{language}/complete.json"
            jobs += self._add(name, "pseudo-label", command, done, teacher.jobs).jobs
        return Labels(f"{folder}/*/labels.parquet", tuple(jobs), f"{folder}.json")

    def _voted(self, labels: Sequence[Labels]) -> Labels:
        paths = [each.path for each in labels]
        transcripts = files_of(self.options, "train")
        key = self._checksum(json.dumps([paths, self.options.languages, transcripts]))
        path = f"{self.run}/voted-{key}.parquet"
        command = command_line("vote-labels", *paths, "--transcripts", *transcripts, "--output", path)
        jobs = [job for each in labels for job in each.jobs]
        made = self._add(f"voted-{key}", "vote-labels", command, path, jobs)
        return Labels(path, made.jobs, f"{path.removesuffix('.parquet')}.json")

    def _filtered(self, labels: Labels, conditions: Sequence[str]) -> Labels:
        key = self._checksum(json.dumps([labels.path, list(conditions)]))
        path, filters = f"{self.run}/kept-{key}.parquet", Path(f"{self.run}/kept-{key}.yaml")
        files = dict.fromkeys(labels.path.replace("*", language) for language in self.options.languages)
        command = command_line("filter-labels", *files, "--filters", str(filters), "--output", path)
        text = yaml.safe_dump({"filter": list(conditions)}, allow_unicode=True)
        made = self._add(f"kept-{key}", "filter-labels", command, path, labels.jobs, inputs={filters: text})
        return Labels(path, made.jobs, f"{path.removesuffix('.parquet')}.json")


def _has_languages(counts: Path, languages: Sequence[str]) -> bool:
    return set(languages) <= read_json(counts, languages=dict)["languages"].keys()


def _has_language_models(folder: Path, languages: Sequence[str]) -> bool:
    return all((folder / f"{language}.arpa").exists() for language in languages)
