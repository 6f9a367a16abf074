"""Estimates what stages of training need, and finds what is missing, before any of them begins; trains nothing.

    hf-mlpl estimate --stage recipes/demo/supervised.yaml max_updates=1000 \\
        --stage recipes/demo/language_finetune.yaml --stage recipes/demo/mixed.yaml --labels runs/demo/labels

Give each --stage the arguments of `hf-mlpl train`: a YAML file, and settings that override it. A stage with {language}
in its settings is a run of `hf-mlpl language-finetune`: slimIPL and pseudo-labels for each language. The table shows
the hours of speech in the utterance files, updates, disk space and GPU-hours of each stage, for all its languages
together.

GPU-hours = floating point operations of the model's products / (TFLOPS x utilisation of a GPU). The module
`hf_mlpl.training.operations` explains what is counted. The utilisation is the number that matters, and nobody knows
it: --measure makes ten updates of the first stage on this machine instead, and the table has hours at that speed. It
also says how much memory they took. `accelerate launch -m hf_mlpl estimate --measure ...` measures all GPUs together.

--launch adds a table of these processes: GB of memory that each needs, the hours of a stage, the hours that products,
the exchange of gradients, decoding audio and checkpoints take by themselves, and which of them bounds the stage. Much
of it goes on at the same time. `hf_mlpl.training.times` has the rates that it assumes. Lines that begin with `faster:`
name what saves hours or memory.

The exit status is 1, with a line for each problem, if files, languages, unlabelled speech or disk space are missing,
or if settings are wrong. A language without development speech is a warning: it is trained without its error rates.
"""

import argparse
import os
import sys

from .numbers import finite


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stage",
        nargs="+",
        action="append",
        required=True,
        metavar=("YAML", "name=value"),
        help="a stage of training; give this option once for each stage, in their order",
    )
    parser.add_argument(
        "--labels", required=True, help="folder for a folder of pseudo-labels per language, also s3://BUCKET/FOLDER"
    )
    parser.add_argument("--languages", nargs="+", help="require unlabelled speech in these; default: all that have it")
    parser.add_argument(
        "--launch",
        metavar="COMMAND",
        help='command that will start the stages, such as "accelerate launch --config_file FILE": shows which of its '
        "processes would have nothing to do, what cannot be sharded, and what bounds each stage",
    )
    parser.add_argument(
        "--network",
        type=finite,
        default=100,
        help="Gbit/s between machines, for each of them, at which their processes exchange gradients; default: 100",
    )
    parser.add_argument("--tflops", type=finite, default=312, help="of a GPU; default: 312, an A100 in bfloat16")
    parser.add_argument("--memory", type=finite, default=80, help="GB of a GPU; default: 80, an A100")
    parser.add_argument("--utilisation", type=finite, default=0.35, help="share of --tflops in use; default: 0.35")
    parser.add_argument(
        "--measure", action="store_true", help="make ten updates of the first stage here, for times of this machine"
    )


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    for name in ("tflops", "utilisation", "network", "memory"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name} is {getattr(options, name)}; it must be above 0")
    from ..remote_path import as_path
    from ..training.estimate import estimate_stages

    try:
        labels = as_path(options.labels)
    except ValueError as error:
        parser.error(f"argument --labels: {error}")
    estimate = estimate_stages(options.stage, labels, options.languages, options.launch, options.memory * 1e9)
    speed, unit = options.tflops * 1e12 * options.utilisation, "GPU-hours"
    of_process = speed
    explanation = f"{unit}: {options.tflops:g} TFLOPS x {options.utilisation:g}"
    if options.measure and not estimate.problems:
        from ..training.measurement import measure_updates
        from ..training_config import load_config

        measurement = measure_updates(load_config(estimate.first_run[0], estimate.first_run[1:]))
        speed, unit = measurement.flops_per_second, "hours"
        of_process = speed / measurement.processes
        explanation = f"{unit} at the speed of this machine, measured in the first stage: {measurement}"
    if os.environ.get("RANK", "0") != "0":  # of other processes of `accelerate launch`
        return 1 if estimate.problems else 0
    print(estimate.table(speed, unit))
    print(f"{explanation}; - is not known or does not apply")
    if estimate.launch is not None:
        network = options.network * 1e9 / 8
        print(f"\n{estimate.times_table(of_process, network)}")
        for line in estimate.advice(of_process, network):
            print(f"faster: {line}")
    for line in estimate.warnings:
        print(f"warning: {line}")
    for line in estimate.problems:
        print(f"error: {line}", file=sys.stderr)
    return 1 if estimate.problems else 0
