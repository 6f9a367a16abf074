"""Votes on the pseudo-labels of several teachers: of each utterance, the label that is nearest to all others is kept.

Errors of a weak teacher are systematic, and those of teachers that were trained apart differ. The label of an
utterance is the medoid of its texts: the one with the highest mean of

    1 - d(t_i, t_j) / max(|t_i|, |t_j|)

over the texts t_j of the other teachers, compared as `agreement` compares them; an empty text is a vote like others.
Of equally near ones the label with the higher `letter_log_prob` is kept, and then that of the teacher who is named
first; of two teachers both are always equally near. That mean is the score `agreement` of the label; it is null where
one teacher alone has a label.

With transcripts, the votes have weights, by speaker: those of `letter_statistics`. Then the label with the highest

    w_i + sum over j of w_j (1 - d(t_i, t_j) / max(|t_i|, |t_j|))

is kept; without them all weights are 1, which is the same as the mean.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from ..atomic import temporary_folder
from ..data.collapse import HUMAN, NOT_LEARNED, LabelTexts, collapse_line, num_characters
from ..data.letter_statistics import Distance, TrigramShares, vote_weights
from ..data.rows import BLOCK, blocks, duplicated_ids, row_groups, select_rows, speakers_of
from ..data.utterances import write_tables
from ..folder_lock import claimed_file
from ..remote_path import AnyPath, RemotePath, as_path, matching_paths
from .agreement import pair_similarities
from .files import scored_blocks
from .join import find_label_set
from .matching import DURATION_TOLERANCE
from .references import References, edits_and_characters
from .schema import LABEL_FEATURES

logger = logging.getLogger(__name__)

SCHEMA = LABEL_FEATURES.arrow_schema
DIGITS = 9  # of a mean, by which two are equal: its last bits depend on the order of the teachers
LEAST = np.finfo(np.float64).min  # stands for a letter_log_prob that is null
VOTE, ALL, TWO = "the vote", "all agree", "two agree"  # parts of the labels with error rates of their own


@dataclass
class VoteReport:
    """Counts a vote; counts are by language.

    Args:
        teachers: names, as they were given.
        utterances, hours: of all labels that were written.
        all_agree: utterances with labels of two teachers or more, and the same text in all of them.
        two_agree: utterances with the same text in two labels or more.
        single: utterances with a label of one teacher alone.
        empty: written labels without a text.
        agreement: sum over the utterances that are not `single`.
        labels, chosen: numbers of labels by language and teacher, and of those that were written.
        distances: from transcripts, by language and teacher, means over the trigrams of all speakers.
        edits, characters: by language and teacher, or `VOTE`, `ALL` and `TWO`: those of labels that have a reference,
            and of the references.
    """

    teachers: list[str]
    utterances: Counter[str] = field(default_factory=Counter)
    hours: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    all_agree: Counter[str] = field(default_factory=Counter)
    two_agree: Counter[str] = field(default_factory=Counter)
    single: Counter[str] = field(default_factory=Counter)
    empty: Counter[str] = field(default_factory=Counter)
    agreement: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    chosen: Counter[tuple[str, str]] = field(default_factory=Counter)
    distances: dict[tuple[str, str], float] = field(default_factory=dict)
    edits: Counter[tuple[str, str]] = field(default_factory=Counter)
    characters: Counter[tuple[str, str]] = field(default_factory=Counter)

    def mean_agreement(self, language: str) -> float | None:
        """Returns the mean agreement of labels; None if no utterance of the language has two of them."""
        count = self.utterances[language] - self.single[language]
        return self.agreement[language] / count if count else None

    def cer(self, language: str, name: str) -> float | None:
        """Returns the character error rate of a teacher, or of a part of the vote; None without a reference."""
        key = (language, name)
        return self.edits[key] / self.characters[key] if self.characters[key] else None


def vote_labels(
    teachers: Sequence[str | AnyPath],
    output: str | AnyPath,
    allow_collapsed: bool = False,
    references: Dataset | None = None,
    transcripts: Dataset | None = None,
) -> VoteReport:
    """Writes a label of each utterance that any teacher has labelled, in the order of the first one.

    Warns of teachers whose labels have collapsed. A copy of all labels lies beside `output` meanwhile; memory holds
    the ids, 16 bytes of each label, and 10,000 labels of each teacher.

    Args:
        teachers: of each the files of its labels, with scores: a file, a pattern of files, a folder of `pseudo_label`,
            or a folder of such folders for languages.
        allow_collapsed: writes the file also if the labels that win have collapsed.
        references: utterances with the true texts of labels, for the error rates of the report alone.
        transcripts: utterances with texts of people, in the languages of the labels, by which the votes are weighted.

    Raises:
        ValueError: for less than two teachers, a file that is named twice or holds no pseudo-labels, texts of people,
            two labels of one id by one teacher, utterances that differ in audio, duration or language, teachers
            without an utterance in common, references of no label, transcripts without a text, and labels that have
            collapsed.
        InUseError: if another job is writing the same file.
    """
    names, output = [f"{as_path(teacher)}" for teacher in teachers], as_path(output)  # as they may be shown
    files = _files(teachers, names)
    report, voted, texts_of = VoteReport(names), LabelTexts(), [LabelTexts() for _ in names]
    known = None if references is None else References(references)
    shares = None if transcripts is None else TrigramShares(transcripts)

    def tables(folder: Path) -> Iterator[pa.Table]:
        sets = [_copy(paths, folder / f"{number}.arrow", texts_of[number]) for number, paths in enumerate(files)]
        places = _places(sets, names)
        distances = [shares.distances(labels) if shares else {} for labels in sets]
        report.distances = _mean_distances(dict(zip(names, distances, strict=True)))
        weights = vote_weights(distances)
        for first in range(0, places.shape[1], BLOCK):
            block = _Block(sets, places[:, first : first + BLOCK], names)
            labels = block.vote(weights)
            block.count(report, labels, known)
            voted.add(labels)
            yield labels
        for name, texts in zip(names, texts_of, strict=True):
            if problems := texts.problems():
                logger.warning("%s: %s; the others outvote them where they agree", name, collapse_line(problems))
        if (problems := voted.problems()) and not allow_collapsed:
            raise ValueError(
                f"{collapse_line(problems)}: {NOT_LEARNED}; --allow-collapsed writes the votes all the same"
            )
        if known is not None and not report.characters:
            raise ValueError(
                f"none of {report.utterances.total()} labels is of an utterance with a text among the references"
            )

    with claimed_file(output), temporary_folder(_parent(output), "voting") as folder:
        write_tables(row_groups(tables(folder)), output, SCHEMA)
    return report


def _parent(output: AnyPath) -> AnyPath:
    if isinstance(output, Path):
        output.parent.mkdir(parents=True, exist_ok=True)
    return output.parent


def _files(teachers: Sequence[str | AnyPath], names: Sequence[str]) -> list[list[AnyPath]]:
    """Returns the files of each teacher; raises ValueError for a name without files, and for a file named twice."""
    if len(names) < 2:
        raise ValueError(f"{', '.join(names) or 'no labels'}: labels of two teachers or more can vote; name others")
    files, seen = [], dict[AnyPath, str]()
    for teacher, name in zip(map(str, teachers), names, strict=True):
        is_here = all(isinstance(path, RemotePath) or path.exists() for path in matching_paths(teacher))
        found = list(chain.from_iterable(find_label_set(teacher).values())) if is_here else []
        if not found:
            raise ValueError(
                f"{name}: no such file or folder of labels; `hf-mlpl join-labels` makes a file of labels on the Hub"
            )
        for path in found:
            if path.suffix != ".parquet":
                raise ValueError(
                    f"{path}: is no Parquet file of labels; `hf-mlpl join-labels` makes one of a table and its audio"
                )
            if path.resolve() in seen:
                raise ValueError(f"{path}: is named twice, by {seen[path.resolve()]} and {name}; it has one vote")
            seen[path.resolve()] = name
        files.append(found)
    return files


def _copy(paths: Sequence[AnyPath], copy: Path, texts: LabelTexts) -> Dataset:
    """Copies the labels of a teacher to a file that is mapped to memory, and counts their texts."""
    people = pa.array([name for name in HUMAN if name is not None])
    with pa.OSFile(str(copy), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer:
        for path in paths:
            for labels in scored_blocks(path):
                source = labels["source"]
                if pc.any(pc.or_kleene(source.is_null(), pc.is_in(source, people))).as_py():
                    raise ValueError(
                        f"{path}: has texts of people (source is {', '.join(people.to_pylist())} or null), and labels "
                        "name their teacher; --references takes texts of people"
                    )
                texts.add(labels)
                writer.write_table(labels.cast(SCHEMA))
    return Dataset.from_file(str(copy))


def _places(sets: Sequence[Dataset], names: Sequence[str]) -> np.ndarray:
    """Returns the rows (teachers, utterances) of all utterances in the labels of each teacher; -1 where it has none.

    Raises:
        ValueError: for several labels of one id by a teacher, and for teachers without an utterance in common.
    """
    known, ids_of = pa.chunked_array([], pa.large_string()), []
    for name, labels in zip(names, sets, strict=True):
        if duplicates := duplicated_ids(labels):
            raise ValueError(
                f"{name}: has several labels of {len(duplicates)} utterances, {duplicates[0]} among them; one teacher "
                "has one label of each, so name the files of several teachers apart"
            )
        ids = pa.chunked_array([block["id"].combine_chunks() for block in blocks(labels, ["id"])], pa.string())
        ids = ids.cast(pa.large_string())
        is_new = pc.invert(pc.is_in(ids, value_set=known))
        known = pa.chunked_array([*known.chunks, *ids.filter(is_new).chunks], pa.large_string())
        ids_of.append(ids)
    places = np.full((len(sets), len(known)), -1)
    for own, ids in zip(places, ids_of, strict=True):
        own[pc.index_in(ids, value_set=known).to_numpy()] = np.arange(len(ids))
    if ((places >= 0).sum(0) < 2).all():
        examples = [f"{name} has {ids[0].as_py()!r}" for name, ids in zip(names, ids_of, strict=True) if len(ids)]
        raise ValueError(
            f"no utterance has labels of two teachers ({', '.join(examples) or 'there are no labels'}); "
            "`hf-mlpl join-labels --audio` gives all labels the ids of the same utterances"
        )
    return places


class _Block:
    """Holds the labels of some utterances, B, by all teachers, T.

    Args:
        places: (T, B) rows of the utterances in the labels of each teacher, or -1.
    """

    def __init__(self, sets: Sequence[Dataset], places: np.ndarray, names: Sequence[str]):
        self.has_label, self.names = places >= 0, names
        self.labels = list(map(_taken, sets, places))
        self._check_utterances()

    def vote(self, weights_of: Sequence[Mapping[tuple[str, str], float]]) -> pa.Table:
        """Chooses the label of each utterance; returns these (B) with their agreement.

        Args:
            weights_of: of each teacher's votes, by language and speaker; 1 for those that are not in it.
        """
        num_teachers, num_utterances = self.has_label.shape
        sums, others = np.zeros((num_teachers, num_utterances)), np.maximum(self.has_label.sum(0) - 1, 0)
        weights = np.stack(list(map(_weights, self.labels, weights_of)))
        votes = weights / np.where(self.has_label, weights, 0).max(0)  # of the nearest teacher: 1
        scores = votes.copy()
        pairs = np.zeros(num_utterances, int)  # with equal texts
        for one, two, rows, similarities in pair_similarities([labels["text"] for labels in self.labels]):
            sums[one, rows] += similarities
            sums[two, rows] += similarities
            scores[one, rows] += votes[two, rows] * similarities
            scores[two, rows] += votes[one, rows] * similarities
            pairs[rows] += similarities == 1
        scores = np.where(self.has_label, scores.round(DIGITS), -1)
        certain = np.stack([labels["letter_log_prob"].to_numpy() for labels in self.labels])
        certain = np.maximum(np.nan_to_num(certain, nan=LEAST), LEAST)
        self.chosen = np.where(scores == scores.max(0), certain, -np.inf).argmax(0)  # the first one of equal ones
        means = sums / np.maximum(others, 1)
        self.agreement = np.clip(means[self.chosen, np.arange(num_utterances)], 0, 1)
        self.is_single, self.two_agree = others == 0, pairs > 0
        self.all_agree = ~self.is_single & (pairs == others * (others + 1) // 2)
        rows = self.chosen * num_utterances + np.arange(num_utterances)
        voted = pa.concat_tables(self.labels).take(pa.array(rows))
        scores = pa.array(self.agreement, mask=self.is_single)
        return voted.set_column(SCHEMA.get_field_index("agreement"), "agreement", scores)

    def count(self, report: VoteReport, voted: pa.Table, transcripts: References | None) -> None:
        """Adds the labels that `vote` has chosen to a report."""
        hours, is_empty = voted["duration_seconds"].to_numpy() / 3600, num_characters(voted["text"]).to_numpy() == 0
        spoken_by = np.array(voted["language"])
        rates = {} if transcripts is None else self._edits_and_characters(voted, transcripts)
        for language in np.unique(spoken_by).tolist():
            is_spoken = spoken_by == language
            report.utterances[language] += int(is_spoken.sum())
            report.hours[language] += float(hours[is_spoken].sum())
            report.agreement[language] += float(self.agreement[is_spoken & ~self.is_single].sum())
            for counter, mask in (
                (report.all_agree, self.all_agree),
                (report.two_agree, self.two_agree),
                (report.single, self.is_single),
                (report.empty, is_empty),
            ):
                counter[language] += int((mask & is_spoken).sum())
            for number, name in enumerate(self.names):
                report.labels[language, name] += int((self.has_label[number] & is_spoken).sum())
                report.chosen[language, name] += int(((self.chosen == number) & is_spoken).sum())
            for name, (edits, characters) in rates.items():
                if characters[is_spoken].any():
                    report.edits[language, name] += int(edits[is_spoken].sum())
                    report.characters[language, name] += int(characters[is_spoken].sum())

    def _edits_and_characters(self, voted: pa.Table, transcripts: References) -> dict[str, np.ndarray]:
        """Returns for each teacher and each part of the vote (2, B) edits and reference characters; 0 where none."""
        spoken = transcripts.texts(transcripts.places(voted))
        rates = {}
        for name, labels, has_label in zip(self.names, self.labels, self.has_label, strict=True):
            own = pc.if_else(pa.array(has_label), spoken, pa.scalar(None, spoken.type))
            rates[name] = edits_and_characters(labels["text"], own)
        of_vote = edits_and_characters(voted["text"], spoken)
        return rates | {VOTE: of_vote, ALL: of_vote * self.all_agree, TWO: of_vote * self.two_agree}

    def _check_utterances(self) -> None:
        """Raises a ValueError for an utterance that two teachers know by another audio, duration or language."""
        first = self.has_label.argmax(0)  # the teacher with whom others are compared
        known = pa.concat_tables(self.labels).take(pa.array(first * len(first) + np.arange(len(first))))
        for name, labels, has_label in zip(self.names, self.labels, self.has_label, strict=True):
            for column in ("language", "audio", "duration_seconds"):
                differs = has_label & _differ(labels[column], known[column])
                if differs.any():
                    row = int(np.argmax(differs))
                    values = (_shown(each[column][row].as_py()) for each in (labels, known))
                    raise ValueError(
                        f"{name}: {column} of {labels['id'][row]} is {' and not '.join(values)} as in "
                        f"{self.names[first[row]]}; labels vote on the same utterances, and `hf-mlpl join-labels "
                        "--audio` gives all of them those of one file"
                    )


def _weights(labels: pa.Table, weights: Mapping[tuple[str, str], float]) -> np.ndarray:
    """Returns the weights (B,) of a teacher's votes."""
    if not weights:
        return np.ones(len(labels))
    names = zip(labels["language"].to_pylist(), speakers_of(labels).to_pylist(), strict=True)
    return np.array([weights.get(name, 1.0) for name in names])


