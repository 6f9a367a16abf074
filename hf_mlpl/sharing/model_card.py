"""Renders the cards of models: of a trained one from the files of its run, of a converted one from its weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from ..corpora.locales import iso_code
from ..corpora.sources import SYNTHETIC
from ..error_line import error_line
from ..evaluation.error_rate import RATES
from ..evaluation.results import read_results
from ..inference.loading import load_model
from ..installation import published_requirement
from ..model.configuration_mlpl import MlplConfig, language_names
from ..model.model_files import check_settings, dict_of, read_settings, text, whole
from ..model.modeling_mlpl import MlplForCTC

TEMPLATES = Path(__file__).parent / "templates"
PROGRAMS = {"flashlight": "flashlight", "mctct": "transformers' `MCTCTForCTC`"}
TASK = "automatic-speech-recognition"
# Settings of paths and of logging, and those that the card shows elsewhere
NOT_SHOWN = frozenset(
    "output_dir model tokens train dev unlabelled language languages log_every eval_every save_every num_workers "
    "cache_gigabytes push_to_hub hub_private_repo license stage".split()
)
MANY_ERRORS = 0.5  # CER
FEW_HOURS = 10  # of human transcripts
WITHOUT_SPACES = frozenset("ja km lo my nan th yue zh".split())  # ISO codes of languages written without spaces


def model_card(
    run_dir: Path, results: Sequence[dict] = (), repo_id: str | None = None, curves: str = "curves.png"
) -> ModelCard:
    """Renders the card of the model of a run that is finished, or has come to a save point.

    Args:
        run_dir: the `output_dir` of the run, with `config.yaml` and `run.json`, and perhaps `results.json` and
            `curves.png`.
        results: contents of files of `hf-mlpl evaluate`; by default the last evaluation on dev.
        repo_id: repository that the card is for; by default the run's `push_to_hub`.
        curves: name of `curves.png` beside the card.

    Raises:
        ValueError: for a folder without a run, for results of other weights than its model's, and for two results of
            the same data.
    """
    config, run = _read(run_dir)
    _check_weights(run_dir, results)
    dev_update = None
    if not results and (run_dir / "results.json").is_file():
        results = [read_results(run_dir / "results.json")]
        dev_update = results[0]["update"]
    repo_id = repo_id or config.get("push_to_hub")
    name = repo_id.partition("/")[2] if repo_id else _tag(run)
    languages = [run["language"]] if run["language"] else list(run["training_data"])
    data = _data_of_all_stages(run)
    hour_kinds = {"human": "human transcripts", "pseudo": "pseudo-labels", "unlabelled": "slimIPL"}
    for kind in ("pseudo", "unlabelled"):
        if not any(row[kind] for row in data.values()):
            del hour_kinds[kind]
    output = config["output_dir"]
    if PurePath(output).is_absolute():  # a card shows no folders of this machine
        output = PurePath(output).name
    return _render(
        "model_card.md",
        _card_data(config, run, results, name, languages),
        title=name,
        spoken=_spoken(languages),
        model_type=run["model"].get("type"),
        is_ours=_is_ours(run),
        has_adapters=bool(config.get("lora")) and not config["lora"]["merge"],
        parameters=run["model"]["parameters"],
        stage=_tag(run),
        updates=run["updates"],
        max_updates=config["max_updates"],
        model=repo_id or f"{output}/model",
        results=[result | {"title": _data_title(result)} for result in results],
        rates=[rate for rate in RATES if rate != "language_accuracy" or _is_ours(run)],
        dev_update=dev_update,
        data=data,
        hour_kinds=hour_kinds,
        hours=_hours,
        iso_code=iso_code,
        dropped=", ".join(f"{count:,} ({reason})" for reason, count in run["dropped"].items()),
        sources=_sources(run),
        stages=_stage_lines(run),
        sessions=run["sessions"],
        settings=_settings(config),
        curves=curves if (run_dir / "curves.png").is_file() else "",
        limits=list(_limits(run, results, data, languages)),
        card_license=config.get("license"),
    )


def converted_model_card(
    model: MlplForCTC, repo_id: str, license: str, checkpoint: str, source: str, languages: Sequence[str] | None
) -> ModelCard:
    """Renders the card of a model that was converted from another program's checkpoint.

    Args:
        repo_id: repository that the card is for.
        license: of the weights.
        checkpoint: file, folder or Hub name of the checkpoint.
        source: the other program, one of `PROGRAMS`.
        languages: names of the language-ID head's classes, if the user has given them; some may be numbers.
    """
    is_on_hub = source == "mctct" and not Path(checkpoint).exists()
    named = set(languages or ()).difference(language_names(len(languages or ())))
    data = ModelCardData(
        language=sorted(set(map(iso_code, named))) or None,
        license=license,
        library_name="transformers",
        pipeline_tag=TASK,
        base_model=checkpoint if is_on_hub else None,
        tags=["hf_mlpl", "ctc"],
    )
    return _render(
        "converted_model_card.md",
        data,
        title=repo_id.rpartition("/")[2],
        model=repo_id,
        parameters=model.num_parameters(),
        origin=checkpoint if is_on_hub else PurePath(checkpoint).name,
        program=PROGRAMS[source],
        classes=model.config.vocab_size,
        languages=", ".join(languages or ()),
        num_languages=len(model.config.languages),
        card_license=license,
    )


def _render(
    template: str, metadata: ModelCardData, is_ours: bool = True, has_adapters: bool = False, **fields
) -> ModelCard:
    names = (template, "use_adapters.md" if has_adapters else "use.md" if is_ours else "use_transformers.md")
    content, use = ((TEMPLATES / name).read_text(encoding="utf-8") for name in names)
    fields |= {"is_ours": is_ours, "requirement": published_requirement("peft" if has_adapters else "")}
    return ModelCard.from_template(metadata, template_str=content.replace("{{ use }}", use.rstrip()), **fields)


A_LIST = (lambda value: isinstance(value, list), "a list")
# Fields of run.json that the card needs
RUN_FIELDS = {
    "stage": text(),
    "language": text(or_null=True),
    "updates": whole(0, 10**12),
    "sessions": A_LIST,
    "model": (lambda value: isinstance(value, dict) and "parameters" in value, "an object with parameters"),
    "training_data": dict_of(dict, "objects"),
    "unlabelled_hours": dict_of((int, float), "numbers"),
    "dropped": dict_of(int, "numbers"),
    "sources": A_LIST,
    "started_from": (lambda value: value is None or isinstance(value, dict), "an object or null"),
}


def _read(run_dir: Path) -> tuple[dict, dict]:
    """Reads and checks the settings and the record of a run."""
    for name in ("config.yaml", "run.json"):
        if not (run_dir / name).is_file():
            raise ValueError(f"{run_dir}: has no {name}, of which a card is made; `hf-mlpl train` writes it")
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


def _check_weights(run_dir: Path, results: Sequence[dict]) -> None:
    """Raises a ValueError for results of other weights; results of a model on the Hub have no hash to compare."""
    hashes = {result["revision"].rpartition("@")[2]: result for result in results if "revision" in result}
    hashes = {digest: result for digest, result in hashes.items() if len(digest) < 40}  # a commit has 40 digits
    folder = run_dir / "model"
    if not hashes or not folder.is_dir():
        return
    own = teacher_revision(load_model(str(folder))[0], str(folder)).rpartition("@")[2]
    for digest, result in hashes.items():
        if digest != own:
            raise ValueError(
                f"results of {result['revision']} on {', '.join(result['data'])} are not of {folder}, whose weights "
                f"are @{own}; run `hf-mlpl evaluate` again"
            )


def teacher_revision(model: PreTrainedModel, name: str) -> str:
    """Returns `user/name@commit` for a model from the Hub, and for others the end of the path `name` and a hash.

    The hash is the first 12 digits of the SHA-256 of the weights.
    """
    if commit := getattr(model.config, "_commit_hash", None):
        return f"{name}@{commit}"
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy())
    return f"{'/'.join(Path(name).resolve().parts[-2:])}@{digest.hexdigest()[:12]}"


def _is_ours(run: dict) -> bool:
    """Returns whether the model is of hf_mlpl's own type, as those of older versions all were."""
    return run["model"].get("type", MlplConfig.model_type) == MlplConfig.model_type


