"""Reports several runs side by side: their settings, curves and error rates, and the utterances that changed most."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import yaml
from markupsafe import Markup

from ..evaluation.differences import Difference, differences
from ..evaluation.results import METRICS, TITLES
from ..evaluation.speed_line import describe_speed, is_speed
from ..figures import draw_lines, to_svg
from ..model.text import normalize_text
from ..pages.difference import difference
from ..pages.document import document, render
from ..sharing.run_files import NOT_SHOWN, format_hours, spoken, tag_of
from .clips import PAGE_BYTES, Clip, read_clips
from .evaluation_view import LONGEST_TEXT, rates_picture
from .evaluations import MACRO, RATES, Evaluation, Rate
from .run import DEV_RATES, PANELS
from .run_folder import Line, Run, read_runs

TEMPLATES = Path(__file__).parent / "templates"
CHANGED = 10  # utterances that gained most, and as many that lost most


def comparison_report(paths: Sequence[Path], results: Sequence[Path] = ()) -> str:
    """Returns a page on several runs side by side, or on several files of results.

    Args:
        paths: folders of runs, or files of results, in the order of the columns.
        results: files of `hf-mlpl evaluate` of the runs' models.

    Raises:
        ValueError: as `run_report` does, and for a run that is given twice.
    """
    runs = read_runs(paths, results)
    tables = [_Table(same, metric) for same in _on_same_data(runs) for metric in _comparable(same)]
    names = [run.name for run in runs]
    values: dict[str, object] = {
        "names": names,
        "facts": _facts(runs),
        "settings": _differing_settings(runs),
        "tables": tables,
    }
    values["has_seeds"] = len({run.config.get("seed") for run in runs}) > 1
    values["panels"] = list(_panels(runs))

    def page() -> str:
        return document(" · ".join(names), render(TEMPLATES / "comparison.html", **values))

    shown = [utterance for table in tables for _, utterances in table.changed for utterance in utterances]
    clips = read_clips([utterance.audio for utterance in shown], PAGE_BYTES - len(page().encode()))
    for utterance, clip in zip(shown, clips, strict=True):
        utterance.clip = clip
    return page()


def _on_same_data(runs: Sequence[Run]) -> list[dict[str, Evaluation]]:
    """Returns the evaluations of two or more runs on the same data, by the names of the runs.

    Data are the same where names of files, languages and amounts are: folders differ between machines.
    """
    groups: dict[tuple, dict[str, Evaluation]] = {}
    for run in runs:
        for evaluation in run.evaluations:
            results = evaluation.results
            files, unseen = results.get("data", ()), results.get("unseen_in", ())
            names = tuple(tuple(PurePath(file).name for file in each) for each in (files, unseen))
            amounts = [
                (language, scores.get("utterances"), round(scores.get("hours", 0), 5))
                for language, scores in sorted(results["languages"].items())
            ]
            groups.setdefault((names, tuple(amounts)), {}).setdefault(run.name, evaluation)
    return [group for group in groups.values() if len(group) > 1]


def _comparable(evaluations: dict[str, Evaluation]) -> list[str]:
    """Returns the metrics that all evaluations have, of texts that were normalised in the same way."""
    names = {evaluation.results.get("normalization") for evaluation in evaluations.values()}
    return [metric for metric in METRICS if metric in RATES or len(names) == 1 and None not in names]


def _facts(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Returns what is known of each run, by what it is."""

    def in_hours(amounts: Iterable[float]) -> str:
        total = sum(amounts)
        return f"{format_hours(total)} h" if total else "–"

    def hours(kind: str) -> Callable[[Run], str]:
        return lambda run: in_hours(row.get(kind, 0) for row in run.record["training_data"].values())

    def score(run: Run) -> str:
        rates = [(evaluation, evaluation.rate(MACRO, "cer")) for evaluation in run.evaluations]
        lines = [(f"{each.title}: {100 * rate.value:.1f} %", each.search) for each, rate in rates if rate]
        return "; ".join(f"{line} ({search})" if search else line for line, search in lines) or "–"

    def transcribing(run: Run) -> str:
        speeds = [(evaluation.title, evaluation.results.get("speed")) for evaluation in run.evaluations]
        return "; ".join(f"{title}: {describe_speed(speed)}" for title, speed in speeds if is_speed(speed)) or "–"

    facts: dict[str, Callable[[Run], str]] = {
        "stage": lambda run: f"`{tag_of(run.record)}`",
        "model": lambda run: f"{run.record['model']['parameters'] / 1e6:,.1f} M parameters",
        "started from": lambda run: f"`{run.record['started_from']['name']}`" if run.record["started_from"] else "new",
        "updates": lambda run: f"{run.updates:,} of {run.config['max_updates']:,}",
        "languages": lambda run: spoken(list(run.record["training_data"])),
        "human transcripts": hours("human_hours"),
        "pseudo-labels": hours("pseudo_labelled_hours"),
        "labelled by slimIPL": lambda run: in_hours(run.record["unlabelled_hours"].values()),
        "time": lambda run: f"{format_hours(run.device_hours)} device-hours",
        "speed": lambda run: f"{run.speed:,.0f} s of audio per s" if run.speed else "–",
    }
    rows = {name: [fact(run) if run.record else "–" for run in runs] for name, fact in facts.items()}
    rows["CER, macro average"] = [score(run) for run in runs]
    rows["transcribing"] = [transcribing(run) for run in runs]
    return {name: values for name, values in rows.items() if set(values) != {"–"}}