def _mean_distances(distances: Mapping[str, Mapping[tuple[str, str], Distance]]) -> dict[tuple[str, str], float]:
    """Returns the mean of a teacher's distances over the trigrams of all speakers, by language and teacher."""
    sums, counts = defaultdict[tuple[str, str], float](float), Counter[tuple[str, str]]()
    for teacher, by_speaker in distances.items():
        for (language, _), distance in by_speaker.items():
            sums[language, teacher] += distance.value * distance.num_trigrams
            counts[language, teacher] += distance.num_trigrams
    return {name: sums[name] / count for name, count in counts.items()}


def _differ(values: pa.ChunkedArray, others: pa.ChunkedArray) -> np.ndarray:
    """Returns (B,) whether values, which may be structs, are different ones; durations may be rounded."""
    if pa.types.is_struct(values.type):
        parts = zip(values.combine_chunks().flatten(), others.combine_chunks().flatten(), strict=True)
        return np.logical_or.reduce([_differ(*part) for part in parts])
    if pa.types.is_floating(values.type):
        is_other = pc.greater(pc.abs(pc.subtract(values, others)), DURATION_TOLERANCE)
    else:
        is_other = pc.not_equal(values, others)
    is_other = pc.or_(pc.fill_null(is_other, False), pc.xor(values.is_null(), others.is_null()))
    return is_other.to_numpy(zero_copy_only=False) if isinstance(is_other, pa.Array) else is_other.to_numpy()


def _shown(value: dict | str | float) -> str:
    return (
        ", ".join(str(each) for each in value.values() if each is not None) if isinstance(value, dict) else str(value)
    )


def _taken(labels: Dataset, rows: np.ndarray) -> pa.Table:
    """Returns labels by their rows (B,), and nulls for -1."""
    found = blocks(select_rows(labels, rows[rows >= 0]), SCHEMA.names)
    table = pa.concat_tables([SCHEMA.empty_table(), *(block.cast(SCHEMA) for block in found)]).combine_chunks()
    return table.take(pa.array(np.cumsum(rows >= 0) - 1, mask=rows < 0))
