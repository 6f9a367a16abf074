"""Compares models, variants and labels over seeds, and lays the comparison out as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hf_mlpl.evaluation.differences import Difference, ScoredRun, differences
from hf_mlpl.evaluation.error_rate import EDITS
from hf_mlpl.evaluation.tables import comparison_table

from .plan import Labels, Options, Plan
from .scores import FIGURES, difference, figures, ratio, read_run, score_labels, summary
from .variants import MODELS

Runs = Mapping[str, Mapping[int, ScoredRun]]
BASELINES = ("supervised", "control", "oracle")


def compare(options: Options, plan: Plan, failed: Mapping[str, str]) -> tuple[dict, Runs]:
    """Returns all that is known of the models, and the runs behind it, by model and seed.

    Rates are fractions, in the mean over `options.languages`; each has the `summary` over seeds.
    """
    names = [variant.name for variant in options.variants]
    order = [name for name in MODELS if name != "oracle"]
    order += [f"{name}{own}" for name in names for own in ("", *(f" {model}" for model in BASELINES))] + ["oracle"]
    runs = {
        name: {seed: run for seed, path in plan.results[name].items() if (run := read_run(path))}
        for name in order
        if name in plan.results
    }
    runs = {name: each for name, each in runs.items() if each}
    languages = options.languages
    models = {
        name: _model({seed: figures(run, languages) for seed, run in each.items()}) for name, each in runs.items()
    }
    labels = _labels(options, plan)
    return {
        "data": options.data,
        "split": options.split,
        "languages": list(languages),
        "seeds": list(options.seeds),
        "updates": options.updates,
        "later_updates": options.later_updates,
        "batch_seconds": options.batch_seconds,
        "curriculum": options.curriculum,
        "committee": options.committee,
        "settings": list(options.settings),
        "models": models,
        "folders": {name: {seed: str(path) for seed, path in plan.results[name].items()} for name in models},
        "gains": {name: _gain(models, name) for name in models if name.split()[-1] not in ("supervised", "oracle")},
        "paired": {name: _paired(models, runs, labels, name, languages) for name in names if name in models},
        "labels": labels,
        "failed": dict(failed),
    }, runs


def _model(seeds: Mapping[int, dict]) -> dict:
    """Returns figures by seed, their summaries, and the speakers with the highest and the lowest mean CER."""
    known = {
        name: summary(each[name] for each in seeds.values()) for name in FIGURES if name in next(iter(seeds.values()))
    }
    speakers = {}
    for speaker in sorted({name for each in seeds.values() for name in each["speakers"]}):
        speakers[speaker] = summary(each["speakers"].get(speaker) for each in seeds.values())["mean"]
    ranked = sorted(speakers, key=lambda name: speakers[name])
    named = {"best_speaker": ranked[0], "worst_speaker": ranked[-1]} if ranked else {}
    return {"seeds": dict(seeds), **known, "speakers": speakers, **named}


def _cer(models: Mapping[str, dict], name: str, seed: int, figure: str = "cer") -> float | None:
    return models[name]["seeds"].get(seed, {}).get(figure) if name in models else None


def _gain(models: Mapping[str, dict], name: str) -> dict:
    """Returns the share of the gap from stage 1 to the oracle that a model closes, and its change to the control.

    A variant is measured by its own baselines where it has some.
    """
    variant = name.removesuffix(" control")
    base = {each: f"{variant} {each}" if f"{variant} {each}" in models else each for each in BASELINES}
    seeds = {}
    for seed in models[name]["seeds"]:
        cer = _cer(models, name, seed)
        start, control, oracle = (_cer(models, base[each], seed) for each in BASELINES)
        change = ratio(difference(cer, control), control) if base["control"] != name else None
        share = ratio(difference(start, cer), difference(start, oracle))
        seeds[seed] = {"gap_share": share, "change": change}
    return {"seeds": seeds} | {key: summary(each[key] for each in seeds.values()) for key in ("gap_share", "change")}


def _paired(
    models: Mapping[str, dict], runs: Runs, labels: Mapping[str, dict], name: str, languages: Sequence[str]
) -> dict:
    """Returns by how much a variant differs from the recipe in the seeds of both.

    `interval` holds the 95 % bounds of the difference for other utterances of these speakers; it knows nothing of
    other seeds, which `cer["standard_error"]` is about, nor of other speakers.
    """
    both = [seed for seed in runs[name] if seed in runs.get("final", {})]
    found: dict = {"seeds": {}}
    for seed in both:
        found["seeds"][seed] = {
            **{
                key: difference(_cer(models, name, seed, key), _cer(models, "final", seed, key))
                for key in ("cer", "wer")
            },
            "label_cer": difference(_cer(labels, name, seed), _cer(labels, "final", seed)),
        }
    for key in ("cer", "wer", "label_cer"):
        found[key] = summary(each[key] for each in found["seeds"].values())
    before = summary(_cer(models, "final", seed) for seed in both)["mean"]
    found["relative"] = ratio(found["cer"]["mean"], before)
    found["interval"] = None
    if both:
        pair = ([runs[each][seed] for seed in both] for each in ("final", name))
        tested = differences(*pair, {"mean": languages}, "cer")["mean"]
        if isinstance(tested, Difference):
            found["interval"] = [tested.low, tested.high]
    return found


def _labels(options: Options, plan: Plan) -> dict[str, dict]:
    """Scores the labels of each model and seed against the texts of the unlabelled speech, where these are known."""
    found = {}
    for name, by_seed in plan.labels.items() if options.has_known_texts else ():
        seeds = {}
        for seed, labels in by_seed.items():
            if run := _scored(options, plan, seed, labels):
                kept = run.results.get("kept_share", 1.0)
                seeds[seed] = {**figures(run, options.languages), "kept_share": kept}
        if seeds:
            kept = summary(each["kept_share"] for each in seeds.values())
            paths = {seed: by_seed[seed].results for seed in seeds}
            found[name] = {**_model(seeds), "kept_share": kept, "results": paths}
    return found


def _scored(options: Options, plan: Plan, seed: int, labels: Labels) -> ScoredRun | None:
    if not labels.path:
        return read_run(Path(labels.results))
    return score_labels(labels.path, f"{options.data}/unlabelled.parquet", options.languages, Path(labels.results))


# -------------------------------------------------------------------------------------------------------------- layout


def markdown(content: Mapping, runs: Runs) -> str:
    """Returns the comparison as a page of Markdown tables."""
    languages, seeds = content["languages"], content["seeds"]
    mean = f", mean of {' '.join(languages)}" if len(languages) > 1 else ""
    short = f", short utterances alone in the first {content['curriculum']} of them" if content["curriculum"] else ""
    voted = f", {content['committee']} teachers who vote on labels" if content["committee"] > 1 else ""
    parts = [
        f"# Errors on {content['split']} speakers",
        f"{content['data']}, {' '.join(languages)}; seeds {', '.join(map(str, seeds))}; "
        f"{content['updates']} updates in stage 1{short}, {content['later_updates']} later, "
        f"batches of {content['batch_seconds']:g} s{voted}. Rates are in percent; brackets hold "
        "the lowest and the highest of the seeds, and ± is the standard error of their mean. "
        "Substitutions, deletions and insertions are shares of the reference's characters.",
        *_failures(content["failed"]),
        f"## Models{mean}",
        _table([["model", *ERROR_TITLES, "best speaker", "worst speaker"], *_model_rows(content["models"])]),
        "## The share of the gap from stage 1 to the oracle, and the change against the control",
        _table([["seed", *content["gains"]], *_gain_rows(content["gains"], seeds)]),
    ]
    if content["paired"]:
        parts += [
            "## Variants against the recipe (final), paired by seed, in percentage points",
            "The 95 % interval is for other utterances of the same speakers, and ± for other seeds.",
            _table([["variant", *(f"seed {seed}" for seed in seeds), *PAIRED_TITLES], *_paired_rows(content, seeds)]),
        ]
    if content["labels"]:
        rows = _label_rows(content["labels"])
        parts += ["## Labels of the unlabelled speech", _table([["labels", *ERROR_TITLES, "share of hours"], *rows])]
    complete = {name: list(each.values()) for name, each in runs.items() if len(each) == len(seeds)}
    if len(complete) > 1 and len(next(iter(complete.values()))[0].results["languages"]) > 1:
        results = {name: [run.results for run in each] for name, each in complete.items()}
        parts += ["## Languages", f"```\n{comparison_table(results, languages)}\n```"]
    return "\n\n".join(parts) + "\n"


ERROR_TITLES = ("CER", "±", "WER", *EDITS, "length ratio", "empty")
PAIRED_TITLES = ("mean", "±", "95 %", "relative", "WER", "± WER", "CER of labels", "± labels")


def _failures(failed: Mapping[str, str]) -> list[str]:
    if not failed:
        return []
    return ["**Not all jobs are complete:**", "\n".join(f"- {name}: {reason}" for name, reason in failed.items())]


def _errors(model: Mapping) -> list[str]:
    spread = (
        f"{_percent(model['cer']['mean'])} ({_percent(model['cer']['lowest'])}-{_percent(model['cer']['highest'])})"
    )
    cer = spread if model["cer"]["seeds"] > 1 else _percent(model["cer"]["mean"])
    length = model["length_ratio"]["mean"]
    return [
        cer,
        _percent(model["cer"]["standard_error"]),
        *(_percent(model[name]["mean"]) for name in ("wer", *EDITS)),
        "-" if length is None else f"{length:.2f}",
        _percent(model["empty"]["mean"]),
    ]


def _model_rows(models: Mapping[str, dict]) -> Iterable[list[str]]:
    for name, model in models.items():
        ends = [model.get(end) for end in ("best_speaker", "worst_speaker")]
        named = ["-" if each is None else f"{_percent(model['speakers'][each])} {each}" for each in ends]
        yield [name, *_errors(model), *named]


def _label_rows(labels: Mapping[str, dict]) -> Iterable[list[str]]:
    users: dict[tuple, list[str]] = {}  # of the same labels
    for name, each in labels.items():
        users.setdefault(tuple(each["results"].items()), []).append(name)
    for names in users.values():
        each = labels[names[0]]
        yield [", ".join(names), *_errors(each), _percent(each["kept_share"]["mean"])]


def _gain_rows(gains: Mapping[str, dict], seeds: Sequence[int]) -> Iterable[list[str]]:
    def cell(share: float | None, change: float | None) -> str:
        return f"{_percent(share, '.0f')} %, {_percent(change, '+.1f')} %".replace("- %", "-")

    for seed in seeds:
        values = (gain["seeds"].get(seed, {"gap_share": None, "change": None}) for gain in gains.values())
        yield [str(seed), *(cell(each["gap_share"], each["change"]) for each in values)]
    for title, key in {"**mean**": "mean", "±": "standard_error"}.items():
        format_of = cell if key == "mean" else lambda share, change: cell(share, change).replace("+", "")
        yield [title, *(format_of(gain["gap_share"][key], gain["change"][key]) for gain in gains.values())]


def _paired_rows(content: Mapping, seeds: Sequence[int]) -> Iterable[list[str]]:
    for name, each in content["paired"].items():
        by_seed = [_percent(each["seeds"].get(seed, {}).get("cer"), "+.1f") for seed in seeds]
        bounds = each["interval"]
        interval = "-" if bounds is None else " to ".join(_percent(bound, "+.1f") for bound in bounds)
        relative = "-" if each["relative"] is None else f"{_percent(each['relative'], '+.1f')} %"
        more = [
            text
            for key in ("wer", "label_cer")
            for text in (_percent(each[key]["mean"], "+.1f"), _percent(each[key]["standard_error"]))
        ]
        ends = [_percent(each["cer"]["mean"], "+.1f"), _percent(each["cer"]["standard_error"]), interval, relative]
        yield [name, *by_seed, *ends, *more]


def _percent(fraction: float | None, number_format: str = ".1f") -> str:
    return "-" if fraction is None else f"{100 * fraction:{number_format}}"


def _table(rows: Iterable[Sequence[str]]) -> str:
    title, *others = rows
    lines = [title, ["---"] * len(title), *others]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
