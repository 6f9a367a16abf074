"""Renders the cards of models: of a trained one from the files of its run, of a converted one from its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePath

import torch
from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel

from ..corpora.locales import iso_code
from ..evaluation.results import read_results
from ..inference.loading import load_model
from ..installation import published_requirement
from ..model.configuration_mlpl import language_names
from ..model.modeling_mlpl import MlplForCTC
from .limits import limits
from .model_index import TASK, model_index
from .result_tables import has_intervals, has_normalized, shown_result
from .run_files import (
    data_of_all_stages,
    format_hours,
    has_pseudo_labels,
    is_ours,
    read_run,
    runs_of,
    settings_text,
    sources_of_run,
    spoken,
    stage_lines,
    tag_of,
)

TEMPLATES = Path(__file__).parent / "templates"
PROGRAMS = {"flashlight": "flashlight", "mctct": "transformers' `MCTCTForCTC`"}


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
    config, run = read_run(run_dir)
    check_weights(run_dir, results)
    dev_update = None
    if not results and (run_dir / "results.json").is_file():
        results = [read_results(run_dir / "results.json")]
        dev_update = results[0]["update"]
    repo_id = repo_id or config.get("push_to_hub")
    name = repo_id.partition("/")[2] if repo_id else tag_of(run)
    languages = [run["language"]] if run["language"] else list(run["training_data"])
    data = data_of_all_stages(run)
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
        spoken=spoken(languages),
        model_type=run["model"].get("type"),
        is_ours=is_ours(run),
        has_adapters=bool(config.get("lora")) and not config["lora"]["merge"],
        parameters=run["model"]["parameters"],
        stage=tag_of(run),
        updates=run["updates"],
        max_updates=config["max_updates"],
        slimipl=(run.get("slimipl") or {}).get("line"),
        model=repo_id or f"{output}/model",
        results=[shown_result(result, is_ours(run)) for result in results],
        has_languages=is_ours(run),
        has_normalized=any(map(has_normalized, results)),
        has_intervals=any(map(has_intervals, results)),
        dev_update=dev_update,
        data=data,
        hour_kinds=hour_kinds,
        hours=format_hours,
        iso_code=iso_code,
        dropped=", ".join(f"{count:,} ({reason})" for reason, count in run["dropped"].items()),
        sources=sources_of_run(run),
        stages=stage_lines(run),
        sessions=run["sessions"],
        settings=settings_text(config),
        curves=curves if (run_dir / "curves.png").is_file() else "",
        limits=list(limits(run, results, data, languages)),
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


def check_weights(run_dir: Path, results: Sequence[dict]) -> None:
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
                f"results of {result['revision']} on {', '.join(result.get('data', ()))} are not of {folder}, whose "
                f"weights are @{own}; run `hf-mlpl evaluate` again"
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


def _card_data(config: dict, run: dict, results: Sequence[dict], name: str, languages: Sequence[str]) -> ModelCardData:
    origins = [stage["started_from"] for stage in runs_of(run) if stage["started_from"]]
    on_hub = [origin["name"] for origin in origins if "/" in origin["name"]]
    hub_page = "https://huggingface.co/datasets/"
    datasets = [url.removeprefix(hub_page) for _, _, url in sources_of_run(run) if url and url.startswith(hub_page)]
    return ModelCardData(
        language=sorted(set(map(iso_code, languages))),
        license=config.get("license") or "unknown",
        library_name="transformers",
        pipeline_tag=TASK,
        base_model=on_hub[-1] if on_hub else None,
        datasets=datasets or None,
        metrics=["cer", "wer"],
        tags=["hf_mlpl", "ctc", "pseudo-labels"] if has_pseudo_labels(run) else ["hf_mlpl", "ctc"],
        model_name=name if results else None,
        eval_results=model_index(results) or None,
    )