def _spoken(languages: Sequence[str]) -> str:
    return languages[0] if len(languages) == 1 else f"{len(languages)} languages"


def _tag(run: dict) -> str:
    return f"{run['stage']}-{run['language']}" if run["language"] else run["stage"]


def _runs(run: dict) -> list[dict]:
    """Returns the known records of all runs in which a model was trained, the first run first."""
    origin = run["started_from"]
    return [*(_runs(origin["run"]) if origin and origin["run"] else ()), run]


def _card_data(config: dict, run: dict, results: Sequence[dict], name: str, languages: Sequence[str]) -> ModelCardData:
    origins = [stage["started_from"] for stage in _runs(run) if stage["started_from"]]
    on_hub = [origin["name"] for origin in origins if "/" in origin["name"]]
    hub_page = "https://huggingface.co/datasets/"
    datasets = [url.removeprefix(hub_page) for _, _, url in _sources(run) if url and url.startswith(hub_page)]
    return ModelCardData(
        language=sorted(set(map(iso_code, languages))),
        license=config.get("license") or "unknown",
        library_name="transformers",
        pipeline_tag=TASK,
        base_model=on_hub[-1] if on_hub else None,
        datasets=datasets or None,
        metrics=["cer", "wer"],
        tags=["hf_mlpl", "ctc", "pseudo-labels"] if _has_pseudo_labels(run) else ["hf_mlpl", "ctc"],
        model_name=name if results else None,
        eval_results=_eval_results(results) or None,
    )


