"""Trains a model, or continues an interrupted run when you give the same command again.

    hf-mlpl train recipes/demo/supervised.yaml
    hf-mlpl train recipes/demo/supervised.yaml output_dir=elsewhere max_updates=100

    # start from another model, with tokens and languages of your own
    hf-mlpl train recipes/demo/final.yaml model=speechbrain/m-ctc-t-large tokens=tokens-all.lst "languages=[nn-NO]"

    # adapt a CTC model, or an encoder, of any architecture of transformers, with a higher learning rate for the head;
    # or train adapters of it (needs the extra peft), which are added to the weights of the result
    hf-mlpl train my.yaml model=facebook/wav2vec2-xls-r-300m tokens=tokens-all.lst optimizer=adamw \\
        schedule=tri-stage learning_rate=5e-5 head_learning_rate=1e-3 freeze_encoder_updates=1000
    hf-mlpl train my.yaml model=facebook/w2v-bert-2.0 tokens=tokens-all.lst optimizer=adamw \\
        schedule=tri-stage learning_rate=5e-4 "lora={r: 16, lora_alpha: 32}" lora.merge=true

    # on several GPUs or machines, as set by `accelerate config` or --config_file
    accelerate launch -m hf_mlpl train recipes/demo/supervised.yaml

    # push to the Hub at every save, with the token of HF_TOKEN or `hf auth login`; then continue on another machine
    hf-mlpl train recipes/demo/supervised.yaml push_to_hub=me/demo license=cc0-1.0
    hf-mlpl train recipes/demo/supervised.yaml --resume-from-hub me/demo

A YAML file holds the settings of one stage of the recipe; `name=value` overrides a setting. All settings and their
defaults are fields of `hf_mlpl.training_config.TrainingConfig`, and --settings prints them. Watch the progress in
OUTPUT_DIR/metrics.jsonl and OUTPUT_DIR/curves.png, or with `report_to=[tensorboard]` in TensorBoard; other trackers
are trackio, wandb, mlflow, swanlab and comet_ml. A run ends with a page, as `hf-mlpl report OUTPUT_DIR` writes it
with more sound.

SIGTERM, SIGUSR1 or SIGUSR2 to one process saves the run after its update, and ends it with exit status 75: the same
command goes on from there.
"""

import argparse
import logging
import os
import shlex


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", nargs="?", help="YAML file of a stage")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="settings that override the file's")
    parser.add_argument(
        "--resume-from-hub",
        metavar="REPO",
        help="continue from the state that a run with these settings pushed to REPO, if output_dir has none as new",
    )
    parser.add_argument("--settings", action="store_true", help="explain every setting and stop")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from ..training_config import TrainingConfig, load_config

    if options.settings:
        print(TrainingConfig.__doc__)
        return
    if not options.config:
        parser.error("name the YAML file of a stage, such as recipes/demo/supervised.yaml")
    logging.basicConfig(format="%(message)s")
    config = load_config(options.config, options.overrides)  # before imports that take seconds
    from ..report.run import write_run_report
    from ..training.loop import train
    from ..training.resume import resume_from_hub

    is_main_process = os.environ.get("RANK", "0") == "0"
    if options.resume_from_hub and (message := resume_from_hub(config, options.resume_from_hub)):
        if is_main_process:
            print(message)
        return
    folder = train(config)
    if is_main_process:
        results = {"model": folder, "report": write_run_report(folder.parent)}
        results |= {"curves": folder.parent / "curves.png", "numbers": folder.parent / "metrics.jsonl"}
        print("; ".join(f"{name}: {path}" for name, path in results.items() if path and path.exists()))
        print(f"next: hf-mlpl evaluate --model {shlex.quote(str(folder))} --data TEST.parquet --output results.json")
