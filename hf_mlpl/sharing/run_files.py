"""Reads the record and the settings in the folder of a run, and describes them in words, for cards and reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

import yaml

from ..corpora.reading import drop_reasons
from ..error_line import error_line
from ..model.configuration_mlpl import MlplConfig
from ..model.model_files import Accepted, check_settings, dict_of, read_settings, text, whole

# Settings of paths and of logging, and those that a card shows elsewhere
NOT_SHOWN = frozenset(
    "output_dir model tokens train dev unlabelled language languages log_every eval_every save_every num_workers "
    "cache_gigabytes report_to project push_to_hub hub_private_repo license stage".split()
)


def _objects(*fields: str) -> Accepted:
    """Accepts lists of objects that all have these fields."""

    def is_accepted(value: object) -> bool:
        return isinstance(value, list) and all(isinstance(each, dict) and set(fields) <= each.keys() for each in value)

    return is_accepted, f"a list of objects, each with {', '.join(fields)}"


# Fields of run.json that a card needs
RUN_FIELDS = {
    "stage": text(),
    "language": text(or_null=True),
    "updates": whole(0, 10**12),
    "sessions": _objects("first_update", "hours", "processes", "hardware", "versions", "commit"),
    "model": (lambda value: isinstance(value, dict) and "parameters" in value, "an object with parameters"),
    "training_data": dict_of(dict, "objects"),
    "unlabelled_hours": dict_of((int, float), "numbers"),
    "dropped": dict_of(int, "numbers"),
    "sources": _objects("name", "license", "url"),
    "slimipl": (
        lambda value: value is None or isinstance(value, dict) and isinstance(value.get("line"), str),
        "null, or an object with line",
    ),
    "started_from": (
        lambda value: value is None or isinstance(value, dict) and {"name", "revision", "run"} <= value.keys(),
        "null, or an object with name, revision, run",
    ),
}


def read_run(run_dir: Path) -> tuple[dict, dict]:
    """Returns the settings and the record of a run.

    Raises:
        ValueError: for a folder without a run, and for a damaged file.
    """
    for name in ("config.yaml", "run.json"):
        if not (run_dir / name).is_file():
            raise ValueError(f"{run_dir}: has no {name}, which describes a run; `hf-mlpl train` writes it")
    run = read_settings(run_dir / "run.json")
    check_settings(run_dir / "run.json", dict.fromkeys(RUN_FIELDS) | run, RUN_FIELDS)
    file = run_dir / "config.yaml"
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{file}: is not YAML in UTF-8 ({error_line(error)})") from error
    if not isinstance(config, dict) or not {"output_dir", "max_updates"} <= config.keys():
        raise ValueError(f"{file}: holds no settings of a run, or not all; `hf-mlpl train` writes them")
    return config, run


def is_ours(run: dict) -> bool:
    """Returns whether the model is of hf_mlpl's own type, as those of older versions all were."""
    return run["model"].get("type", MlplConfig.model_type) == MlplConfig.model_type


def spoken(languages: Sequence[str]) -> str:
    return languages[0] if len(languages) == 1 else f"{len(languages)} languages"


def tag_of(run: dict) -> str:
    return f"{run['stage']}-{run['language']}" if run["language"] else run["stage"]


def runs_of(run: dict) -> list[dict]:
    """Returns the known records of all runs in which a model was trained, the first run first."""
    origin = run["started_from"]
    return [*(runs_of(origin["run"]) if origin and origin["run"] else ()), run]


def has_pseudo_labels(run: dict) -> bool:
    """Returns whether a stage has learned from pseudo-labels, or made them itself."""
    hours = [data["pseudo_labelled_hours"] for stage in runs_of(run) for data in stage["training_data"].values()]
    return any(hours) or any(stage["unlabelled_hours"] for stage in runs_of(run))


def data_name(result: dict) -> str:
    """Returns the name of a test set: the sources of its speech, or its files if they are unknown, or ""."""
    names = [source["name"] for source in result.get("sources", ())]
    return " + ".join(names or [PurePath(path).name for path in result.get("data", ())])


def split_of(result: dict) -> str:
    """Returns the split of a test set, by its name in a data set of the Hub, or by its files."""
    split = (result.get("dataset") or {}).get("split") or "+".join(
        dict.fromkeys(PurePath(path).stem for path in result.get("data", ()))
    )
    return f"{split}, sentences unseen in training" if result.get("unseen_in") else split


