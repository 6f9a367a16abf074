"""Pushes a finished run to the Hub, with its results on test sets in the card.

    hf-mlpl evaluate --model runs/demo/final/model --data data/test.parquet --output runs/demo/final.json
    hf-mlpl publish --run runs/demo/final --results runs/demo/final.json --repo me/demo --private

    # make the Space of a model that is on the Hub: a page with `hf-mlpl app`, at huggingface.co/spaces/me/demo
    hf-mlpl publish --space --repo me/demo

The push is one commit, and gets the tag of the run's stage. It holds the model, processor, tokens, code for
`trust_remote_code`, card, settings, numbers and curves, and the results in the folder results. A run with
`push_to_hub` in its settings has already been pushed; this adds the results. Results of `hf-mlpl evaluate --dataset`
stand in the card's metadata under the names that the Hub has for the data set. The token comes from HF_TOKEN or
`hf auth login`.

A Space has the name of its model. It carries the files of hf_mlpl itself, unless pip can install hf_mlpl from an
address. Pushing it again brings it up to date.
"""

import argparse
import shutil

from .render_card import add_run_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser, required=False)
    parser.add_argument("--repo", required=True, help="repository to push to, such as me/demo")
    parser.add_argument("--private", action="store_true", help="create the repository as private if it does not exist")
    parser.add_argument(
        "--space", action="store_true", help="push the model's Space as well, or alone without --run; it shows the app"
    )


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if options.run is None and (options.results or not options.space):
        parser.error("--run is needed: the output_dir of a training run; without it, --space pushes the Space alone")
    if options.run is not None:
        _push_run(options)
    if options.space:
        _push_space(options)


def _push_run(options: argparse.Namespace) -> None:
    from ..atomic import temporary_folder
    from ..evaluation.results import read_results
    from ..sharing.hub import push_folder
    from ..training.run_pusher import REPLACED, fill_result
    from ..training_config import load_config

    folder = options.run
    if not (folder / "model").is_dir():
        raise ValueError(
            f"{folder} has no model/; --run needs the output_dir of a run of `hf-mlpl train` that is finished"
        )
    config = load_config(folder / "config.yaml", [f"push_to_hub={options.repo}"])  # which checks name, tag and licence
    results = [read_results(path) for path in options.results]
    with temporary_folder(folder, "publish") as partial:  # on the same disk, so that files can be linked
        fill_result(folder, partial, options.repo, results)
        for path in options.results:
            (partial / "results").mkdir(exist_ok=True)
            shutil.copyfile(path, partial / "results" / path.name)
        commit = push_folder(
            partial,
            options.repo,
            message=f"{config.tag}: the result" + (", with test results" if results else ""),
            pending=f"{folder} is complete",
            remedy="the same command again pushes it",
            private=options.private,
            replaced=REPLACED,
            tag=config.tag,
        )
    print(f"pushed to {commit.repo_url}, tag {config.tag}")


def _push_space(options: argparse.Namespace) -> None:
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from huggingface_hub import HfApi, ModelCard

    from ..app.space import write_space
    from ..sharing.hub import FAILURES, push_folder, request_problem, with_retries

    try:
        model = with_retries(lambda: HfApi().model_info(options.repo))
        license = ModelCard.load(model.id).data.get("license")
    except FAILURES as error:
        raise OSError(f"{options.repo}: its Space needs the model on the Hub ({request_problem(error)})") from error
    if not license:
        raise ValueError(f"{model.id}: its card names no licence, without which no Space is pushed; add `license`")
    with TemporaryDirectory(prefix="hf-mlpl-space-") as folder:
        write_space(Path(folder), model.id, license)
        commit = push_folder(
            folder,
            model.id,
            message=f"The Space of {model.id}",
            pending=f"{model.id} is on the Hub",
            remedy="`hf-mlpl publish --space` pushes its Space",
            repo_type="space",
            private=options.private,
            replaced=("hf_mlpl/",),
        )
    print(f"pushed to {commit.repo_url}")
    if model.private:
        print(f"{model.id} is private: add a token that may read it to the Space's settings, as the secret HF_TOKEN")
