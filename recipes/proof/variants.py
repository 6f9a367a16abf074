"""Reads a file of variants: names, and the settings in which each differs from the recipe, by stage."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hf_mlpl.error_line import error_line

MODELS = ("supervised", "control", "at_once", "scratch", "final", "oracle")  # in the order of the tables
TRAINED = ("supervised", "control", "language_finetune", "mixed", "final", "oracle")  # stages with settings
FIXED = ("output_dir", "seed", "push_to_hub")  # settings that are the proof's own
LABELS = ("teacher", "filter", "options", "committee")
NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Labels:
    """Says where the labels of a variant come from.

    Args:
        teacher: `language_finetune` (stage 2), `supervised` (stage 1), or another variant, whose final model labels.
        filter: conditions of `hf-mlpl filter-labels`; with none, all labels are used.
        options: more options of `hf-mlpl pseudo-label`.
        committee: number of teachers, with seeds of their own, who vote on the labels before the filter; None for that
            of the recipe.
    """

    teacher: str = "language_finetune"
    filter: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    committee: int | None = None


@dataclass(frozen=True)
class Variant:
    """Holds `name=value` settings by stage, in addition to those of the recipe, which is the variant without any."""

    name: str
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    labels: Labels = Labels()


RECIPE = Variant("final")


def read_variants(path: Path, data: str) -> list[Variant]:
    """Reads variants from a YAML file; `{data}` in a setting becomes the folder of the utterance files.

    Raises:
        ValueError: for anything else than `name: {stage: {setting: value}}`, in one line.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if not isinstance(content, dict):
            raise ValueError("must hold lines of the form `name: {stage: {setting: value}}`")
        variants: list[Variant] = []
        for name, stages in content.items():
            earlier = [variant.name for variant in variants]
            variants.append(_variant(str(name), {} if stages is None else stages, data, earlier))
        if not variants:
            raise ValueError("holds no variant; one is written as `name: {stage: {setting: value}}`")
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error_line(error)}") from error
    return variants


def _variant(name: str, stages: Any, data: str, earlier: list[str]) -> Variant:
    if name in (*MODELS, "default") or not NAME.fullmatch(name):
        raise ValueError(
            f"a variant cannot be called {name!r}; letters, digits, `_`, `-` and `.` are accepted, and not "
            f"{', '.join(MODELS)} or default, which name models of the recipe"
        )
    if not isinstance(stages, dict):
        raise ValueError(f"{name} is {stages!r}; it must hold lines of the form `stage: {{setting: value}}`")
    if unknown := sorted(map(str, stages.keys() - {*TRAINED, "labels"})):
        raise ValueError(f"{name}: no stage is called {', '.join(unknown)}; there are {', '.join(TRAINED)}, labels")
    settings = {}
    for stage, values in stages.items():
        values = {} if values is None else values
        if not isinstance(values, dict):
            raise ValueError(f"{name}: {stage} is {values!r}; it must hold settings of the form `name: value`")
        if stage != "labels":
            settings[stage] = tuple(_overrides(values, data))
            if fixed := [each for each in FIXED if each in values]:
                raise ValueError(f"{name}: {stage} cannot set {', '.join(fixed)}, which differs by itself")
    return Variant(name, settings, _labels(name, stages.get("labels") or {}, earlier))


def _overrides(values: Mapping, data: str, parent: str = "") -> list[str]:
    """Returns settings as `name=value`; fields of nested ones are set one by one, so that the others stay."""
    found = []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found += _overrides(value, data, f"{parent}{name}.")
        else:
            text = json.dumps(value, ensure_ascii=False).replace("{data}", data)  # which YAML reads, too
            found.append(f"{parent}{name}={text}")
    return found


def _labels(name: str, values: Mapping, earlier: list[str]) -> Labels:
    if unknown := sorted(map(str, values.keys() - {*LABELS})):
        raise ValueError(f"{name}: labels has no {', '.join(unknown)}; there are {', '.join(LABELS)}")
    teacher = values.get("teacher", "language_finetune")
    teachers = ["language_finetune", "supervised", *earlier]
    if teacher not in teachers:
        raise ValueError(f"{name}: the teacher is {teacher!r}; it can be {', '.join(teachers)} (a variant above it)")
    committee = values.get("committee")
    if committee is not None and (type(committee) is not int or committee < 1):
        raise ValueError(f"{name}: committee of labels is {committee!r}; it must be a whole number, 1 or more")
    if committee not in (None, 1) and teacher in earlier:
        raise ValueError(
            f"{name}: committee of labels is {committee}, and its teacher {teacher} is trained with one seed; "
            "language_finetune and supervised can have a committee"
        )
    lists = {}
    for key in ("filter", "options"):
        lists[key] = values.get(key) or []
        if not isinstance(lists[key], list) or not all(isinstance(each, (str, int, float)) for each in lists[key]):
            raise ValueError(f"{name}: {key} of labels is {lists[key]!r}; it must be a list of texts")
    return Labels(teacher, tuple(map(str, lists["filter"])), tuple(map(str, lists["options"])), committee)
