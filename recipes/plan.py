"""Says what stages of training need, and what is missing, before any of them begins; nothing is trained.

    python recipes/plan.py --stage recipes/demo/supervised.yaml max_updates=1000 \\
        --stage recipes/demo/language_finetune.yaml --stage recipes/demo/mixed.yaml --labels runs/demo/labels

Each --stage has what `recipes/train.py` gets: a YAML file, and settings that go over it; one with {language} in its
settings is a run of `recipes/language_finetune.py`, so slimIPL and pseudo-labels for each language. The table has the
hours of speech from the utterance files, updates, disk and GPU-hours of each stage, of all its languages together.

GPU-hours = floating point operations of the model's products / (TFLOPS x utilisation of a GPU). `hf_mlpl/plan.py`
says what is counted. The number that matters is the utilisation: measure a few hundred updates, and set it so that the
estimate fits them.

Exit status 1, and a line for each problem, where files, languages, unlabelled speech or room on the disk are missing,
or settings are wrong. A language without development speech is a warning: training goes on without its error rates.
"""

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--stage",
        nargs="+",
        action="append",
        required=True,
        metavar=("YAML", "name=value"),
        help="in order; may be given many times",
    )
    parser.add_argument("--labels", type=Path, required=True, help="folder for a folder of pseudo-labels per language")
    parser.add_argument("--languages", nargs="+", help="that must have unlabelled speech; by default all that have it")
    parser.add_argument("--tflops", type=float, default=312, help="of a GPU (default: 312, an A100 in bfloat16)")
    parser.add_argument("--utilisation", type=float, default=0.35, help="share of it that is had (default: 0.35)")
    arguments = parser.parse_args()
    for name in ("tflops", "utilisation"):
        if not getattr(arguments, name) > 0:
            parser.error(f"--{name} is {getattr(arguments, name)}; it must be above 0")
    # imported here: it takes seconds, and --help need not wait
    from hf_mlpl.plan import make_plan

    plan = make_plan(arguments.stage, arguments.labels, arguments.languages)
    print(plan.table(arguments.tflops * 1e12 * arguments.utilisation))
    print(f"GPU-hours: {arguments.tflops:g} TFLOPS x {arguments.utilisation:g}; - is not known or does not apply")
    for line in plan.warnings:
        print(f"warning: {line}")
    for line in plan.problems:
        print(f"error: {line}", file=sys.stderr)
    if plan.problems:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
