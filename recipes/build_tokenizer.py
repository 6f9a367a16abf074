"""Writes the tokens file of a new model: every character of the TRAINING transcripts, in flashlight's format.

    python recipes/build_tokenizer.py data/train.parquet --output tokens-all.lst

Only training transcripts, because a vocabulary that has seen the test split would flatter the results.
"""

import argparse
from pathlib import Path

from hf_mlpl.one_line_errors import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="labelled utterance files of training")
    parser.add_argument("--output", type=Path, required=True, help="the tokens file")
    arguments = parser.parse_args()
    # imported here: it takes seconds, and --help need not wait
    from hf_mlpl.corpora.utterances import read_columns
    from hf_mlpl.text import build_vocabulary, normalize_text, write_tokens

    characters, count = set(), 0
    for block in read_columns(arguments.data, ["text"]):
        texts = [normalize_text(text) for text in block["text"].to_pylist() if text]
        characters.update(*texts)
        count += len(texts)
    if not count:
        raise ValueError(f"{arguments.data[0]}: no utterance has a text")
    vocabulary = build_vocabulary(characters)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_tokens(arguments.output, vocabulary)
    print(f"{arguments.output}: {len(vocabulary)} entries from {count} transcripts; the model adds the blank")
    print(f"next: accelerate launch recipes/train.py SETTINGS.yaml tokens={arguments.output}")


if __name__ == "__main__":
    with one_line_errors():
        main()