def _has_pseudo_labels(run: dict) -> bool:
    hours = [data["pseudo_labelled_hours"] for stage in _runs(run) for data in stage["training_data"].values()]
    return any(hours) or any(stage["unlabelled_hours"] for stage in _runs(run))


# Results


def _eval_results(results: Sequence[dict]) -> list[EvalResult]:
    """Returns error rates in percent; raises a `ValueError` for two results of one data set and language."""
    rates: list[EvalResult] = []
    for result in results:
        name, split = _data_name(result), _split(result)
        data_id = name if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else re.sub(r"[^\w.]+", "-", name.lower()).strip("-")
        known = {(rate.dataset_type, rate.dataset_split, rate.dataset_config) for rate in rates}
        for language, scores in result["languages"].items():
            if (data_id, split, language) in known:
                raise ValueError(f"two of the results are of {_data_title(result)}, {language}; give one of them")
            for metric in ("cer", "wer"):
                if scores[metric] is not None:
                    rates.append(
                        EvalResult(
                            task_type=TASK,
                            task_name="Speech Recognition",
                            dataset_type=data_id,
                            dataset_name=name,
                            dataset_config=language,
                            dataset_split=split,
                            metric_type=metric,
                            metric_value=round(100 * scores[metric], 2),
                            metric_name=f"{split} {metric.upper()}, %",
                        )
                    )
    return rates


def _data_name(result: dict) -> str:
    """Returns the name of a test set: the sources of its speech, or its files if they are unknown."""
    names = [source["name"] for source in result.get("sources", ())]
    return " + ".join(names or [PurePath(path).name for path in result["data"]])


def _split(result: dict) -> str:
    split = "+".join(dict.fromkeys(PurePath(path).stem for path in result["data"]))
    return f"{split}, sentences unseen in training" if result.get("unseen_in") else split


def _data_title(result: dict) -> str:
    return f"{_data_name(result)}: {_split(result)}" if result.get("sources") else _data_name(result)


def _hours(hours: float) -> str:
    return "< 0.01" if 0 < hours < 0.01 else f"{hours:,.2f}"


# Training


def _data_of_all_stages(run: dict) -> dict[str, dict]:
    """Returns for each language the most `human`, `pseudo` and `unlabelled` hours of a stage, and all `teachers`."""
    data: dict[str, dict] = {}
    for stage in _runs(run):
        for language in {**stage["training_data"], **stage["unlabelled_hours"]}:
            row = data.setdefault(language, {"human": 0.0, "pseudo": 0.0, "unlabelled": 0.0, "teachers": []})
            used = stage["training_data"].get(language, {})
            row["human"] = max(row["human"], used.get("human_hours", 0))
            row["pseudo"] = max(row["pseudo"], used.get("pseudo_labelled_hours", 0))
            row["unlabelled"] = max(row["unlabelled"], stage["unlabelled_hours"].get(language, 0))
            row["teachers"] = list(dict.fromkeys([*row["teachers"], *used.get("teachers", ())]))
    return dict(sorted(data.items()))


