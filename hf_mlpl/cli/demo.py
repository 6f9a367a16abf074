"""Makes a small synthetic speech corpus offline: espeak-ng reads out random dates, amounts and names.

The corpus has the layouts of Common Voice 6.1 (labelled) and VoxPopuli (unlabelled), so every command that reads it
reads the real corpora too. No text and no speaker is in two splits. An example with eight languages, of which four
have unlabelled speech:

    hf-mlpl demo --root data --unlabelled sl=600 fi=600 nl=600 ro=600 \\
        --labelled de=400 es=400 it=400 pl=400 sl=50 fi=50 nl=50 ro=50

It writes data/cv-corpus-demo/LOCALE/{train,dev,test,validated}.tsv with clips/*.mp3, and in data/voxpopuli-demo
raw_audios/LANGUAGE/YEAR/*.ogg with annotations/unlabelled_v2.tsv.gz; annotations/truth.tsv.gz holds the texts of the
unlabelled speech, for analysis only. The same command again returns at once; the same --seed makes the same corpus.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--list-languages", action="store_true", help="list the accepted languages and exit")
    add("--root", type=Path, default=Path("data"), help="folder for the two corpora; default: data")
    add("--labelled", nargs="+", type=_language_count, metavar="LOCALE=N", help="training clips of each language")
    add("--unlabelled", nargs="+", type=_language_count, metavar="LOCALE=N", default=[], help="unlabelled segments")
    add("--dev", type=int, default=40, help="validation clips of each labelled language; default: 40")
    add("--test", type=int, default=60, help="test clips of each labelled language; default: 60")
    add("--seed", type=int, default=0, help="seed of the random texts and voices; default: 0")
    add("--processes", type=int, help="default: one per CPU core")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from ..corpora.synthetic.corpus import language_table, write_demo_corpus

    if options.list_languages:
        print(language_table())
        return
    if not options.labelled:
        parser.error("--labelled is missing, for example --labelled de=400 sl=50")
    counts = dict(options.labelled), dict(options.unlabelled), options.dev, options.test
    print(*write_demo_corpus(options.root, *counts, options.seed, options.processes), sep="\n")


def _language_count(text: str) -> tuple[str, int]:
    language, _, count = text.partition("=")
    if not count.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form LOCALE=N, such as de=400")
    return language, int(count)
