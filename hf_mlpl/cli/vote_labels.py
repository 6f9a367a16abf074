"""Votes on the labels of several teachers: keeps of each utterance the text that is nearest to those of all others.

    hf-mlpl vote-labels labels-1 labels-2 labels-3 --output voted.parquet

One weak teacher makes the same errors again and again; teachers that were trained apart, such as with other seeds,
make others. Each argument is a teacher: a folder of `hf-mlpl pseudo-label`, a folder of such folders for languages, a
file of labels, also of `hf-mlpl filter-labels` or `hf-mlpl join-labels`, or a quoted pattern of files:

    hf-mlpl vote-labels "mine/*/labels.parquet" whisper/labels.parquet --output voted.parquet

Distances are edit distance / length of the longer text, in lower case and without punctuation, and an empty text is a
vote like others. Of equally near texts the one with the higher letter_log_prob is kept, and then that of the teacher
who is named first: of two teachers, that is the surer one. Texts of Whisper have no such score, and lose. The label
keeps its other scores, and its `source` names its teacher. It gets the score `agreement`, 1 - its mean distance to the
texts of other teachers, by which `hf-mlpl filter-labels` keeps labels:

    filter:
      - agreement >= 0.8

Teachers may lack utterances. A label that one teacher alone has is kept, with a null as agreement, which no filter on
`agreement` lets pass. It is an error if two teachers know an utterance by another audio, duration or language, if a
file is named twice, if a file has texts of people, or if the labels that win have collapsed (nearly all of a language
are empty or the same text); a line names teachers whose own labels have.

--transcripts names utterances with texts of people in these languages, such as those that the teachers were trained
on. Then votes on a speaker weigh the more, the more the labels of this speaker are like transcripts: a teacher that
takes one word of a speaker for another writes some sequences of letters too often, and others never. A column shows
the distance of each teacher's labels from transcripts, 0 to 1, which tells the better teacher without any reference:

    hf-mlpl vote-labels labels-1 labels-2 --transcripts data/train.parquet --output voted.parquet

The table shows how many utterances of each language have the same text by all teachers, and by two or more.
--references names utterances whose texts are known; then another one has the error rates of each teacher, of the
vote, and of the utterances on which teachers agree. They change nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .pseudo_label import add_allow_collapsed_argument

if TYPE_CHECKING:
    from ..labels.vote import VoteReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "labels", nargs="+", help="labels of a teacher each: a folder, a file or a quoted pattern, also s3://..."
    )
    parser.add_argument(
        "--references", nargs="+", type=Path, help="utterance files with true texts, to show the error rates of labels"
    )
    parser.add_argument(
        "--transcripts", nargs="+", type=Path, help="utterance files with texts of people, by which votes are weighted"
    )
    parser.add_argument("--output", required=True, help="utterance file to write, for training, also s3://...")
    add_allow_collapsed_argument(parser)


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from ..data.utterances import read_utterances
    from ..labels.vote import vote_labels
    from ..remote_path import output_path

    options.output = output_path(options.output)
    references, transcripts = (
        read_utterances(paths) if paths else None for paths in (options.references, options.transcripts)
    )
    report = vote_labels(options.labels, options.output, options.allow_collapsed, references, transcripts)
    for line in _lines(report):
        print(line)
    print(f"labels: {options.output}; next: `hf-mlpl filter-labels`, or name it in `train` of a training run")


def _lines(report: VoteReport) -> Iterator[str]:
    """Yields tables of what came out, and a line about utterances that one teacher alone has labelled."""
    from ..labels.vote import ALL, TWO, VOTE
    from ..text_table import aligned

    languages = sorted(report.utterances)
    titles = ("language", "utterances", "hours", "all agree", "two agree", "empty", "mean agreement")
    rows = []
    for language in languages:
        count, mean = report.utterances[language], report.mean_agreement(language)
        shares = (f"{100 * each[language] / count:.1f} %" for each in (report.all_agree, report.two_agree))
        agreement = "-" if mean is None else f"{mean:.3f}"
        rows.append(
            (language, f"{count}", f"{report.hours[language]:.2f}", *shares, f"{report.empty[language]}", agreement)
        )
    yield aligned([titles, *rows])
    columns: dict[str, Mapping] = {"labels": report.labels, "kept": report.chosen}
    if report.distances:
        columns["distance"] = {name: f"{distance:.3f}" for name, distance in report.distances.items()}
    rows = [
        (teacher, *(f"{each.get((language, teacher), '-')}" for language in languages for each in columns.values()))
        for teacher in report.teachers
    ]
    yield aligned([("teacher", *(f"{language} {name}" for language in languages for name in columns)), *rows])
    if report.characters:
        rows = []
        for name in (*report.teachers, VOTE, ALL, TWO):
            rates = (report.cer(language, name) for language in languages)
            rows.append((name, *("-" if rate is None else f"{100 * rate:.1f}" for rate in rates)))
        yield aligned([("CER, %", *languages), *rows])
    for language in languages:
        if count := report.single[language]:
            yield (
                f"{language}: {count} of {report.utterances[language]} utterances have the label of one teacher "
                "alone, which is kept, without an agreement"
            )