def _sources(run: dict) -> list[tuple[str, str, str | None]]:
    """Returns name, licence and page of the sources of all stages, each once."""
    sources = [source for stage in _runs(run) for source in stage["sources"]]
    return list(dict.fromkeys((source["name"], source["license"], source["url"]) for source in sources))


def _stage_lines(run: dict) -> list[str]:
    """Returns a sentence for each run in which a model was trained, and for an origin without a record."""
    origin, earlier, start = run["started_from"], [], "a new model"
    if origin:
        name = f"`{origin['name']}`" + (f" at `{origin['revision'][:12]}`" if origin["revision"] else "")
        earlier = _stage_lines(origin["run"]) if origin["run"] else [f"{name}, whose training is not noted here."]
        start = f"from {name}"
    data = run["training_data"].values()
    hours = {
        "of human transcripts": sum(row["human_hours"] for row in data),
        "of pseudo-labels": sum(row["pseudo_labelled_hours"] for row in data),
        "that slimIPL labels on the way": sum(run["unlabelled_hours"].values()),
    }
    speech = ", ".join(f"{_hours(amount)} h {kind}" for kind, amount in hours.items() if amount)
    languages = list(run["training_data"])
    return [*earlier, f"`{_tag(run)}`: {start}, {run['updates']:,} updates on {speech}, in {_spoken(languages)}."]


def _settings(config: dict) -> str:
    """Returns as YAML the settings that influence the result, without those that are empty."""

    def without_empty(value):
        if isinstance(value, dict):
            return {name: without_empty(inner) for name, inner in value.items() if inner not in (None, {}, [])}
        return value

    settings = without_empty({name: value for name, value in config.items() if name not in NOT_SHOWN})
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).strip()


# Limits


def _limits(run: dict, results: Sequence[dict], data: dict, languages: Sequence[str]) -> Iterator[str]:
    """Yields sentences about the weaknesses that the numbers show, and about missing information."""
    if SYNTHETIC.name in {name for name, *_ in _sources(run)}:
        yield "It has learned from synthetic speech; do not expect that it understands people."
    scored = [(language, scores["cer"]) for result in results for language, scores in result["languages"].items()]
    bad = sorted({language for language, cer in scored if cer is not None and cer > MANY_ERRORS})
    if bad:
        yield f"More than half of the characters are wrong (CER above {MANY_ERRORS:.0%}) in {', '.join(bad)}."
    if missing := [language for language in languages if language not in dict(scored)]:
        yield f"Nothing here says how good it is in {_names(missing, languages)}: there are no results."
    if without := [language for language in languages if not data[language]["human"]]:
        yield f"It has seen no human transcript of {_names(without, languages)}, only pseudo-labels."
    if few := [language for language in languages if 0 < data[language]["human"] < FEW_HOURS]:
        yield f"Human transcripts are few, less than {FEW_HOURS} hours, in {_names(few, languages)}."
    if unspaced := [language for language in languages if iso_code(language) in WITHOUT_SPACES]:
        yield f"The WER says little about {', '.join(unspaced)}, written without spaces: look at the CER."
    if unreadable := sum(result.get("unreadable", 0) for result in results):
        yield f"Recordings that could not be read count as empty texts in the results; there are {unreadable:,}."
    if unknown := [name for name, license, _ in _sources(run) if license == "unknown"]:
        yield f"The licence of the speech it has learned from is not known: {', '.join(unknown)}."
    if _has_pseudo_labels(run):
        yield "Pseudo-labels repeat the mistakes of their teachers, most of all in names, numbers and foreign words."
    letters = ", letter by letter" if _is_ours(run) else ""
    yield f"It writes what it hears{letters}, without a language model: words may come out that do not exist."
    yield "In noise, in music and in languages that it does not know, it may write words that nobody has said."


def _names(some: Sequence[str], languages: Sequence[str]) -> str:
    return "all languages" if len(some) == len(languages) > 1 else ", ".join(some)
