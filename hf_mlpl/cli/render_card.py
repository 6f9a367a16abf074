"""`hf-mlpl render-card`: the model card of a run, as a file."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

HELP = "write the model card of a run, and push nothing"
DESCRIPTION = """Writes the model card of a run, from the files of its folder alone; nothing is sent anywhere.

    hf-mlpl render-card --run runs/demo/final --results runs/demo/final.json --output model_cards/demo-final.md

The run may be finished, or have come to a save point. Results are files of `hf-mlpl evaluate`; without any, the card
has the run's last evaluation on dev, and says so. The picture of the run's curves is written beside the card.
`hf-mlpl publish` makes the same card for a repository on the Hub.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="output_dir of a training run")
    parser.add_argument(
        "--results", type=Path, nargs="+", default=[], metavar="FILE", help="results files of hf-mlpl evaluate"
    )
    parser.add_argument("--repo", help="name on the Hub that stands in the card; by default the run's push_to_hub")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Returns 0; raises `OSError` and `ValueError` for a run or results that cannot be read."""
    from ..atomic import atomic_write, write_text  # what is imported here takes seconds, and --help need not wait
    from ..evaluation.results import read_results
    from ..sharing.model_card import model_card

    results = [read_results(path) for path in options.results]
    picture = options.output.with_suffix(".png")
    write_text(options.output, str(model_card(options.run, results, options.repo, picture.name)))
    if (curves := options.run / "curves.png").is_file():
        with atomic_write(picture) as partial:
            shutil.copyfile(curves, partial)
    print(f"card: {options.output}")
    return 0
