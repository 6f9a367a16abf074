"""Measures what each part of the recipe is worth, and what other settings would change, over several seeds.

    recipes/proof/corpus.sh && recipes/proof.sh runs/synthetic/data runs/proof "nl pt ro sv-SE" 0 1 2
    recipes/proof.sh data runs/variants sl 0 1 2 --variants variants.yaml --updates 1000 --later-updates 500

For each seed it trains the models of the paper:

    supervised   stage 1, on labels
    control      supervised, trained further on labels alone, with as many updates as the final model
    at_once      supervised, trained further by slimIPL on all languages at once: the paper's negative result
    scratch      a new model on labels and pseudo-labels, then on labels alone
    final        supervised, trained further on labels and the pseudo-labels of stages 2 and 3, then on labels alone
    oracle       the same with the true texts of the unlabelled speech, which must be known for it

DATA is a folder (or a quoted pattern of folders) with train.parquet, unlabelled.parquet and the speakers to evaluate
on, test.parquet or dev.parquet. LANGUAGES are those with unlabelled speech. Settings are those of recipes/demo/*.yaml,
with half of the learning rate in stage 1, which is longer than the demo's.

Variants. A file of variants holds names, and the settings in which each differs from the recipe, by stage:

    slow_teacher: {language_finetune: {slimipl.ema_decay: 0.99}}
    mixed_longer: {mixed: {max_updates: 800}, final: {max_updates: 200}}
    no_slimipl: {labels: {teacher: supervised}}
    better_half: {labels: {filter: [mean_log_prob >= -0.3]}}
    second_round: {labels: {teacher: slow_teacher}}   # labels by the final model of a variant above
    voted: {labels: {committee: 3, filter: [agreement >= 50%]}}   # teachers of three seeds vote on the labels
    augmented: {supervised: {waveform_augment: {}}, control: {waveform_augment: {}}, oracle: {}}

Stages are supervised, language_finetune (stage 2), labels (stage 3), mixed and final (stage 4). What is equal is
trained once. A variant is measured against the recipe's control and oracle, unless it has `control` or `oracle`, as
the last one: then it gets its own. {data} in a setting is DATA. With variants the models are by default supervised,
control, final and oracle, and the speakers those of dev: choose on dev, and look at --evaluate test once, for what was
chosen.

A committee of N, of a variant or of the recipe itself (--committee N), is the seed's own teacher and N - 1 others, of
SEED + 100, SEED + 200 and so on, whose stages 1 to 3 are in OUTPUT/SEED/committee-1 and so on. `hf-mlpl vote-labels`
keeps of each utterance the label that is nearest to all others, before the variant's filter. Stage 4 starts from the
seed's own supervised model. That costs N times stages 1 to 3.

With --average N the control, the final model and the oracle are means of the weights of N trainings each, of SEED,
SEED + 100, SEED + 200 and so on, from the seed's own supervised model and labels (`hf-mlpl average-models`). They are
in OUTPUT/SEED/average-1 and so on, and the means in OUTPUT/SEED/NAME_mean_N. That costs N times stage 4, for all three
alike, and makes models and seeds less a matter of chance.

Jobs run --jobs at a time, each with one thread. The same command again skips what is complete and goes on with what
was interrupted. A job that fails ends in a line that names its log in OUTPUT/logs, and stops only what needs it; ^C
lets running jobs save their work. OUTPUT gets table.md and table.json: error rates with their standard errors over
seeds, the share of the gap from supervised to oracle that each model closes, its change against the control,
differences of variants to the recipe, kinds of errors, the best and the worst speaker, and the errors of labels.
Transcripts lie beside the results of each model, OUTPUT/SEED/NAME.dev.hypotheses.parquet (of test:
NAME.hypotheses.parquet).

Environment variables set the defaults of the options of the same name: launch, models, updates, later_updates,
batch_seconds, curriculum, committee, average, start, settings, lm_weight.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from hf_mlpl.cli.errors import exit_status

ACCELERATE = "accelerate launch --config_file recipes/accelerate/multi_cpu.yaml --num_cpu_threads_per_process 1"
CHOOSING = "supervised control final oracle"  # models beside variants
SPLITS = ("dev", "test")
SETTINGS = 'for all stages: "name=value name=value"; waveform_augment={} helps for people who are few'
CAN_SEARCH = find_spec("flashlight") is not None
LM_WEIGHT = 0.8 if CAN_SEARCH else 0.0  # of 0.3 to 1.2, best for digits and for synthetic speech


class Parser(argparse.ArgumentParser):
    """Reports wrong arguments as one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help explains all arguments\n")


