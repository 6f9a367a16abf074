"""Puts the labels of a data set together with your audio, by id: a file that training takes.

    python recipes/join_labels.py --labels user/voxpopuli-pl --languages sl --audio data/unlabelled.parquet \\
        --output labels.parquet

Labels come from the Hub, from a folder with files such as sl/train-00000-of-00001.parquet, or from anyone's table with
the columns `id` and `text`, as Parquet, csv, tsv or JSON lines; other columns may be missing. The audio is that of the
utterance files that recipes/prepare_data.py writes. Ids that are on one side alone, and utterances whose duration is
not that of their label, are counted, and listed in labels.unmatched.tsv. Labels that their filters do not keep are
left out.

Of a label set with audio, that is taken where --audio is not given:

    python recipes/join_labels.py --labels user/voxpopuli-pl --languages sl --output labels.parquet
"""

import argparse
from pathlib import Path

from hf_mlpl.one_line_errors import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", required=True, help="data set on the Hub, folder, or file with id and text")
    parser.add_argument("--revision", help="of a data set on the Hub: branch, tag or commit (default: main)")
    parser.add_argument("--languages", nargs="+", help="by default all that are on both sides")
    parser.add_argument("--audio", nargs="+", help="utterance files; by default the audio in the label set")
    parser.add_argument("--all", action="store_true", help="also labels that their filters do not keep")
    parser.add_argument("--output", type=Path, required=True, help="utterance file for training")
    arguments = parser.parse_args()
    # imported here: it takes seconds, and --help need not wait
    from hf_mlpl.corpora.utterances import languages_of, read_utterances
    from hf_mlpl.label_join import DURATION_TOLERANCE, find_label_set, join_labels, join_own_audio

    files = find_label_set(arguments.labels, arguments.languages, arguments.revision)
    if arguments.audio is None:
        report = join_own_audio(files, arguments.output, arguments.all)
    else:
        if arguments.languages is None and None not in files:
            here = languages_of(arguments.audio)
            if not set(files) & set(here):
                raise ValueError(
                    f"labels are of {', '.join(files)}, the audio is of {', '.join(here) or 'no language'}"
                )
            for name, there, missing in (("audio", files, here), ("labels", here, files)):
                if lacking := [language for language in there if language not in missing]:
                    print(f"skipped, because there is no such {name}: {', '.join(lacking)}")
            files = {language: paths for language, paths in files.items() if language in here}
        utterances = read_utterances(arguments.audio, arguments.languages if None in files else None)
        report = join_labels(files, utterances, arguments.output, arguments.all)
    print(f"{report.joined} labels with audio, {report.hours:.2f} h, in {', '.join(sorted(report.languages))}")
    if report.empty:
        print(f"{report.empty} of them are empty: their teacher heard nothing")
    if report.left_out:
        print(f"{report.left_out} labels are not kept by their filters, and left out; --all takes them")
    if report.no_audio or report.no_label or report.other_duration or report.unreadable:
        unreadable = f"{report.unreadable} rows cannot be read, " if report.unreadable else ""
        print(
            f"{unreadable}{report.no_audio} labels have no audio, {report.no_label} utterances no label, "
            f"{report.other_duration} another duration (by more than {DURATION_TOLERANCE} s): see "
            f"{arguments.output.with_suffix('.unmatched.tsv')}"
        )
    print(f"labels: {arguments.output}; next: name it in `train` of a training run")


if __name__ == "__main__":
    with one_line_errors():
        main()
