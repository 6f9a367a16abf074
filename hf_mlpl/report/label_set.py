"""Reports a set of pseudo-labels: its scores, what filters would keep of it, and labels to listen to."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
from markupsafe import Markup

from ..data.utterances import read_utterances
from ..error_line import error_line
from ..figures.labels import QUANTILES, draw_error_rates, draw_score, draw_score_range
from ..figures.svg import to_svg
from ..labels.files import label_schema
from ..labels.filters import LANGUAGE_AGREES
from ..labels.folder import read_complete
from ..labels.join import find_label_set
from ..labels.schema import LABEL_FEATURES, SCORES
from ..labels.score_panels import score_panels
from ..labels.summary import LabelSummary
from ..labels.thresholds import SHARES, Kept, ThresholdCounts, best_order, condition
from ..model.text import normalize_text
from ..pages.difference import difference
from ..pages.document import document, render
from ..remote_path import AnyPath, parquet_source
from ..sharing.run_files import format_hours
from ..storage import is_remote
from .clips import LEFT_OUT, PAGE_BYTES, Clip, left_out_line, read_clips
from .label_rows import SHOWN, LabelSet, ShownLabel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).parent / "templates" / "label_set.html"
TABLE_SHARES = (0.99, 0.95, 0.9, 0.8, 0.7, 0.5, 0.25)  # of the hours, in tables of thresholds
SETTING_SHARES = (0.95, 0.8, 0.5)  # of the filters that the page offers
PLAYER_BYTES = 100  # of the element that plays a clip, without its sound
# Up to the first number of languages, each has pictures of all scores; up to the second, of the one that orders labels
FEW, MANY = 12, 120
MOST_TEACHERS = 5  # that are named
Order = tuple[str, str]  # a score and an operator
Counts = Mapping[str, ThresholdCounts]  # by language


def label_set_report(
    labels: Sequence[AnyPath | str], utterances: Sequence[Path] = (), languages: Sequence[str] = ()
) -> str:
    """Returns a page on a label set.

    The set is read twice, 10,000 labels at a time; of the audio, only that which the page lets people hear. Memory
    holds 8 bytes of each label, and 17 of each of `utterances`.

    Args:
        labels: a folder of `pseudo_label`, or of several such folders; a label set, also on the Hub; or files of
            labels.
        utterances: utterance files. Their texts are references, with which labels are compared, and their audio is
            heard where the label set has none.
        languages: that are reported; all by default.

    Raises:
        ValueError: for a file that holds no labels, or is damaged, and for languages without labels.
        OSError: for a label set that cannot be downloaded.
    """
    names = list(map(str, labels))
    is_local = all(is_remote(name) or Path(name).exists() for name in names)
    files = find_label_set(names[0] if len(names) == 1 else names, None if is_local else languages)
    label_set = LabelSet(files, read_utterances(utterances) if utterances else None, languages)
    if not label_set.languages:
        raise ValueError(f"{', '.join(names)}: no labels")
    counts = {language: each.counts for language, each in label_set.languages.items()}
    total = ThresholdCounts()
    for each in counts.values():
        total.add_counts(each)
    order, is_measured = best_order(list(counts.values()))
    orders = {
        language: order if order and each.known[order[0]][0] else best_order([each])[0]
        for language, each in counts.items()
    }
    choices = {language: each.choice(orders[language]) for language, each in label_set.languages.items()}
    shown = label_set.shown(np.array(_fair_order(choices), int))
    differences = {
        row: difference(normalize_text(each.reference), normalize_text(each.label["text"]))
        for row, each in shown.items()
        if each.reference is not None
    }
    values = {
        "facts": _facts([path for _, path in label_set.paths]),
        "collapsed": label_set.texts.problems(),
        "label_set": label_set,
        "languages": label_set.languages,
        "total": total,
        "hours": format_hours,
        "is_measured": is_measured,
        "order": order,
        "orders": orders,
        "meanings": SCORES,
        "has_utterances": bool(utterances),
        "settings": _settings(order, total, counts) if order else [],
        "commands": _commands(names, [path for _, path in label_set.paths], utterances),
        "sections": _sections(counts, total, order),
        "error_rates": _error_rates_picture(total, order) if total.compared and order else None,
        "ranges": _range_pictures(counts, total, order) if len(counts) > 1 and order else [],
        "shown": shown,
        "differences": differences,
    }
    return _with_sound(_title(names), values, choices, shown)


def _with_sound(
    title: str,
    values: Mapping[str, object],
    choices: Mapping[str, Mapping[str, np.ndarray]],
    shown: Mapping[int, ShownLabel],
) -> str:
    """Returns the page with as many labels of each language as it has room for, and as many recordings of these."""

    def page(clips: Mapping[int, Clip]) -> str:
        left_out = left_out_line(list(clips.values()))
        return document(title, render(TEMPLATE, **values, lists=lists, clips=clips, left_out=left_out))

    for most in (SHOWN, SHOWN // 2, SHOWN // 4, 1, 0):
        chosen = {name: {kind: rows[:most] for kind, rows in each.items()} for name, each in choices.items()}
        lists, rows = {name: _lists(each) for name, each in chosen.items() if most}, _fair_order(chosen)
        room = PAGE_BYTES - len(page(dict.fromkeys(rows, LEFT_OUT)).encode()) - PLAYER_BYTES * len(rows)
        if room >= 0:
            break
    return page(dict(zip(rows, read_clips([shown[row].audio for row in rows], room), strict=True)))


def _title(names: Sequence[str]) -> str:
    path = Path(names[0])
    inside = f"{path.parent.name}/{path.name}" if path.parent.name else str(path)
    return f"Pseudo-labels: {inside if len(names) == 1 else f'{len(names)} files'}"


def _fair_order(choices: Mapping[str, Mapping[str, np.ndarray]]) -> list[int]:
    """Returns the rows that are shown, each once: the first of each choice of each language, then the second ones."""
    ranks = zip_longest(*(rows.tolist() for of_language in choices.values() for rows in of_language.values()))
    return [row for row in dict.fromkeys(chain.from_iterable(ranks)) if row is not None]


def _lists(choices: Mapping[str, np.ndarray]) -> dict[str, list[tuple[int, str | None]]]:
    """Returns the rows of each choice, and for a row that is in an earlier one the name of that."""
    first: dict[int, str] = {}
    lists: dict[str, list[tuple[int, str | None]]] = {}
    for name, rows in choices.items():
        lists[name] = [(row, first.get(row)) for row in rows.tolist()]
        first = dict.fromkeys(rows.tolist(), name) | first
    return lists


@dataclass(frozen=True)
class Setting:
    """Holds a condition for a file of filters, and what it keeps of all labels and of each language.

    Args:
        share: of the hours of labels with a text.
    """

    condition: str
    kept: Kept
    share: float
    by_language: dict[str, Setting] = field(default_factory=dict)


def _setting(score: str, operator: str, number: int, counts: ThresholdCounts) -> Setting:
    kept = counts.kept_at(score, operator, number)
    return Setting(condition(score, operator, number), kept, kept.hours / max(counts.total[1], 1e-9))


def _settings(order: Order, total: ThresholdCounts, languages: Counts) -> list[Setting]:
    """Returns the filters that the page offers."""
    settings = []
    for number in total.settings(*order, SETTING_SHARES):
        setting = _setting(*order, number, total)
        setting.by_language.update({name: _setting(*order, number, counts) for name, counts in languages.items()})
        settings.append(setting)
    return settings


@dataclass(frozen=True)
class ScoreTable:
    """Holds what thresholds of a score keep.

    Args:
        quantiles: 5 %, 50 % and 95 % of the labels that have the score are below these.
        without: number of labels with a text that lack it.
    """

    score: str
    quantiles: list[float]
    without: int
    settings: list[Setting]


def _tables(counts: ThresholdCounts) -> list[ScoreTable]:
    tables: dict[str, ScoreTable] = {}
    for score, operator in counts.conditions():
        if score not in tables:
            without = round(counts.total[0] - counts.known[score][0])
            tables[score] = ScoreTable(score, counts.quantiles(score, (0.05, 0.5, 0.95)).tolist(), without, [])
        numbers = counts.settings(score, operator, TABLE_SHARES)
        tables[score].settings.extend(_setting(score, operator, number, counts) for number in numbers)
    if counts.predicted:
        kept = Kept.of(counts.agreeing)
        setting = Setting(LANGUAGE_AGREES, kept, kept.hours / max(counts.total[1], 1e-9))
        without = round(counts.total[0]) - counts.predicted
        tables["predicted_language"] = ScoreTable("predicted_language", [], without, [setting])
    return list(tables.values())


@dataclass(frozen=True)
class Section:
    """Holds what the page says of the scores of a language, or of all of them.

    Args:
        language: its name; None for all languages.
        number: of the language, from 1, for links; 0 for all languages.
        pictures: of scores, and what their thresholds keep.
        tables: the same in numbers.
    """

    language: str | None
    number: int
    pictures: list[Markup]
    tables: list[ScoreTable]


def _sections(languages: Counts, total: ThresholdCounts, order: Order | None) -> list[Section]:
    """Returns the section of all languages, if there are several, and one of each."""
    sections = []
    for number, (language, counts) in enumerate([(None, total), *languages.items()]):
        if language is None and len(languages) == 1:
            continue
        of_whom = language or "all languages"
        pictures = [
            _svg(draw_score(panel), f"{panel.name} of the labels of {of_whom}, and what each threshold would keep")
            for panel in score_panels(counts)
            if len(languages) <= FEW or language is None or len(languages) <= MANY and panel.name == order[0]
        ]
        sections.append(Section(language, number, pictures, _tables(counts)))
    return sections


def _error_rates_picture(total: ThresholdCounts, order: Order) -> Markup:
    rates = {" ".join(key): 100 * total.error_rates(*key) for key in total.conditions()}
    figure = draw_error_rates(rates, 100 * SHARES, " ".join(order))
    return _svg(figure, "Error rates of the best labels by each score")


def _range_pictures(languages: Counts, total: ThresholdCounts, order: Order) -> list[Markup]:
    """Returns a picture of each score of all languages; of many languages, of the one that orders labels alone."""
    pictures = []
    for score in dict.fromkeys(score for score, _ in total.conditions()):
        if len(languages) <= MANY or score == order[0]:
            ranges = {
                name: counts.quantiles(score, QUANTILES) if counts.known[score][0] else np.empty(0)
                for name, counts in languages.items()
            }
            pictures.append(_svg(draw_score_range(score, ranges), f"{score} of each language"))
    return pictures


def _svg(figure: Figure, title: str) -> Markup:
    return Markup(to_svg(figure, title))


@dataclass
class Facts:
    """Holds what lies beside the labels: who made them, of what, and what has no label.

    Args:
        unreadable: by language, utterances without a label.
        sources: of the speech, in words.
        problems: lines about files that cannot be read.
    """

    teachers: list[str] = field(default_factory=list)
    unreadable: Counter[str] = field(default_factory=Counter)
    sources: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def _facts(paths: Sequence[AnyPath]) -> Facts:
    """Reads the summaries beside files of labels; a damaged one costs a line on the page."""
    facts, sources = Facts(), []
    for folder in dict.fromkeys(path.parent for path in paths):
        try:
            if (folder / "complete.json").exists():
                complete = read_complete(folder)
                facts.teachers.append(complete["teacher"])
                facts.unreadable.update({name: each["errors"] for name, each in complete["languages"].items()})
                sources += complete["sources"]
            elif (folder / "summary.json").exists():
                summary = LabelSummary.read(folder / "summary.json")
                facts.teachers.append(f"{summary.teacher}@{summary.teacher_revision}")
                facts.unreadable[summary.language] += summary.unreadable
                sources += summary.sources
            elif any((place / "job.json").exists() for place in (folder, folder.parent)):
                facts.problems.append(
                    f"{folder}: labels of a job that is not complete; `hf-mlpl pseudo-label` goes on"
                )
            else:
                facts.teachers += chain.from_iterable(_authors(path) for path in paths if path.parent == folder)
        except ValueError as error:
            facts.problems.append(error_line(error))
    facts.teachers = list(dict.fromkeys(facts.teachers))
    facts.sources = list(dict.fromkeys(f"{source['name']} ({source['license']})" for source in sources))
    return facts


def _authors(path: AnyPath) -> list[str]:
    """Returns the values of `source` in a file of labels, which name their teachers; a few of many."""
    if path.suffix != ".parquet" or "source" not in label_schema(path).names:
        return []
    found: dict[str, None] = {}
    with pq.ParquetFile(parquet_source(path)) as file:
        for batch in file.iter_batches(columns=["source"]):
            found |= dict.fromkeys(name for name in batch["source"].unique().to_pylist() if name)
            if len(found) > MOST_TEACHERS:
                break
    return list(found)


def _commands(names: Sequence[str], paths: Sequence[AnyPath], utterances: Sequence[Path]) -> list[str]:
    """Returns the commands that make training data of the labels, with a file of filters."""
    commands = []
    needed = set(LABEL_FEATURES) - SCORES.keys()
    columns = [set(label_schema(path).names if path.suffix == ".parquet" else ()) for path in paths]
    if not all(needed <= found for found in columns):
        has_audio = all("audio" in found for found in columns)
        named = utterances or ([] if has_audio else [Path("utterances.parquet")])
        audio = ["--audio", *map(str, named)] if named else []
        commands.append(["join-labels", "--labels", *names, *audio, "--all", "--output", "labels.parquet"])
        paths = [Path("labels.parquet")]
    filtered = ["--filters", "filters.yaml", "--output", "kept.parquet"]
    commands.append(["filter-labels", *map(str, paths), *filtered])
    return [f"hf-mlpl {shlex.join(command)}" for command in commands]
