"""Estimates n-gram language models from texts, for beam search: ARPA files, which KenLM reads.

    # write lm/sl.arpa, lm/nl.arpa, ...: a model of each language in the training files
    hf-mlpl build-lm data/train.parquet --output lm

    # write one file for one language, also from other texts, one sentence a line, and measure it on dev
    hf-mlpl build-lm data/train.parquet news.txt --languages sl --output slovenian.arpa --dev data/dev.parquet

    # use words instead of characters, and name the files
    hf-mlpl build-lm data/train.parquet --units words --output "words-{language}.arpa"

    # choose the weight on dev; label and transcribe with it
    hf-mlpl evaluate --model M --data data/dev.parquet --lm lm --lm-weight 0.2 0.4 0.8 --output dev.json
    hf-mlpl pseudo-label --model M --data data/unlabelled.parquet --lm lm --lm-weight 0.4 --output labels

Files that end in .parquet are utterance files, whose texts by people are used; all others are texts in UTF-8. Texts
are normalised as training does: case and punctuation stay. A model of characters can write any word, and is small. One
of words writes only words of the texts, so it needs many of them. With --dev, a line for each language has the
perplexity per character of each order: of several, the lowest is best, and a lower order than --order may do as well.

A model whose tokens have several characters, or that has a word boundary at both ends of each text, as the released
one, is named by --model: the language model is then of its tokens.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..ngrams.estimation import NgramModel
    from ..ngrams.sentences import Sentences, Split

ORDERS = {"characters": 6, "words": 3}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("texts", nargs="+", help="utterance files for training (.parquet), and files of texts")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="a file ending in .arpa, with {language} in its name if there are several; or a folder for LANGUAGE.arpa",
    )
    parser.add_argument("--languages", nargs="+", help="use only texts in these languages; default: all in the files")
    parser.add_argument("--units", choices=list(ORDERS), default="characters", help="default: characters")
    parser.add_argument(
        "--order", type=int, help="units of the longest n-grams, 2 to 6; default: 6 characters or 3 words"
    )
    parser.add_argument("--model", help="folder or Hub name of the model whose tokens the characters are")
    parser.add_argument("--dev", nargs="+", help="utterance files or texts on which the models are measured")
    parser.add_argument(
        "--pseudo-labels", action="store_true", help="use pseudo-labels, too, not only the texts of people"
    )


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from ..ngrams.arpa import write_arpa
    from ..ngrams.estimation import check_order, estimate
    from ..ngrams.reading import of_people, of_people_and_teachers, output_paths, read_sentences

    order = ORDERS[options.units] if options.order is None else options.order
    check_order(order)
    split = _split(options)
    is_used = of_people_and_teachers if options.pseudo_labels else of_people
    texts = read_sentences(options.texts, split, options.languages, is_used)
    missing = sorted(set(options.languages or ()) - set(texts))
    if missing or not texts:
        of = f" in {', '.join(missing)}" if missing else ""
        by, way_out = " by people", "; --pseudo-labels also uses those of teachers"
        if options.pseudo_labels:
            by = way_out = ""
        raise ValueError(f"{', '.join(options.texts)}: no text{by}{of} is there{way_out}")
    paths = output_paths(options.output, list(texts))
    dev = read_sentences(options.dev, split, list(texts), lambda source: True) if options.dev else {}
    for language, sentences in texts.items():
        model = estimate(*sentences.numbered(), order)
        paths[language].parent.mkdir(parents=True, exist_ok=True)
        write_arpa(model, paths[language])
        counts = ", ".join(f"{len(ngrams.keys):,}" for ngrams in model.orders)
        print(
            f"{paths[language]}: {sentences.texts:,} texts, {sentences.characters:,} characters; n-grams of "
            f"{options.units} by order: {counts}"
        )
        if language in dev:
            print(_measured(language, model, dev[language]))
        elif options.dev:
            print(f"{language}: not measured, for --dev has no text in it")
    where = options.output if options.output.is_dir() else next(iter(paths.values()))
    print(
        f"next: hf-mlpl evaluate --model MODEL --data DEV.parquet --lm {where} --lm-weight 0.2 0.4 0.8 "
        "--output dev.json"
    )


def _split(options: argparse.Namespace) -> Split:
    from ..ngrams.sentences import characters_units, tokens_units, words_units

    if options.units == "words":
        if options.model is not None:
            raise ValueError(f"--model {options.model}: is for --units characters; words have no tokens")
        return words_units
    if options.model is None:
        return characters_units
    from transformers import AutoTokenizer

    from ..model.missing_model import check_model
    from ..model.tokenization_mlpl import MlplTokenizer

    check_model(options.model)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    if not isinstance(tokenizer, MlplTokenizer):
        raise ValueError(f"{options.model}: beam search is for models of hf_mlpl; this one is another")
    return tokens_units(tokenizer)


def _measured(language: str, model: NgramModel, dev: Sentences) -> str:
    """Returns a line with the perplexity per character of the model of each order."""
    from ..ngrams.sentences import END, START, UNKNOWN

    numbers = dev.numbered_as(model.units)
    perplexities = 10 ** (-model.log_probs(numbers).sum(axis=1) / dev.characters)
    num_units, unknown = int(((numbers != START) & (numbers != END)).sum()), int((numbers == UNKNOWN).sum())
    by_order = ", ".join(f"{perplexity:.2f}" for perplexity in perplexities)
    return (
        f"{language}: perplexity per character of {dev.texts:,} texts of dev, by order: {by_order}; "
        f"{unknown:,} of {num_units:,} units are unknown"
    )
