"""Writes the model card of a run, from the files in its folder alone; sends nothing anywhere.

    hf-mlpl render-card --run runs/demo/final --results runs/demo/final.json --output model_cards/demo-final.md

The run may be finished, or have reached a save point. Results are files of `hf-mlpl evaluate`; without any, the card
shows the run's last evaluation on dev, and says so. The picture of the run's curves is written beside the card.
`hf-mlpl publish` makes the same card for a repository on the Hub.
"""

import argparse
import shutil
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("--repo", help="name on the Hub to show in the card; default: the run's push_to_hub")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write")


def add_run_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds the options for a run and its results, which `hf-mlpl publish` also has."""
    parser.add_argument("--run", type=Path, required=required, metavar="DIR", help="output_dir of a training run")
    parser.add_argument(
        "--results", type=Path, nargs="+", default=[], metavar="FILE", help="results files of `hf-mlpl evaluate`"
    )


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from ..atomic import atomic_write, write_text
    from ..evaluation.results import read_results
    from ..sharing.model_card import model_card

    results = [read_results(path) for path in options.results]
    picture = options.output.with_suffix(".png")
    write_text(options.output, str(model_card(options.run, results, options.repo, picture.name)))
    if (curves := options.run / "curves.png").is_file():
        with atomic_write(picture) as partial:
            shutil.copyfile(curves, partial)
    print(f"card: {options.output}")
