"""Prepares an evaluation for the template of pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from ..evaluation.confusions import visible
from ..evaluation.error_rate import EDITS
from ..evaluation.results import TITLES
from ..evaluation.speed_line import describe_speed, is_speed
from ..figures import draw_confusion, draw_intervals, to_svg
from ..model.text import normalize_text
from ..pages.difference import difference
from ..pages.document import is_language_tag
from ..sharing.run_files import data_line, format_hours
from .clips import Clip, left_out_line
from .evaluations import MACRO, RATES, WORST, Evaluation, Rate, commonest, per_row

CONFUSIONS = 15  # of characters
MOST_LANGUAGES = 30  # in the picture of their confusions: those that are confused most
COLUMNS = {metric: f"{name} %" for metric, name in TITLES.items()} | {"language_accuracy": "language %"}
LONGEST_TEXT = 1500  # characters of a text that is shown


@dataclass
class ShownUtterance:
    """Holds an utterance for the page; its clip is read when all others are known."""

    id: str
    tag: str
    difference: Markup
    text: str
    remark: str
    audio: dict | None
    clip: Clip = Clip()


class EvaluationView:
    """Holds what the template `evaluation.html` shows.

    Args:
        number: of the evaluation on its page, for links.
    """

    def __init__(self, evaluation: Evaluation, number: int):
        results = evaluation.results
        self.id, self.title, self.search = f"results-{number}", evaluation.title, evaluation.search
        self.update, self.unreadable = results.get("update"), results.get("unreadable")
        self.speed = describe_speed(results["speed"]) if is_speed(results.get("speed")) else None
        self.data_line = data_line(results)
        self.problem, self.command = evaluation.problem, evaluation.command
        self.rows = [_row(evaluation, name) for name in (*evaluation.languages, MACRO)]
        if by_hours := results.get("by_hours"):
            rates = {metric: Rate.of(by_hours, metric) for metric in COLUMNS}
            self.rows.append(self.rows[-1] | {"name": "weighted by hours", "rates": rates})
        known = {metric for row in self.rows for metric, rate in row["rates"].items() if rate} | {*RATES}
        self.columns = {metric: title for metric, title in COLUMNS.items() if metric in known}
        self.has_normalized = "normalized_cer" in self.columns
        self.has_intervals = evaluation.hypotheses is not None or "intervals" in results.get("macro", {})
        self.error_rows = list(_error_rows(results))
        self.picture = rates_picture({"": evaluation})
        self.confusions, self.edits = _confusions(evaluation)
        confused = evaluation.language_confusions()
        self.has_languages = bool(confused)
        self.language_rows = _language_rows(confused)
        self.language_picture, self.language_title = _language_picture(confused)
        self.num_worst = WORST
        self.worst = [_group(evaluation, *item) for item in evaluation.worst().items()]

    def shorten(self, num_worst: int) -> None:
        """Keeps only so many of the worst utterances of each language."""
        self.num_worst = num_worst
        for group in self.worst:
            del group["utterances"][num_worst:]

    @property
    def utterances(self) -> list[list[ShownUtterance]]:
        """Returns the utterances that are shown of each language."""
        return [group["utterances"] for group in self.worst]

    @property
    def sound_line(self) -> str | None:
        return left_out_line([utterance.clip for group in self.utterances for utterance in group])

    @property
    def is_left_out(self) -> bool:
        """Returns whether the page has no room for some of the recordings."""
        return any(utterance.clip.is_left_out for group in self.utterances for utterance in group)


def _row(evaluation: Evaluation, name: str | None) -> dict:
    results = evaluation.results
    counts = results if name is MACRO else results["languages"][name]
    return {
        "name": "macro average" if name is MACRO else name,
        "is_total": name is MACRO,
        "utterances": f"{counts['utterances']:,}" if "utterances" in counts else "–",
        "hours": format_hours(counts["hours"]) if "hours" in counts else "–",
        "rates": {metric: evaluation.rate(name, metric) for metric in COLUMNS},
    }


def _error_rows(results: dict) -> Iterator[dict]:
    """Yields of each language the kinds of its errors, and the spread of its speakers; older files have neither."""

    def percent(count: float, total: float = 1) -> str:
        return f"{100 * count / total:.1f}" if total else "–"

    for language, scores in sorted(results["languages"].items()):
        if not {"edits", "characters", "words", "empty", "utterances"} <= scores.keys():
            continue
        units = ("characters", "words")
        shares = [percent(scores["edits"][unit][kind], scores[unit]) for unit in units for kind in EDITS]
        spread = "–"
        if speakers := scores.get("speakers"):
            rates = [percent(speakers["cer"][name] or 0) for name in ("lowest", "median", "highest")]
            spread = f"{speakers['count']:,}: {' – '.join(rates)}"
        empty = percent(scores["empty"], scores["utterances"])
        yield {"name": language, "shares": shares, "empty": empty, "speakers": spread}


def rates_picture(evaluations: dict[str, Evaluation], rate: str = "cer") -> Markup:
    """Draws a rate of each language, the highest first, and of the macro average, of evaluations by their names."""
    percents: dict[str, dict[str | None, tuple[float, float, float]]] = {}
    for series, evaluation in evaluations.items():
        percents[series] = {}
        for name in (*evaluation.languages, MACRO):
            if found := evaluation.rate(name, rate):
                low, high = (found.value if bound is None else bound for bound in (found.low, found.high))
                percents[series][name] = (100 * found.value, 100 * low, 100 * high)
    last = list(percents.values())[-1]
    names = {name for values in percents.values() for name in values} - {MACRO}
    order = sorted(names, key=lambda name: (-last.get(name, (0,))[0], name))
    label = f"{TITLES[rate]}, %"
    return Markup(to_svg(draw_intervals([*order, MACRO], percents, label), f"{label} of each language"))


def _confusions(evaluation: Evaluation, language: str | None = None) -> tuple[list[tuple[tuple[str, str], int]], int]:
    """Returns the commonest confusions of characters as a reader can see them, and the number of all edits."""
    if evaluation.hypotheses is None:
        return [], 0
    counts = evaluation.character_confusions(language)
    shown = [((visible(before), visible(after)), count) for (before, after), count in commonest(counts, CONFUSIONS)]
    return shown, counts.total()


def _language_rows(confused: Counter[tuple[str, str]]) -> list[dict]:
    """Returns the languages that are not always named rightly, the worst first."""
    rows = []
    for language, predicted in per_row(confused).items():
        total, others = sum(predicted.values()), Counter(predicted)
        right = others.pop(language, 0)
        if others:
            text = ", ".join(f"{name} {count:,}" for name, count in commonest(others, 5))
            rows.append({"name": language, "right": right / total, "others": text})
    return sorted(rows, key=lambda row: (row["right"], row["name"]))


def _language_picture(confused: Counter[tuple[str, str]]) -> tuple[Markup, str]:
    rows = per_row(confused)
    errors = {name: sum(row.values()) - row.get(name, 0) for name, row in rows.items()}
    confused_most = sorted((name for name in rows if errors[name]), key=lambda name: (-errors[name], name))
    names = sorted(confused_most[:MOST_LANGUAGES])
    if not names:
        return Markup(), ""
    columns = sorted({predicted for name in names for predicted in rows[name]})
    if len(columns) > MOST_LANGUAGES:
        total: Counter[str] = Counter()
        for name in names:
            total.update(rows[name])
        columns = sorted(name for name, _ in commonest(total, MOST_LANGUAGES))
    counts = np.array([[rows[name].get(column, 0) for column in columns] for name in names])
    some = "" if len(confused_most) == len(names) else f", the {len(names)} that are confused most"
    title = f"Languages as the model names them{some}"
    return Markup(to_svg(draw_confusion(counts, names, columns), title)), title


def _group(evaluation: Evaluation, language: str, rows: Sequence[dict]) -> dict:
    confusions, edits = _confusions(evaluation, language)
    rate = evaluation.rate(language, "cer")
    summary = f"CER {100 * rate.value:.1f} %" if rate else ""
    return {
        "language": language,
        "summary": summary if rows else f"{summary}; no utterance has an error",
        "utterances": [_shown(row) for row in rows],
        "confusions": confusions,
        "edits": edits,
    }


def _shown(row: dict) -> ShownUtterance:
    parts = [f"CER {100 * row['cer']:.0f} %", f"{row['duration_seconds']:.1f} s"]
    if row["error"]:
        parts.append("the model could not read it")
    if row["lowest_word_confidence"] is not None:
        parts.append(f"lowest confidence of a word {100 * row['lowest_word_confidence']:.0f} %")
    if row["predicted_language"] not in (None, row["language"]):
        parts.append(f"taken for {row['predicted_language']}")
    reference, hypothesis = normalize_text(row["text"]), normalize_text(row["hypothesis"])
    if max(len(reference), len(hypothesis)) > LONGEST_TEXT:
        reference, hypothesis = reference[:LONGEST_TEXT], hypothesis[:LONGEST_TEXT]
        parts.append(f"the first {LONGEST_TEXT:,} characters are shown")
    return ShownUtterance(
        id=row["id"],
        tag=row["language"] if is_language_tag(row["language"]) else "",
        difference=difference(reference, hypothesis),
        text=hypothesis,
        remark=", ".join(parts),
        audio=row["audio"],
    )