def parser() -> Parser:
    """Returns the parser of the command; environment variables set some defaults."""
    parser = Parser("recipes/proof.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="folder with the utterance files")
    parser.add_argument("output", metavar="OUTPUT", help="folder for models, results, logs and tables")
    parser.add_argument("languages", metavar="LANGUAGES", type=str.split, help='such as sl, or "nl pt ro sv-SE"')
    parser.add_argument("seeds", metavar="SEED", type=_whole, nargs="+", help="seeds, such as 0 1 2")
    add_options(parser)
    return parser


def add_options(
    parser: argparse.ArgumentParser,
    updates: int | None = 2000,
    batch_seconds: float | None = 15,
    curriculum: int | None = 0,
    average: int = 1,
    lm_weight: float | None = LM_WEIGHT,
) -> None:
    """Adds the options of a proof, with defaults that environment variables may set."""
    parser.add_argument("--variants", type=Path, metavar="FILE", help="YAML file of variants")
    parser.add_argument("--evaluate", choices=SPLITS, help="default: test without variants, dev with variants")
    parser.add_argument("--jobs", type=_positive, help="jobs at a time; default: a job for each core, if one process")
    parser.add_argument("--models", default=_env("models"), help="default: all above, or those beside variants")
    add_length(parser, "updates", _positive, updates, "of stage 1")
    help_text = "of the control, and of both parts of stage 4 together; slimIPL has 3 for 5 of them"
    add_length(parser, "later_updates", _five, 1000, help_text)
    add_length(parser, "batch_seconds", _seconds, batch_seconds, "of speech in a micro-batch")
    help_text = "updates of stage 1 that learn from the shortest 30 %% of the utterances alone; 0: none"
    add_length(parser, "curriculum", _whole, curriculum, help_text)
    help_text = "teachers, with seeds of their own, who vote on the labels of each seed; 1: no vote"
    add_length(parser, "committee", _positive, 1, help_text)
    help_text = "trainings of the control, the final model and the oracle, whose weights are averaged; 1: no mean"
    add_length(parser, "average", _positive, average, help_text)
    parser.add_argument(
        "--start", default=_env("start") or "tiny", help="model that stage 1 starts from; default: tiny"
    )
    parser.add_argument("--settings", default=_env("settings") or "", help=SETTINGS)
    parser.add_argument(
        "--lm-weight",
        type=_weight,
        default=_env("lm_weight") or lm_weight,
        metavar="W",
        help="of a language model of the transcripts, with which slimIPL's models label; 0: greedily"
        + (f"; default: {LM_WEIGHT:g}, or 0 without flashlight-text" if lm_weight else ""),
    )
    launch = _env("launch") or "python"
    help_text = f'command that starts trainings; default: python, one process each; "{ACCELERATE}" starts two'
    parser.add_argument("--launch", default=launch, help=help_text)
    parser.add_argument("--plan", action="store_true", help="print the jobs and their commands, and run none")


def add_length(parser: argparse.ArgumentParser, name: str, kind, default: float | None, text: str) -> None:
    shown = "" if default is None else f"; default: {default}"
    value = _env(name) or default
    parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value, metavar="N", help=f"{text}{shown}")


def _env(name: str) -> str | None:
    return os.environ.get(name) or None


def _number(text: str, kind: type, least: float, accepted: str) -> float:
    try:
        if (number := kind(text)) >= least and number < 1e9:
            return number
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not accepted; it must be {accepted}")


def _whole(text: str) -> int:
    return _number(text, int, 0, "a whole number, 0 or more, such as 0 1 2")


def _weight(text: str) -> float:
    return _number(text, float, 0, "a number, 0 or more")


def _positive(text: str) -> int:
    return _number(text, int, 1, "a whole number, 1 or more")


def _five(text: str) -> int:
    return _number(text, int, 5, "a whole number, 5 or more, of which stages have fifths")


