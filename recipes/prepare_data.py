"""Turns corpora, as they were downloaded, into the utterance files that every other script reads.

Nothing is copied: an utterance is a path (or a part of a long recording) with its duration, language and text.

    python recipes/prepare_data.py --common-voice cv-corpus-6.1-2020-12-11 --voxpopuli voxpopuli --output data
    python recipes/prepare_data.py --list my-speech/manifest.tsv --test-speakers anna ben --output data

writes data/train.parquet, dev.parquet, test.parquet (labelled) and unlabelled.parquet, as far as there is such speech,
and report.txt with a line, file and row for everything that was left out.
"""

import argparse
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from hf_mlpl.atomic import write_text
from hf_mlpl.corpora.common_voice import read_common_voice
from hf_mlpl.corpora.lists import read_list
from hf_mlpl.corpora.utterances import ReadingReport, write_utterances
from hf_mlpl.corpora.voxpopuli import read_voxpopuli
from hf_mlpl.one_line_errors import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--common-voice", type=Path, help="release folder, with a folder per locale")
    parser.add_argument("--voxpopuli", type=Path, help="folder with raw_audios/ and annotations/unlabelled_v2.tsv.gz")
    parser.add_argument("--list", type=Path, help="TSV table with the columns path, sentence, language, speaker")
    parser.add_argument("--languages", nargs="+", help="locales, such as sl sv-SE; by default all that are there")
    parser.add_argument("--train-speakers", nargs="+", help="of --list, labelled training; by default all the others")
    parser.add_argument("--dev-speakers", nargs="+", default=[], help="of --list, labelled")
    parser.add_argument("--test-speakers", nargs="+", default=[], help="of --list, labelled")
    parser.add_argument("--output", type=Path, required=True, help="folder for the utterance files")
    arguments = parser.parse_args()
    if not (arguments.common_voice or arguments.voxpopuli or arguments.list):
        parser.error("name a corpus: --common-voice, --voxpopuli or --list")

    report = ReadingReport()
    rows = {"train": [], "dev": [], "test": [], "unlabelled": []}
    if arguments.common_voice:
        for split in ("train", "dev", "test"):
            rows[split].append(read_common_voice(arguments.common_voice, split, report, arguments.languages))
    if arguments.voxpopuli:
        rows["unlabelled"].append(read_voxpopuli(arguments.voxpopuli, report, arguments.languages))
    if arguments.list:
        speakers = (arguments.train_speakers, arguments.dev_speakers, arguments.test_speakers)
        for split, utterances in read_list(arguments.list, report, arguments.languages, *speakers).items():
            rows[split].append(utterances)

    for split, sources in rows.items():
        utterances = tqdm(chain.from_iterable(sources), desc=split, unit=" utterances", disable=not sources)
        if sources:
            path = arguments.output / f"{split}.parquet"
            print(f"{path}: {write_utterances(utterances, path)} utterances")
    print(report.summary())
    path = arguments.output / "report.txt"
    path.unlink(missing_ok=True)  # an earlier run's
    if report.lines:
        write_text(path, "\n".join(report.lines) + "\n")
        print("\n".join(report.lines[:10]), f"all {len(report.lines)} lines: {path}", sep="\n")
    print(f"next: python recipes/build_tokenizer.py {arguments.output / 'train.parquet'} --output tokens-all.lst")


if __name__ == "__main__":
    with one_line_errors():
        main()
