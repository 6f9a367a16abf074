"""Renders the card of a data set of pseudo-labels, and plots its scores, from its summaries."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from huggingface_hub import DatasetCard, DatasetCardData

from ..atomic import atomic_write
from ..corpora.locales import iso_code
from ..data.conventions import describe_convention
from ..figures.labels import draw_histograms
from .schema import SCORES
from .summary import REPETITIVE, LabelSummary

TEMPLATE = Path(__file__).parent / "templates" / "dataset_card.md"
PICTURE = "scores.png"
is_commit = re.compile("[0-9a-f]{40}").fullmatch
NOT_NOTED = {"name": "not noted", "license": "unknown", "url": None}  # a source of speech


def dataset_card(summaries: Sequence[LabelSummary], repo_id: str) -> DatasetCard:
    """Renders the card of the repository `repo_id`, which has a configuration for each summary's language."""
    summaries = sorted(summaries, key=lambda summary: summary.language)
    sources: dict[tuple, list[str]] = {}
    for summary in summaries:
        for source in summary.sources or [NOT_NOTED]:
            sources.setdefault((source["name"], source["license"], source["url"]), []).append(summary.language)
    return DatasetCard.from_template(
        _card_data(summaries, repo_id),
        template_path=str(TEMPLATE),
        repo_id=repo_id,
        summaries=summaries,
        with_audio=[summary.language for summary in summaries if summary.with_audio],
        scores=SCORES,
        known=_known_scores(summaries),
        conventions={
            summary.language: describe_convention(summary.convention)
            for summary in summaries
            if summary.convention is not None and summary.convention["texts"]
        },
        is_commit=is_commit,
        conditions=list(dict.fromkeys(name for summary in summaries for name in summary.hours_kept_by)),
        picture=PICTURE,
        repetitive=REPETITIVE,
        sources=sources,
    )


def _known_scores(summaries: Sequence[LabelSummary]) -> list[str]:
    return [name for name in SCORES if any(sum(summary.scores[name]["counts"]) for summary in summaries)]


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


def plot_scores(summaries: Sequence[LabelSummary], path: Path) -> None:
    """Plots histograms of the scores that labels have, with a line for each language that has them.

    Equal summaries give equal bytes.
    """
    summaries = sorted(summaries, key=lambda summary: summary.language)
    histograms: dict[str, dict] = {name: {} for name in _known_scores(summaries)}
    for name, lines in histograms.items():
        for summary in summaries:
            histogram = summary.scores[name]
            if num_labels := sum(histogram["counts"]):
                lines[summary.language] = (100 * np.array(histogram["counts"]) / num_labels, histogram["edges"])
    with atomic_write(path) as partial:
        draw_histograms(histograms).savefig(partial, dpi=100, metadata={"Software": None})  # or the version is in it
