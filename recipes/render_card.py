"""Writes the model card of a run, from the files of its folder alone; nothing is sent anywhere.

    python recipes/render_card.py --run runs/demo/final --results runs/demo/final.json \\
        --output model_cards/demo-final.md

The run may be finished, or have come to a save point. Results are files of recipes/evaluate.py; without any, the card
has the run's last evaluation on dev, and says so. The picture of the run's curves is written beside the card.
recipes/publish.py makes the same card for a repository on the Hub.
"""

import argparse
import shutil
from pathlib import Path

from hf_mlpl.atomic import atomic_write, write_text
from hf_mlpl.one_line_errors import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="output_dir of a training run")
    parser.add_argument("--results", type=Path, nargs="+", default=[], help="results files of recipes/evaluate.py")
    parser.add_argument("--repo", help="name on the Hub that stands in the card; by default the run's push_to_hub")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file")
    arguments = parser.parse_args()
    # imported here: it takes seconds, and --help need not wait
    from hf_mlpl.model_card import model_card
    from hf_mlpl.results_files import read_results

    results = [read_results(path) for path in arguments.results]
    picture = arguments.output.with_suffix(".png")
    write_text(arguments.output, str(model_card(arguments.run, results, arguments.repo, picture.name)))
    if (curves := arguments.run / "curves.png").is_file():
        with atomic_write(picture) as partial:
            shutil.copyfile(curves, partial)
    print(f"card: {arguments.output}")


if __name__ == "__main__":
    with one_line_errors():
        main()
