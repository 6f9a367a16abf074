"""`hf-mlpl demo`: a synthetic corpus, to try the recipe on."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "make a small synthetic corpus to try everything on"
DESCRIPTION = """Makes a small synthetic speech corpus offline: espeak-ng reads out random dates, amounts, names.

It has the layouts of Common Voice 6.1 (labelled) and VoxPopuli (unlabelled), so that whatever reads it reads the real
corpora too. Splits share neither texts nor speakers. Eight small languages, of which four have unlabelled speech:

    hf-mlpl demo --root data --unlabelled sl=600 fi=600 nl=600 ro=600 \\
        --labelled de=400 es=400 it=400 pl=400 sl=50 fi=50 nl=50 ro=50

writes data/cv-corpus-demo/LOCALE/{train,dev,test,validated}.tsv with clips/*.mp3, and in data/voxpopuli-demo
raw_audios/LANGUAGE/YEAR/*.ogg with annotations/unlabelled_v2.tsv.gz (annotations/truth.tsv.gz has the texts, for
analysis only). The same command again returns at once; the same --seed gives the same corpus.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--list-languages", action="store_true", help="list the accepted languages and exit")
    add("--root", type=Path, default=Path("data"), help="folder for the two corpora (default: data)")
    add("--labelled", nargs="+", type=_language_count, metavar="LOCALE=N", help="training clips of each language")
    add("--unlabelled", nargs="+", type=_language_count, metavar="LOCALE=N", default=[], help="unlabelled segments")
    add("--dev", type=int, default=40, help="validation clips per labelled language (default: 40)")
    add("--test", type=int, default=60, help="test clips per labelled language (default: 60)")
    add("--seed", type=int, default=0)
    add("--processes", type=int, help="default: one per CPU core")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Returns 0; raises `ValueError` for languages and numbers that are not accepted, or a package that is missing."""
    try:  # what is imported here takes seconds, and --help need not wait
        from ..corpora.synthetic.corpus import language_table, write_demo_corpus
    except ImportError as error:  # which says what to install
        raise ValueError(str(error)) from error

    if options.list_languages:
        print(language_table())
        return 0
    if not options.labelled:
        parser.error("--labelled is missing, for example --labelled de=400 sl=50")
    folders = write_demo_corpus(
        options.root,
        dict(options.labelled),
        dict(options.unlabelled),
        options.dev,
        options.test,
        options.seed,
        options.processes,
    )
    print(*folders, sep="\n")
    return 0


def _language_count(text: str) -> tuple[str, int]:
    language, _, count = text.partition("=")
    if not count.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form LOCALE=N, such as de=400")
    return language, int(count)
