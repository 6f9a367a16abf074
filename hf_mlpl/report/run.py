"""Reports a training run: what was trained on what, its curves, its error rates and its worst utterances."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from ..atomic import write_text
from ..error_line import error_line
from ..evaluation.intervals import FEWEST_SAMPLED
from ..evaluation.results import TITLES
from ..figures import draw_lines, draw_rates, to_svg
from ..pages.document import document, render
from ..sharing.run_files import (
    data_of_all_stages,
    format_hours,
    settings_text,
    sources_of_run,
    spoken,
    stage_lines,
    tag_of,
)
from .clips import PAGE_BYTES, read_clips
from .evaluation_view import EvaluationView
from .evaluations import MACRO, WORST, by_turns
from .run_folder import Run, read_runs

logger = logging.getLogger(__name__)

TEMPLATES = Path(__file__).parent / "templates"
SOUND_BYTES = 250_000  # of the page that ends a run: a minute of speech, because more takes longer than all else
HOUR_KINDS = {"human": "human transcripts", "pseudo": "pseudo-labels", "unlabelled": "labelled by slimIPL"}
# Titles of pictures, labels of their axes, whether these are logarithmic, and the numbers that are drawn. Numbers that
# are in none have a picture each.
PANELS = (
    ("Training loss", "loss", True, ("loss",)),
    ("CER of pseudo-labels that have a reference", "CER, %", False, ("labels.cer",)),
    (
        "Health of pseudo-labels",
        "share",
        False,
        ("labels.length_ratio", "labels.blank_ratio", "labels.empty", "labels.commonest", "labels.language_agreement"),
    ),
    ("CER of probed labels and on dev", "CER, %", False, ("probe.cer", "probe.deletions", "probe.dev_cer")),
    (
        "Probed labels",
        "share",
        False,
        (
            *("probe.length_ratio", "probe.length", "probe.empty", "probe.agreement", "probe.agreement_with_first"),
            *("probe.blank_ratio", "probe.commonest", "probe.language_agreement"),
        ),
    ),
    ("Confidence of probed labels", "mean log-probability", False, ("probe.mean_log_prob",)),
    ("Pseudo-labels made", "labels", False, ("labels.labels", "labels.unfit")),
    ("Learning rate", "learning rate", False, ("learning_rate",)),
    ("Speed", "seconds of audio per second", False, ("audio_seconds_per_second",)),
    ("Norm of the gradient", "norm", True, ("gradient_norm",)),
    ("Recordings that could not be used", "recordings", False, ("unusable",)),
)
NOT_DRAWN = {"probe.labels", "probe.learned"}
# Titles and labels of rates on dev
DEV_RATES = {
    "cer": ("CER on dev", "CER, %"),
    "wer": ("WER on dev", "WER, %"),
    "language_accuracy": ("Languages that are named rightly on dev", "right, %"),
}


def run_report(path: Path, results: Sequence[Path] = (), max_sound_bytes: int = PAGE_BYTES) -> str:
    """Returns a page on a run, which may be going on, or on a file of results alone.

    Args:
        path: folder of the run, or file of results.
        results: files of `hf-mlpl evaluate`, of the run's model; the first is shown first, and the last evaluation on
            dev after all.
        max_sound_bytes: of all recordings together, as the page holds them.

    Raises:
        ValueError: for a folder without a run, damaged files, and results of another model.
    """
    [run] = read_runs([path], results)
    views = [EvaluationView(evaluation, number) for number, evaluation in enumerate(run.evaluations)]
    values = {"facts": _facts(run), "evaluations": views, "has_run": bool(run.record), "collapse": None}
    values["fewest_sampled"] = FEWEST_SAMPLED
    values["whole_page"] = f"hf-mlpl report {shlex.quote(str(path))}" if max_sound_bytes < PAGE_BYTES else None
    if run.record:
        values |= _run_values(run)

    def page() -> str:
        title = f"Run {run.name}" if run.record else f"Results {run.name}"
        return document(title, render(TEMPLATES / "run.html", **values))

    for num_worst in (WORST, WORST // 2, WORST // 4, 1, 0):  # as many as there is room for
        for view in views:
            view.shorten(num_worst)
        if (room := PAGE_BYTES - len(page().encode())) >= 0:
            break
    shown = [utterance for view in views for utterance in by_turns(view.utterances)]
    clips = read_clips([each.audio for each in shown], min(room, max_sound_bytes))
    for utterance, clip in zip(shown, clips, strict=True):
        utterance.clip = clip
    return page()


def write_run_report(folder: Path) -> Path | None:
    """Writes `report.html` into the folder of a run whose command ends, unless a newer one is there; returns its path.

    The page takes a few seconds: a minute of speech can be heard, of the worst utterances of each language. Whatever
    goes wrong is a warning: a trained model is worth more than a page on it. Returns None then.
    """
    page = folder / "report.html"
    try:
        if not page.is_file() or page.stat().st_mtime < (folder / "run.json").stat().st_mtime:
            write_text(page, run_report(folder, max_sound_bytes=SOUND_BYTES))
        return page
    except Exception as error:  # of any kind
        logger.warning("no report was written (%s); `hf-mlpl report %s` tries again", error_line(error), folder)
        return None


def _facts(run: Run) -> list[tuple[str, str]]:
    """Returns the most important facts, in a few words each."""
    facts = []
    if record := run.record:
        total = run.config["max_updates"]
        progress = f"{run.updates:,} of {total:,} updates"
        state = f"finished, {progress}" if run.is_finished else f"not finished: {progress}"
        languages = spoken(list(record["training_data"]))
        parameters = f"{record['model']['parameters'] / 1e6:,.1f} M parameters"
        kind = f"`{record['model']['type']}`, " if record["model"].get("type") else ""
        if record.get("slimipl"):
            state += f"; {record['slimipl']['line']}"
        facts += [("state", state), ("model", f"{kind}{parameters}"), ("stage", f"`{tag_of(record)}`, {languages}")]
    for evaluation in run.evaluations:
        names = TITLES | {"language_accuracy": "language named rightly"}
        rates = [(name, evaluation.rate(MACRO, metric)) for metric, name in names.items()]
        line = ", ".join(f"{name} {100 * rate.value:.1f} %" for name, rate in rates if rate)
        search = f", {evaluation.search}" if evaluation.search else ""
        facts.append((evaluation.title, f"{line} (macro average{search})"))
    if run.record:
        facts.append(("time", f"{format_hours(run.device_hours)} device-hours"))
    return facts


def _run_values(run: Run) -> dict:
    record, data = run.record, data_of_all_stages(run.record)
    unusable = run.scalars().get("unusable", ([], []))[1]
    return {
        "collapse": record.get("collapse"),
        "stages": stage_lines(record | {"updates": run.updates}),
        "data": data,
        "hour_kinds": {kind: name for kind, name in HOUR_KINDS.items() if any(row[kind] for row in data.values())},
        "hours": format_hours,
        "dropped": ", ".join(f"{count:,} ({reason})" for reason, count in record["dropped"].items()),
        "unusable": int(sum(unusable)),
        "sources": sources_of_run(record),
        "panels": panels(run),
        "log_every": run.config.get("log_every"),
        "has_dev": bool(run.dev_rows),
        "is_without_dev": not run.config.get("dev"),
        "model": f"{run.path}/model",
        "sessions": record["sessions"],
        "device_hours": run.device_hours,
        "time_line": _time_line(run),
        "settings": settings_text(run.config),
    }


def panels(run: Run) -> list[tuple[str, Markup]]:
    """Draws the curves of all numbers that a run has logged, each with a title."""
    drawn = []
    lines = run.scalars()
    shown = NOT_DRAWN.union(*(names for *_, names in PANELS))
    others = [(name, name, False, (name,)) for name in lines if name not in shown]
    rates = [
        (title, draw_rates(run.dev_rows, rate, label))
        for rate, (title, label) in DEV_RATES.items()
        if any(row["dev"]["macro"].get(rate) is not None for row in run.dev_rows)
    ]
    for title, label, is_log, names in (*PANELS, *others):
        if known := {name.rpartition(".")[2].replace("_", " "): lines[name] for name in names if name in lines}:
            drawn.append((title, draw_lines(known, label, is_log)))
    drawn[1:1] = rates
    return [(title, Markup(to_svg(figure, title))) for title, figure in drawn]


def _time_line(run: Run) -> str:
    """Says how fast a run was, and how long what is left will take at that speed."""
    hours, measured = sum(session["hours"] for session in run.record["sessions"]), run.record["updates"]
    parts = []
    if measured and hours:
        parts.append(f"1,000 updates took {format_hours(1000 * hours / measured)} hours, evaluations included")
    if run.speed:
        parts.append(f"training processed {run.speed:,.0f} seconds of audio per second (median)")
    left = 0 if run.is_finished else run.config["max_updates"] - run.updates
    if left > 0 and measured and hours:
        parts.append(f"the {left:,} updates that are left take about {format_hours(left * hours / measured)} hours")
    line = "; ".join(parts) or "The run has not come to its first save point yet"
    return (
        f"{line[0].upper()}{line[1:]}. Device-hours are hours times processes, each of which has a GPU or a share of "
        "the CPU: multiplied by the price of one for an hour, they are the cost."
    )
