"""Renders the card of a data set of pseudo-labels, and plots its scores, from its summaries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData

from ..atomic import atomic_write
from ..corpora.locales import iso_code
from .schema import SCORES
from .summary import REPETITIVE, LabelSummary

TEMPLATE = Path(__file__).parent / "templates" / "dataset_card.md"
PICTURE = "scores.png"
UNKNOWN = "-"
NOT_NOTED = {"name": "not noted", "license": "unknown", "url": None}  # a source of speech


def dataset_card(summaries: Sequence[LabelSummary], repo_id: str) -> DatasetCard:
    """Renders the card of the repository `repo_id`, which has a configuration for each summary's language."""
    summaries = sorted(summaries, key=lambda summary: summary.language)
    with_audio = [summary.language for summary in summaries if summary.with_audio]
    example = summaries[0].language
    return DatasetCard.from_template(
        _card_data(summaries, repo_id),
        template_path=str(TEMPLATE),
        repo_id=repo_id,
        hours=_hours(sum(summary.hours for summary in summaries)),
        languages=f"{len(summaries)} language{'s' * (len(summaries) > 1)}",
        audio=_about_audio(with_audio, summaries),
        has_audio=bool(with_audio),
        audio_languages="" if len(with_audio) == len(summaries) else f"; only in {', '.join(with_audio)}",
        language_table=_language_table(summaries),
        example=example,
        local_audio="" if summaries[0].with_audio else "--audio data/unlabelled.parquet ",
        scores=SCORES,
        teacher_table=_teacher_table(summaries),
        filters=_filters(summaries),
        picture=PICTURE,
        fault_table=_fault_table(summaries),
        repetitive=REPETITIVE,
        sources=_sources(summaries),
    )


def _card_data(summaries: Sequence[LabelSummary], repo_id: str) -> DatasetCardData:
    licenses = sorted({source["license"] for summary in summaries for source in summary.sources or [NOT_NOTED]})
    return DatasetCardData(
        language=sorted({iso_code(summary.language) for summary in summaries}),
        license=licenses[0] if len(licenses) == 1 else licenses,
        annotations_creators="machine-generated",
        multilinguality="multilingual" if len(summaries) > 1 else "monolingual",
        size_categories=_size_category(sum(summary.utterances for summary in summaries)),
        task_categories=["automatic-speech-recognition"],
        pretty_name=f"{repo_id.partition('/')[2]}: pseudo-labels",
        tags=["pseudo-labels", "hf_mlpl"],
        configs=[
            {
                "config_name": summary.language,
                "data_files": [{"split": "train", "path": f"{summary.language}/train-*.parquet"}],
            }
            for summary in summaries
        ],
    )


def _size_category(rows: int) -> str:
    """Returns the Hub's category of a size, such as `10K<n<100K`."""
    bounds = ["1K", "10K", "100K", "1M", "10M", "100M", "1B"]
    above = sum(rows >= 1000 * 10**number for number in range(len(bounds)))
    names = [f"n<{bounds[0]}", *(f"{low}<n<{high}" for low, high in pairwise(bounds)), f"n>{bounds[-1]}"]
    return names[above]


def _about_audio(with_audio: Sequence[str], summaries: Sequence[LabelSummary]) -> str:
    if not with_audio:
        return "The audio is not in this data set: `id` says which utterance of its corpus a label is of."
    if len(with_audio) == len(summaries):
        return "The audio is in it, too."
    return f"The audio is in it, too, in {', '.join(with_audio)}; elsewhere `id` says which utterance it is of."


def _language_table(summaries: Sequence[LabelSummary]) -> str:
    head = ("language", "utterances", "hours", "kept", "hours kept", "empty", "mean log-probability", "CER")
    rows = [
        (
            summary.language,
            f"{summary.utterances:,}",
            _hours(summary.hours),
            f"{summary.kept:,}",
            _hours(summary.hours_kept),
            f"{summary.empty:,}",
            f"{summary.mean_log_prob:.3f}",
            UNKNOWN if summary.cer is None else f"{summary.cer:.1%}",
        )
        for summary in summaries
    ]
    return _table(head, rows)


def _teacher_table(summaries: Sequence[LabelSummary]) -> str:
    rows = []
    for summary in summaries:
        teacher, revision = f"`{summary.teacher}`", f"`{summary.teacher_revision}`"
        if re.fullmatch("[0-9a-f]{40}", summary.teacher_revision):  # a commit of a repository
            url = f"https://huggingface.co/{summary.teacher}"
            teacher = f"[{summary.teacher}]({url})"
            revision = f"[`{summary.teacher_revision[:7]}`]({url}/tree/{summary.teacher_revision})"
        rows.append((summary.language, teacher, revision))
    return _table(("language", "teacher", "revision"), rows)


def _filters(summaries: Sequence[LabelSummary]) -> str:
    conditions = list(dict.fromkeys(name for summary in summaries for name in summary.hours_kept_by))
    if not conditions:
        return "There is no filter: `kept` is true of every label."
    rows = []
    for summary in summaries:
        kept_alone = (summary.hours_kept_by.get(name) for name in conditions)
        cells = (UNKNOWN if hours is None else _hours(hours) for hours in kept_alone)
        rows.append((summary.language, _hours(summary.hours), *cells, _hours(summary.hours_kept)))
    table = _table(("hours", "all", *(f"`{name}`" for name in conditions), "kept"), rows)
    return f"Hours that each filter keeps alone, and all together; {UNKNOWN} where it was not applied.\n\n{table}"


def _fault_table(summaries: Sequence[LabelSummary]) -> str:
    names = ("unreadable", "empty", "repetitive", "another_language")
    rows = [(summary.language, *(f"{getattr(summary, name):,}" for name in names)) for summary in summaries]
    return _table(("language", *(name.replace("_", " ") for name in names)), rows)


def _sources(summaries: Sequence[LabelSummary]) -> str:
    languages: dict[tuple, list[str]] = {}
    for summary in summaries:
        for source in summary.sources or [NOT_NOTED]:
            languages.setdefault((source["name"], source["license"], source["url"]), []).append(summary.language)
    rows = [
        (f"[{name}]({url})" if url else name, license, ", ".join(names))
        for (name, license, url), names in languages.items()
    ]
    return _table(("speech", "licence", "languages"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table in Markdown; columns whose first row holds a number are aligned to the right."""
    rows = list(rows)
    rule = ["---", *("---:" if re.fullmatch(r"[-\d.,%]+", cell) else "---" for cell in rows[0][1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _hours(hours: float) -> str:
    return f"{hours:,.2f}"


def plot_scores(summaries: Sequence[LabelSummary], path: Path) -> None:
    """Plots histograms of all scores, with a line for each language; equal summaries give equal bytes."""
    from matplotlib.figure import Figure  # slow to import

    summaries = sorted(summaries, key=lambda summary: summary.language)
    figure = Figure(figsize=(12, 7), layout="constrained")
    colors = [f"C{number}" for number in range(10)]
    for axes, name in zip(figure.subplots(2, 3).flat, SCORES, strict=True):
        for number, summary in enumerate(summaries):
            histogram = summary.scores[name]
            shares = [100 * count / max(sum(histogram["counts"]), 1) for count in histogram["counts"]]
            style = ("-", "--", ":")[number // len(colors) % 3]
            color = colors[number % len(colors)]
            axes.stairs(shares, histogram["edges"], label=summary.language, color=color, linestyle=style)
        axes.set(xlabel=name.replace("_", " "), ylabel="% of the labels", ylim=(0, None))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=10)
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=100, metadata={"Software": None})  # or the version would be in it
