"""Trains a model, or goes on where an interrupted run stopped: the same command again is all it takes.

    accelerate launch recipes/train.py recipes/demo/supervised.yaml
    accelerate launch recipes/train.py recipes/demo/supervised.yaml output_dir=elsewhere max_updates=100

    # pushed to the Hub whenever it saves, with the token of HF_TOKEN or `hf auth login`; and then on another machine
    accelerate launch recipes/train.py recipes/demo/supervised.yaml push_to_hub=me/demo license=cc0-1.0
    accelerate launch recipes/train.py recipes/demo/supervised.yaml --resume-from-hub me/demo

A stage of the recipe is a YAML file; `name=value` goes over it. The settings, with their defaults, are the fields of
`hf_mlpl.training_config.TrainingConfig`, printed by --settings. Watch OUTPUT_DIR/metrics.jsonl and curves.png.
"""

import argparse
import logging
import os

from hf_mlpl.one_line_errors import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", help="YAML file of a stage")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="settings that go over the file's")
    parser.add_argument(
        "--resume-from-hub",
        metavar="REPO",
        help="go on from what a run with these settings pushed there, if it is newer than what output_dir has",
    )
    parser.add_argument("--settings", action="store_true", help="explain every setting and stop")
    arguments = parser.parse_args()
    # imported here: it takes seconds, and --help need not wait
    from huggingface_hub.errors import StrictDataclassError

    from hf_mlpl.resume import resume_from_hub
    from hf_mlpl.training import TrainingError, train
    from hf_mlpl.training_config import TrainingConfig, load_config

    if arguments.settings:
        print(TrainingConfig.__doc__)
        return
    if not arguments.config:
        parser.error("name the YAML file of a stage, such as recipes/demo/supervised.yaml")
    with one_line_errors(StrictDataclassError, TrainingError):
        logging.basicConfig(format="%(message)s")
        config = load_config(arguments.config, arguments.overrides)
        is_main_process = os.environ.get("RANK", "0") == "0"  # which speaks for all
        if arguments.resume_from_hub and (told := resume_from_hub(config, arguments.resume_from_hub)):
            if is_main_process:
                print(told)
            return
        folder = train(config)
        if is_main_process:
            run = {"model": folder, "curves": folder.parent / "curves.png", "numbers": folder.parent / "metrics.jsonl"}
            print("; ".join(f"{name}: {path}" for name, path in run.items() if path.exists()))


if __name__ == "__main__":
    main()
