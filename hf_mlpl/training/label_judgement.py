"""Judges without references whether slimIPL still helps, by what its labels of the same utterances become."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from ..data.collapse import describe_collapse

MOST_DRIFT = 0.13  # of the length: those that went 12 % further from that of true texts were better, with 16 % worse
MOST_EMPTIED = 0.05  # share of the utterances whose labels become empty
MOST_LOST_LANGUAGES = 0.1  # share of the utterances whose language is no longer recognised
SETTLED = 0.99  # agreement of a probe with the one before
PATIENCE = 2  # probes in a row that say the same, because one may be a jump of the weights
ON_THE_WAY = 0.5  # of these limits: teachers that have come so far towards a fault are not the best ones

Probe = Mapping  # a row of `LabelProbes.series`
SETTLED_KIND = "settled"


class Verdict(NamedTuple):
    """Says why slimIPL should end, at which update that was found, and which probe's teacher is the best."""

    kind: str  # one of `FAULTS`, or settled
    reason: str
    update: int
    best: int  # its update


def judge_labels(series: Sequence[Probe], is_last: bool = False) -> Verdict | None:
    """Judges a series of probes, of which the first is of the labels before slimIPL; None while it may help.

    Two probes in a row must have the same fault:

    - dev: the error rate on a sample of dev is above the first one by more than its noise;
    - collapse: nearly all labels are empty or the same, as `data.collapse.describe_collapse` judges;
    - drift: the length has gone further from that of transcripts than it was at first, by more than 13 %. Labels that
      were too long, and lose what was wrong, come closer to it. Where the error rate on a sample of dev is lower than
      at first, shorter labels are no fault;
    - empty: the labels of more than 5 % of the utterances have become empty;
    - language: in more than 10 % of the utterances the language is no longer recognised.

    It has settled where two probes in a row differ from the ones before by less than 1 % of the characters, though the
    model has learned from labels in between.

    Args:
        series: as `LabelProbes` has it, in its order.
        is_last: the last probe counts alone, because there is no other one.
    """
    first, last, best = series[0], series[-1], best_probe(series)["update"]
    recent = series[1:][-1 if is_last else -PATIENCE :]
    if len(recent) == (1 if is_last else PATIENCE):
        for kind, describe in FAULTS.items():
            if all(describe(first, probe) for probe in recent):
                return Verdict(kind, describe(first, last), last["update"], best)
    pairs = list(pairwise(series))[-PATIENCE:]
    if len(pairs) == PATIENCE and not is_last and all(_has_settled(*pair) for pair in pairs):
        reason = f"only {1 - last['agreement']:.1%} of the characters of labels have changed since the probe before"
        return Verdict(SETTLED_KIND, reason, last["update"], best)
    return None


def best_probe(series: Sequence[Probe]) -> Probe:
    """Returns the probe whose teacher makes the best labels, as far as this is known.

    Of the probes that are not on the way to a fault, that is the one with the lowest error rate on dev, or, without
    dev, the last. The first one is always among them, because faults are changes.
    """
    first = series[0]
    healthy = [first] + [
        probe for probe in series[1:] if not any(describe(first, probe, ON_THE_WAY) for describe in FAULTS.values())
    ]
    rates = [probe["dev_cer"] for probe in healthy if probe.get("dev_cer") is not None]
    return next(probe for probe in healthy if probe.get("dev_cer") == min(rates)) if rates else healthy[-1]


def _has_settled(before: Probe, probe: Probe) -> bool:
    agreement = probe.get("agreement")
    return probe["learned"] > before["learned"] and agreement is not None and agreement >= SETTLED


def _describe_collapse(first: Probe, probe: Probe, part: float = 1.0) -> str | None:
    if "commonest" not in probe or "commonest" not in first or describe_collapse(first):
        return None  # other lines say that labels had collapsed before
    return describe_collapse(probe)


def _describe_drift(first: Probe, probe: Probe, part: float = 1.0) -> str | None:
    before, now = first.get("length_ratio"), probe.get("length_ratio")
    if not before or now is None or _has_better_dev(first, probe):
        return None
    if now and abs(math.log(now)) - abs(math.log(before)) <= -math.log(1 - part * MOST_DRIFT):
        return None
    length = f"{probe['length']:.0%} of the characters that they had at update {first['update']:,}"
    return f"labels have {length}: {now:.2f} of what transcripts of so much speech have, after {before:.2f}"


def _has_better_dev(first: Probe, probe: Probe) -> bool:
    before, now = first.get("dev_cer"), probe.get("dev_cer")
    return before is not None and now is not None and now < before


def _describe_empty(first: Probe, probe: Probe, part: float = 1.0) -> str | None:
    before, now = first.get("empty"), probe.get("empty")
    if before is None or now is None or now - before <= part * MOST_EMPTIED:
        return None
    return f"{now:.0%} of labels are empty, and {before:.0%} were at update {first['update']:,}"


def _describe_language(first: Probe, probe: Probe, part: float = 1.0) -> str | None:
    before, now = first.get("language_agreement"), probe.get("language_agreement")
    if before is None or now is None or before - now <= part * MOST_LOST_LANGUAGES:
        return None
    return f"the language is recognised in {now:.0%} of utterances, and was in {before:.0%} at {first['update']:,}"


def _describe_dev(first: Probe, probe: Probe, part: float = 1.0) -> str | None:
    if not (probe.get("dev_change_low") or 0) > 0:
        return None
    return f"CER on dev is {probe['dev_cer']:.1%}, and was {first['dev_cer']:.1%} at update {first['update']:,}"


FAULTS: dict[str, Callable[..., str | None]] = {
    "dev": _describe_dev,
    "collapse": _describe_collapse,
    "drift": _describe_drift,
    "empty": _describe_empty,
    "language": _describe_language,
}


def describe_probe(probe: Probe) -> str:
    """Describes a probe in a line."""
    if not probe["labels"]:
        return "none of the probed utterances can be read"
    length = f"{probe['length_ratio']:.2f} of the characters of transcripts"
    parts = [f"{probe['labels']} probed labels have {length}", f"{probe['empty']:.0%} are empty"]
    if probe.get("agreement") is not None:
        parts.append(
            f"{probe['agreement']:.1%} as in the probe before, {probe['agreement_with_first']:.1%} as in the first"
        )
    names = {"cer": "CER", "dev_cer": "dev CER"}
    parts += [f"{label} {probe[name]:.1%}" for name, label in names.items() if probe.get(name) is not None]
    return ", ".join(parts)


def describe_outcome(outcome: Mapping) -> str:
    """Describes in a line how slimIPL ended, from the other fields of `LabelProbes.outcome`."""
    verdict, of = outcome["verdict"], f"{outcome['of']:,} updates"
    if verdict is None:
        return f"slimIPL made all of {of}"
    if not outcome["is_stopped"]:
        return f"slimIPL made all of {of}, though at update {verdict['update']:,} {verdict['reason']}"
    before = ", before slimIPL" if outcome["result"] == outcome["start"] else ""
    ended = f"slimIPL ended at update {outcome['update']:,} of {outcome['of']:,} because {verdict['reason']}"
    return f"{ended}; the model is the teacher of update {outcome['result']:,}{before}"
