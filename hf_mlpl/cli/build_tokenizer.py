"""Writes the tokens file of a new model, or of one that is trained further, in flashlight's format.

    hf-mlpl build-tokenizer data/train.parquet --output tokens-all.lst

The tokens are the characters of the TRAINING transcripts alone, because a vocabulary that has seen the test split
would flatter the results.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="+", help="labelled utterance files for training")
    parser.add_argument("--output", type=Path, required=True, help="tokens file to write")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from ..data.utterances import read_columns
    from ..model.text import WORD_BOUNDARY, characters_of, normalize_text, write_tokens

    characters, count = set(), 0
    for block in read_columns(options.data, ["text"]):
        texts = [normalize_text(text) for text in block["text"].to_pylist() if text]
        characters.update(*texts)
        count += len(texts)
    if not count:
        raise ValueError(f"{options.data[0]}: no utterance has a text")
    vocabulary = [WORD_BOUNDARY, *characters_of(characters)]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_tokens(options.output, vocabulary)
    print(f"{options.output}: {len(vocabulary)} entries from {count} transcripts; the model adds the blank")
    print(f"next: hf-mlpl train SETTINGS.yaml tokens={options.output}")
