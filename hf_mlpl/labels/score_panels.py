"""Prepares what pictures show of the scores of pseudo-labels."""

from __future__ import annotations

import numpy as np

from ..figures.labels import ScorePanel
from .thresholds import OPERATORS, ThresholdCounts, thresholds

FEWEST_KEPT = 0.01  # of the hours, for which an error rate is drawn: that of fewer is noise


def score_panels(counts: ThresholdCounts) -> list[ScorePanel]:
    """Returns for each score that any label has its histogram, what thresholds keep, and the error rates of that."""
    panels = []
    for score in dict.fromkeys(score for score, _ in counts.conditions()):
        kept, errors = {}, {}
        for operator in OPERATORS[score]:
            _, hours, edits, characters = counts.kept(score, operator)
            kept[operator] = 100 * hours / counts.total[1]
            if counts.compared:
                is_enough = (hours >= FEWEST_KEPT * counts.total[1]) & (characters > 0)
                rates = np.full(len(edits), np.nan)
                errors[operator] = np.divide(100 * edits, characters, out=rates, where=is_enough)
        numbers, edges = counts.histogram(score)
        panels.append(ScorePanel(score, edges, 100 * numbers / numbers.sum(), thresholds(score), kept, errors))
    return panels
