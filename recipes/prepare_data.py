"""Turns corpora, as they were downloaded, into the utterance files that every other script reads.

Nothing is copied: an utterance is a path (or a part of a long recording) with its duration, language and text.

    python recipes/prepare_data.py --common-voice cv-corpus-6.1-2020-12-11 --voxpopuli voxpopuli --output data
    python recipes/prepare_data.py --list my-speech/manifest.tsv --test-speakers anna ben --output data

writes data/train.parquet, dev.parquet, test.parquet (labelled) and unlabelled.parquet, as far as there is such speech,
and what there is to know of them: report.txt and report.json (rows read, kept and dropped by reason, hours per
language, characters that train lacks, and in report.txt a line with file and row for everything that was left out),
durations.png, and quarantine.tsv, the audio that cannot be used. A run tries all audio anew, unless
--skip quarantine.tsv leaves out what is in that list, to which you may add what training found.

When it is killed, the same command goes on where it was.
"""

import argparse
from functools import partial
from itertools import islice
from pathlib import Path

from hf_mlpl.corpora.common_voice import find_locales, read_common_voice
from hf_mlpl.corpora.lists import read_list
from hf_mlpl.corpora.preparation import Part, Treatment, prepare, read_normalizers, read_quarantine
from hf_mlpl.corpora.preparation_report import plot_durations
from hf_mlpl.corpora.voxpopuli import read_voxpopuli
from hf_mlpl.one_line_errors import one_line_errors
from hf_mlpl.text import read_tokens


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
    parser.add_argument("--workers", type=int, default=1, help="processes that read")
    parser.add_argument("--decode", action="store_true", help="decode all audio, to find damage behind good headers")
    parser.add_argument("--skip", type=Path, help="a quarantine.tsv: audio that is not even tried")
    parser.add_argument("--normalize", type=Path, help="YAML, per language or '*': lowercase, strip_punctuation, ...")
    parser.add_argument("--tokens", type=Path, help="of a model: report characters that it lacks, not those of train")
    arguments = parser.parse_args()
    if not (arguments.common_voice or arguments.voxpopuli or arguments.list):
        parser.error("name a corpus: --common-voice, --voxpopuli or --list")

    parts, languages = [], arguments.languages
    if root := arguments.common_voice:
        for split in ("train", "dev", "test"):
            for locale in languages or find_locales(root):
                read = partial(read_common_voice, root, split, locales=[locale])
                parts.append(Part(f"common-voice {split} {locale}", read, split))
    if root := arguments.voxpopuli:
        parts.append(Part("voxpopuli", partial(read_voxpopuli, root, locales=languages), "unlabelled"))
    if table := arguments.list:
        speakers = {name: getattr(arguments, name) for name in ("train_speakers", "dev_speakers", "test_speakers")}
        parts.append(Part("list", partial(read_list, table, languages=languages, **speakers)))

    treatment = Treatment(
        quarantine=read_quarantine(arguments.skip) if arguments.skip else {},
        decode=arguments.decode,
        normalizers=read_normalizers(arguments.normalize) if arguments.normalize else {},
    )
    known = [entry for line in read_tokens(arguments.tokens) for entry in line] if arguments.tokens else None
    report = prepare(parts, arguments.output, treatment, arguments.workers, known)
    plot_durations(report, arguments.output / "durations.png")
    for split, of in report.splits.items():
        print(f"{arguments.output / split}.parquet: {of.utterances.total()} utterances")
    with open(arguments.output / "report.txt", encoding="utf-8") as file:
        print(*islice(file, len(report.lines(known)) + 10), sep="", end="")
    print(f"all of it: {arguments.output / 'report.txt'}")
    print(f"next: python recipes/build_tokenizer.py {arguments.output / 'train.parquet'} --output tokens-all.lst")


if __name__ == "__main__":
    with one_line_errors():
        main()
