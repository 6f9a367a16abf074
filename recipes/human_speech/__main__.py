"""Runs the recipe on human speech of one language, and measures what it is worth, as recipes/proof.sh does.

    recipes/human_speech/run.sh FOLDER en 0 1 2
    recipes/human_speech/run.sh FOLDER ml 0 --variants variants.yaml
    recipes/human_speech/run.sh --list clips.csv --language sl --train-speakers anna ben --dev-speakers cene \\
        --test-speakers dana eva --seeds 0 1 2

English digits (en, Free Spoken Digit Dataset) and Malayalam sentences (ml, Malayalam Speech Corpus) are known, with
the speakers of each split, in corpora.yaml. FOLDER holds en-fsdd/manifest.tsv and ml-msc/manifest.tsv: tab-separated
tables with the columns path, sentence, language and speaker.

--list names a table of any other language, in a form that `hf-mlpl prepare-data` reads. Speakers of --train-speakers
are labelled; all others whom no option names are unlabelled speech, whose texts only the oracle sees. Without test
speakers the models are evaluated on those of dev. Words of less than two seconds get the updates, the batches, the
curriculum and the language model's weight of en, longer utterances those of ml, unless --updates, --batch-seconds,
--curriculum and --lm-weight say otherwise.

Choose settings on dev speakers, with --evaluate dev, which --variants sets by itself. Test speakers are named all the
same, so that they are in no other split, and are not listened to. One dev speaker says little: several small splits of
the others say more, each with an --output of its own, in which another speaker is dev, one or two others are labelled,
and the rest is unlabelled:

    recipes/human_speech/run.sh --list FOLDER/en-fsdd/manifest.tsv --language en --train-speakers jackson \\
        --dev-speakers george --test-speakers theo --output runs/human_speech/en-george --seeds 0 1 --evaluate dev

The control, the final model and the oracle are means of the weights of three trainings each (--average).

The script writes to runs/human_speech/LANGUAGE or --output: data/, and proof/ with table.md. To continue an
interrupted run, start it again. On one CPU core of a busy machine a seed of en took 12 minutes, and one of ml 46, with
--average 1; with 3 it takes twice as long.
`recipes/proof.sh --help` explains variants and the other options, and the environment variables that set them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from hf_mlpl.cli.errors import exit_status

from ..proof import __main__ as proof

ROOT = Path(__file__).resolve().parents[2]
CORPORA = yaml.safe_load(Path(__file__).with_name("corpora.yaml").read_text(encoding="utf-8"))
SHORT_SECONDS = 2  # mean length of utterances, below which they are like the digits of en
SPLITS = ("train", "dev", "test")
AVERAGE = 3  # with so few people, chance decides which words of a person a single training learns
# Of all stages: a few people sound like more at other speeds, in noise and echo
SETTINGS = "waveform_augment={}"


def parser() -> proof.Parser:
    """Returns the parser of the command."""
    parser = proof.Parser(
        "recipes/human_speech/run.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.usage = (
        "%(prog)s FOLDER LANGUAGE SEED ... [OPTION ...]\n       %(prog)s --list TABLE --language CODE [OPTION ...]"
    )
    parser.add_argument("words", nargs="*", metavar="FOLDER LANGUAGE SEED", help="with --list: seeds alone")
    parser.add_argument("--list", type=Path, metavar="TABLE", help="table of recordings (csv, tsv, jsonl)")
    parser.add_argument("--language", metavar="CODE", help="language of --list, such as sl")
    for split in SPLITS:
        parser.add_argument(f"--{split}-speakers", nargs="+", metavar="NAME", default=[], help=f"speakers for {split}")
    parser.add_argument("--seeds", nargs="+", default=[], metavar="SEED", help="seeds, such as 0 1 2")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: runs/human_speech/LANGUAGE")
    proof.add_options(parser, updates=None, batch_seconds=None, curriculum=None, average=AVERAGE, lm_weight=None)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status, as `recipes/proof.sh` does."""
    return exit_status(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    commands = parser()
    given = commands.parse_intermixed_args(arguments)
    if given.list:
        corpus = {f"{split}_speakers": getattr(given, f"{split}_speakers") for split in SPLITS}
        if not given.language:
            commands.error("--list needs --language, such as --language sl")
        if not corpus["train_speakers"]:
            commands.error("--list needs --train-speakers, who are labelled; others are unlabelled speech")
        table, language, seeds = given.list.resolve(), given.language, given.words
    else:
        if len(given.words) < 2:
            commands.error("name FOLDER, LANGUAGE and a SEED, or --list TABLE")
        folder, language, *seeds = given.words
        if language not in CORPORA:
            commands.error(
                f"{language} is none of {', '.join(CORPORA)}; --list TABLE --language {language} runs others"
            )
        if given.language or any(getattr(given, f"{split}_speakers") for split in SPLITS):
            commands.error("--language and speakers belong to --list; those of FOLDER are in corpora.yaml")
        corpus = CORPORA[language]
        table = Path(folder).resolve() / corpus["list"]
    if not (seeds := [*seeds, *given.seeds]):
        commands.error("no seed is named; --seeds 0 1 2 names three")
    if given.variants:
        given.variants = given.variants.resolve()
    output = given.output.resolve() if given.output else Path("runs/human_speech", language)
    os.chdir(ROOT)
    if not table.is_file():
        raise ValueError(f"{table}: no such file")
    if status := _prepare(table, language, corpus, output / "data"):
        return status
    length = CORPORA[_likest(output / "data", language)]
    given.updates = given.updates or corpus.get("updates", length["updates"])
    given.batch_seconds = given.batch_seconds or corpus.get("batch_seconds", length["batch_seconds"])
    if given.curriculum is None:
        given.curriculum = corpus.get("curriculum", length["curriculum"])
    if given.lm_weight is None:
        given.lm_weight = corpus.get("lm_weight", length["lm_weight"]) if proof.CAN_SEARCH else 0.0
    given.settings = f"{SETTINGS} {given.settings}"
    given.models = given.models or "supervised control final oracle"
    given.evaluate = given.evaluate or (None if corpus["test_speakers"] else "dev")
    options = proof.parser().parse_args([str(output / "data"), str(output / "proof"), language, *seeds])
    return proof.run(
        argparse.Namespace(**vars(options) | vars(given) | {"output": options.output, "seeds": options.seeds})
    )


def _prepare(table: Path, language: str, corpus: dict, output: Path) -> int:
    """Writes the utterance files; returns the exit status."""
    command = [sys.executable, "-m", "hf_mlpl", "prepare-data", "--list", str(table), "--output", str(output)]
    command += ["--language", language, "--languages", language]
    for split in SPLITS:
        if names := corpus[f"{split}_speakers"]:
            command += [f"--{split}-speakers", *names]
    return subprocess.run(command).returncode


def _likest(data: Path, language: str) -> str:
    """Returns the known corpus whose utterances are about as long as the labelled ones of a language."""
    from hf_mlpl.data.utterances import speech_totals

    totals = speech_totals([str(data / "train.parquet")])[language]
    return "en" if totals.seconds / totals.utterances < SHORT_SECONDS else "ml"


if __name__ == "__main__":
    sys.exit(main())
