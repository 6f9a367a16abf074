"""Pushes a finished run to the Hub, with its results on test sets in the card.

    accelerate launch recipes/evaluate.py --model runs/demo/final/model --data data/test.parquet \\
        --output runs/demo/final.json
    python recipes/publish.py --run runs/demo/final --results runs/demo/final.json --repo me/demo --private

One commit, which gets the tag of the run's stage: model, processor, tokens, code for `trust_remote_code`, card,
settings, numbers and curves, and the results below results/. A run with `push_to_hub` in its settings has been pushed
already; this adds the results. The token is that of HF_TOKEN or `hf auth login`.
"""

import argparse
import shutil
from pathlib import Path

from hf_mlpl.one_line_errors import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="output_dir of a finished run")
    parser.add_argument(
        "--results", type=Path, nargs="+", default=[], metavar="FILE", help="results files of recipes/evaluate.py"
    )
    parser.add_argument("--repo", required=True, help="repository to push to, such as me/demo")
    parser.add_argument("--private", action="store_true", help="make it a private one, if it has to be made")
    arguments = parser.parse_args()
    # imported here: it takes seconds, and --help need not wait
    from hf_mlpl.atomic import temporary_folder
    from hf_mlpl.hub import push_folder
    from hf_mlpl.results_files import read_results
    from hf_mlpl.run_pusher import OF_ANOTHER_SAVE, fill_result
    from hf_mlpl.training_config import load_config

    run = arguments.run
    if not (run / "model").is_dir():
        raise ValueError(
            f"{run} has no model/; --run needs the output_dir of a run of recipes/train.py that is finished"
        )
    config = load_config(run / "config.yaml", [f"push_to_hub={arguments.repo}"])  # which checks name, tag and licence
    results = [read_results(path) for path in arguments.results]
    with temporary_folder(run, "publish") as folder:  # there a file can have two names
        fill_result(run, folder, arguments.repo, results)
        for path in arguments.results:
            (folder / "results").mkdir(exist_ok=True)
            shutil.copyfile(path, folder / "results" / path.name)
        commit = push_folder(
            folder,
            arguments.repo,
            message=f"{config.tag}: the result" + (", with test results" if results else ""),
            pending=f"{run} is complete",
            remedy="the same command again pushes it",
            private=arguments.private,
            replaced=OF_ANOTHER_SAVE,
            tag=config.tag,
        )
    print(f"pushed to {commit.repo_url}, tag {config.tag}")


if __name__ == "__main__":
    with one_line_errors():
        main()