def _seconds(text: str) -> float:
    return _number(text, float, 0.1, "a number of seconds, 0.1 or more")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, 1 after failures, 2 for wrong arguments, 75 after SIGTERM, and 130 after ^C."""
    return exit_status(lambda: run(parser().parse_intermixed_args(arguments)))


def run(given: argparse.Namespace) -> int:
    """Runs the jobs of parsed arguments, and writes the tables."""
    from .plan import make_plan

    options = _options(given)
    plan = make_plan(options)
    jobs = list(plan.jobs.values())
    complete = sum(job.is_complete() for job in jobs)
    if given.plan:
        for job in jobs:
            print(f"{job.name}: {'complete' if job.is_complete() else shlex.join(job.command)}")
        return 0
    from hf_mlpl.atomic import write_json, write_text

    from .jobs import Runner
    from .tables import compare, markdown

    at_once = given.jobs or (_cores() if options.launch == ("python",) else 1)
    print(
        f"{len(jobs)} jobs, {complete} of them complete; {at_once} at a time; logs: {options.output}/logs", flush=True
    )
    failed = Runner(jobs, at_once, Path(options.output, "logs")).run()
    content, runs = compare(options, plan, failed)
    if not content["models"]:
        raise ValueError(f"no model could be evaluated, see above; logs: {options.output}/logs")
    table = markdown(content, runs)
    write_json(Path(options.output, "table.json"), content)
    write_text(Path(options.output, "table.md"), table)
    print(f"\n{table}\n{options.output}/table.md, table.json")
    if failed:
        print(
            f"error: {len(failed)} of {len(jobs)} jobs are not complete; the same command tries again", file=sys.stderr
        )
    return 1 if failed else 0


def _options(given: argparse.Namespace):
    """Checks the arguments and the data, and returns them as `Options`.

    Raises:
        ValueError: for what is missing or wrong, with what to do.
    """
    from hf_mlpl.data.utterances import languages_of, read_columns

    from .plan import Options
    from .variants import MODELS, read_variants

    data = given.data.rstrip("/")
    variants = read_variants(given.variants, data) if given.variants else []
    models = (given.models or (CHOOSING if variants else " ".join(MODELS))).split()
    if unknown := [model for model in models if model not in MODELS]:
        raise ValueError(f"no model is called {', '.join(unknown)}; there are {', '.join(MODELS)}")
    if not given.languages:
        raise ValueError('LANGUAGES is empty; name those with unlabelled speech, such as "nl pt"')
    split = given.evaluate or ("dev" if variants else "test")
    files = {}
    for name in ("train", "unlabelled", split):
        files[name] = sorted(glob(f"{data}/{name}.parquet"))
        if not files[name]:
            raise ValueError(_missing(data, name))
        if lost := sorted(set(given.languages) - set(languages_of(files[name]))):
            raise ValueError(f"{data}/{name}.parquet: holds no speech in {', '.join(lost)}")
    has_known_texts = any(
        len(block["text"].drop_null()) for block in read_columns(files["unlabelled"], ["id", "text"])
    )
    if not has_known_texts and ("oracle" in models or any("oracle" in each.settings for each in variants)):
        others = " ".join(model for model in models if model != "oracle")
        raise ValueError(
            f'{data}/unlabelled.parquet: has no texts, and the oracle needs them; --models "{others}" leaves it out'
        )
    return Options(
        data=data,
        output=given.output.rstrip("/"),
        languages=tuple(dict.fromkeys(given.languages)),
        seeds=tuple(dict.fromkeys(given.seeds)),
        models=tuple(models),
        split=split,
        variants=tuple(variants),
        updates=given.updates,
        later_updates=given.later_updates,
        batch_seconds=given.batch_seconds,
        curriculum=given.curriculum,
        start=given.start,
        settings=tuple(shlex.split(given.settings)),
        launch=tuple(shlex.split(given.launch)),
        has_known_texts=has_known_texts,
        committee=given.committee,
        average=given.average,
        lm_weight=given.lm_weight,
    )


def _missing(data: str, split: str) -> str:
    if split == "dev":
        return (
            f"{data}: no dev.parquet, so there are no speakers to choose on; `hf-mlpl prepare-data "
            "--dev-speakers NAME` makes one, and --evaluate test evaluates on the test speakers"
        )
    if split == "unlabelled":
        return (
            f"{data}: no unlabelled.parquet; recordings without a text, and speakers whom `hf-mlpl prepare-data "
            "--train-speakers NAME` leaves out, are unlabelled speech"
        )
    return f"{data}: no {split}.parquet; name the folder that `hf-mlpl prepare-data` wrote"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
