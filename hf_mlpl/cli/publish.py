"""`hf-mlpl publish`: a finished run, with its results on test sets, to the Hub."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

HELP = "push a trained model to the Hub, with its results in its card"
DESCRIPTION = """Pushes a finished run to the Hub, with its results on test sets in the card.

    hf-mlpl evaluate --model runs/demo/final/model --data data/test.parquet --output runs/demo/final.json
    hf-mlpl publish --run runs/demo/final --results runs/demo/final.json --repo me/demo --private

It makes one commit, which gets the tag of the run's stage: model, processor, tokens, code for `trust_remote_code`,
card, settings, numbers and curves, and the results below results/. A run with `push_to_hub` in its settings has been
pushed already; this adds the results. The token is that of HF_TOKEN or `hf auth login`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="output_dir of a finished run")
    parser.add_argument(
        "--results", type=Path, nargs="+", default=[], metavar="FILE", help="results files of hf-mlpl evaluate"
    )
    parser.add_argument("--repo", required=True, help="repository to push to, such as me/demo")
    parser.add_argument("--private", action="store_true", help="create the repository as private if it does not exist")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Returns 0; raises `OSError` and `ValueError` for a run or results that cannot be read or pushed."""
    from ..atomic import temporary_folder  # what is imported here takes seconds, and --help need not wait
    from ..evaluation.results import read_results
    from ..sharing.hub import push_folder
    from ..training.run_pusher import REPLACED, fill_result
    from ..training_config import load_config

    folder = options.run
    if not (folder / "model").is_dir():
        raise ValueError(
            f"{folder} has no model/; --run needs the output_dir of a run of `hf-mlpl train` that is finished"
        )
    config = load_config(folder / "config.yaml", [f"push_to_hub={options.repo}"])  # checks name, tag and licence
    results = [read_results(path) for path in options.results]
    with temporary_folder(folder, "publish") as partial:  # there a file can have two names
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
    return 0