def _differing_settings(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Returns the settings that influence the result and are not the same in all runs, as YAML writes them."""
    if not all(run.config for run in runs):
        return {}
    flat = [dict(_flat_settings(run.config)) for run in runs]
    names = dict.fromkeys(name for settings in flat for name in settings)
    rows = {name: [_yaml(settings.get(name)) for settings in flat] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def _flat_settings(settings: dict, prefix: str = ""):
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat_settings(value, f"{prefix}{name}.")
        elif prefix or name not in NOT_SHOWN:
            yield f"{prefix}{name}", value


def _yaml(value) -> str:
    return "–" if value is None else yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()


def _panels(runs: Sequence[Run]):
    """Yields the title and the picture of each number that at least one of the runs has."""

    def dev_line(run: Run, rate: str) -> Line:
        known = [(row["update"], row["dev"]["macro"].get(rate)) for row in run.dev_rows]
        known = [(update, 100 * value) for update, value in known if value is not None]
        return [update for update, _ in known], [value for _, value in known]

    pictures = [
        (title, label, is_log, {run.name: run.scalars().get(names[0], ([], [])) for run in runs})
        for title, label, is_log, names in PANELS
        if len(names) == 1
    ]
    pictures[1:1] = [
        (f"{title}, macro average", label, False, {run.name: dev_line(run, rate) for run in runs})
        for rate, (title, label) in DEV_RATES.items()
    ]
    for title, label, is_log, lines in pictures:
        if any(updates for updates, _ in lines.values()):
            yield title, Markup(to_svg(draw_lines(lines, label, is_log), title))


@dataclass
class _ChangedUtterance:
    id: str
    language: str
    texts: list[tuple[str, Markup]]
    edits: str
    audio: dict | None
    clip: Clip = Clip()


class _Table:
    """Holds a rate of several models on the same data for the template.

    Args:
        evaluations: by the names of the runs, the first and the last of which are compared.
        metric: one of `METRICS`.
    """

    def __init__(self, evaluations: dict[str, Evaluation], metric: str):
        self.evaluations, self.metric, self.rate = evaluations, metric, TITLES[metric]
        self.names = list(evaluations)
        self.first, *_, self.last = evaluations.values()
        self.title = f"{self.first.title}, {self.rate}"
        self.change = f"{self.names[0]} to {self.names[-1]}"
        self.searches = [f"{name}: {each.search}" for name, each in evaluations.items() if each.search]
        languages = self.first.languages
        rows: dict[str | None, list[str]] = {language: [language] for language in languages}
        if averaged := [language for language in languages if self.first.rate(language, metric)]:
            rows[MACRO] = averaged
        self.differences = differences([self.first], [self.last], rows, metric)
        reasons = [each for each in self.differences.values() if isinstance(each, str)]
        self.problem = reasons[0] if len(reasons) == len(rows) else None
        self.rows = [self._row(name) for name in (*languages, MACRO)]
        self.picture = rates_picture(evaluations, metric)
        self.changed = list(self._changed()) if metric == "cer" and self._is_paired() else []

    def _is_paired(self) -> bool:
        """Returns whether both evaluations are of the same utterances, in the same order."""
        tables = [evaluation.hypotheses for evaluation in (self.first, self.last)]
        return None not in tables and all(tables[0][name].equals(tables[1][name]) for name in ("id", "language"))

    def _row(self, name: str | None) -> dict:
        rates = [evaluation.rate(name, self.metric) for evaluation in self.evaluations.values()]
        before, after = rates[0], rates[-1]
        known = before is not None and after is not None
        change = 100 * (after.value - before.value) if known else 0.0
        text = f"{change:+.1f}" if known else "–"
        found = self.differences.get(name)
        if known and isinstance(found, Difference):
            text += f" ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
            text += " ✓" if found.is_real else ""
        return {
            "name": "macro average" if name is MACRO else name,
            "is_total": name is MACRO,
            "cells": [_cell(rate) for rate in rates],
            "change": text,
            "relative": f"{change / before.value:+.0f}" if known and before.value else "–",
        }

    def _changed(self):
        """Yields the utterances that gained most, and those that lost most, in edits of characters."""
        before, after = self.first.hypotheses, self.last.hypotheses
        change = after["edits"].to_numpy() - before["edits"].to_numpy()
        for what, sign in (("improved", -1), ("made worse", 1)):
            rows = [
                row for row in np.argsort(-sign * change, kind="stable")[:CHANGED].tolist() if sign * change[row] > 0
            ]
            if rows:
                pairs = zip(before.take(rows).to_pylist(), after.take(rows).to_pylist(), strict=True)
                yield f"Utterances that {self.names[-1]} has {what} most", [self._utterance(*pair) for pair in pairs]

    def _utterance(self, before: dict, after: dict) -> _ChangedUtterance:
        texts = [
            (name, difference(*(normalize_text(row[text])[:LONGEST_TEXT] for text in ("text", "hypothesis"))))
            for name, row in ((self.names[0], before), (self.names[-1], after))
        ]
        edits = f"{before['edits']} → {after['edits']} edits of {before['characters']} characters"
        return _ChangedUtterance(before["id"], before["language"], texts, edits, before["audio"])


def _cell(rate: Rate | None) -> str:
    if rate is None:
        return "–"
    text = f"{100 * rate.value:.1f}"
    return text if rate.low is None else f"{text} ({100 * rate.low:.1f}–{100 * rate.high:.1f})"