def data_title(result: dict) -> str:
    dataset = result.get("dataset") or {}
    configs = set((dataset.get("configs") or {}).values()) if dataset.get("id") else ()
    config = f"{next(iter(configs))}, " if len(configs) == 1 else ""  # such as clean and other of LibriSpeech
    return f"{data_name(result)}: {config}{split_of(result)}" if result.get("sources") else data_name(result)


def data_line(result: dict) -> str:
    """Returns the sources of a test set, with their licences, and its place on the Hub; "" if none is known.

    Names of the Hub are in backticks.
    """
    parts = []
    for source in result.get("sources", ()):
        page = f" ({source['url']})" if source.get("url") else ""
        parts.append(f"{source['name']}{page}, licence `{source.get('license', 'unknown')}`")
    dataset = result.get("dataset") or {}
    if dataset.get("id"):
        revision = f" at `{dataset['revision']!s:.12}`" if dataset.get("revision") else ""
        parts.append(f"the Hub's `{dataset['id']}`{revision}, split `{dataset['split']}`")
    if dataset.get("left_out"):
        parts.append(f"left out: {drop_reasons(Counter(dataset['left_out']))}")
    if languages := result.get("unknown_languages"):
        parts.append(f"the model does not know {', '.join(languages)}")
    if languages := result.get("languages_left_out"):
        parts.append(f"without {', '.join(languages)}, which the model cannot transcribe")
    return f"Data: {'; '.join(parts)}." if parts else ""


def format_hours(hours: float) -> str:
    return "< 0.01" if 0 < hours < 0.01 else f"{hours:,.2f}"


def data_of_all_stages(run: dict) -> dict[str, dict]:
    """Returns for each language the most `human`, `pseudo` and `unlabelled` hours of a stage, and all `teachers`."""
    data: dict[str, dict] = {}
    for stage in runs_of(run):
        for language in {**stage["training_data"], **stage["unlabelled_hours"]}:
            row = data.setdefault(language, {"human": 0.0, "pseudo": 0.0, "unlabelled": 0.0, "teachers": []})
            used = stage["training_data"].get(language, {})
            row["human"] = max(row["human"], used.get("human_hours", 0))
            row["pseudo"] = max(row["pseudo"], used.get("pseudo_labelled_hours", 0))
            row["unlabelled"] = max(row["unlabelled"], stage["unlabelled_hours"].get(language, 0))
            row["teachers"] = list(dict.fromkeys([*row["teachers"], *used.get("teachers", ())]))
    return dict(sorted(data.items()))


def sources_of_run(run: dict) -> list[tuple[str, str, str | None]]:
    """Returns name, licence and page of the sources of all stages, each once."""
    sources = [source for stage in runs_of(run) for source in stage["sources"]]
    return list(dict.fromkeys((source["name"], source["license"], source["url"]) for source in sources))


def stage_lines(run: dict) -> list[str]:
    """Returns a sentence for each run in which a model was trained, and for an origin without a record."""
    origin, earlier, start = run["started_from"], [], "a new model"
    if origin:
        name = f"`{origin['name']}`" + (f" at `{origin['revision'][:12]}`" if origin["revision"] else "")
        earlier = stage_lines(origin["run"]) if origin["run"] else [f"{name}, whose training is not noted here."]
        start = f"from {name}"
    data = run["training_data"].values()
    hours = {
        "of human transcripts": sum(row.get("human_hours", 0) for row in data),
        "of pseudo-labels": sum(row.get("pseudo_labelled_hours", 0) for row in data),
        "that slimIPL labels on the way": sum(run["unlabelled_hours"].values()),
    }
    speech = ", ".join(f"{format_hours(amount)} h {kind}" for kind, amount in hours.items() if amount)
    languages = list(run["training_data"])
    return [*earlier, f"`{tag_of(run)}`: {start}, {run['updates']:,} updates on {speech}, in {spoken(languages)}."]


def settings_text(config: dict) -> str:
    """Returns as YAML the settings that influence the result, without those that are empty."""

    def without_empty(value):
        if isinstance(value, dict):
            return {name: without_empty(inner) for name, inner in value.items() if inner not in (None, {}, [])}
        return value

    settings = without_empty({name: value for name, value in config.items() if name not in NOT_SHOWN})
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).strip()
