"""Chooses what a blank costs in the beam search of labels: by the letters of the labels, without a reference.

A weak teacher leaves letters out, and a language model prefers short texts, so that most errors of labels may be
letters that are missing. A penalty on the blank brings them back. How large it should be depends on the teacher and on
the speech: a sample is labelled with each, and the one whose labels are nearest to transcripts is taken.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from accelerate import Accelerator
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from ..data.letter_statistics import TrigramShares, mean_excess, with_texts
from ..data.rows import choose_rows, durations_of, filter_rows, select_rows
from ..inference.decoding import transcribe
from ..inference.label_search import LabelSearch
from ..main_process import on_main_process
from ..remote_path import AnyPath
from .folder import begun_job

PENALTIES = (0.0, 1.0, 2.0, 3.0, 4.0)  # nats
MOST_SAMPLED, MOST_SECONDS = 400, 600.0  # with a small model a penalty takes a minute
LONGEST_SECONDS = 35.0  # of an utterance of the sample
TOLERANCE = 0.002  # of the distance: what is nearer by less may be nearer by chance


def with_chosen_penalty(
    search: LabelSearch,
    accelerator: Accelerator,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    dataset: Dataset,
    transcripts: Dataset,
    folder: AnyPath,
    teacher: str,
    max_batch_seconds: float | None = None,
    num_workers: int | None = None,
) -> LabelSearch:
    """Returns the search with the blank penalty for labels of a data set; all processes call it.

    Where a job has begun, it is the penalty of this job.

    Args:
        model, processor, dataset, teacher, max_batch_seconds, num_workers: of `pseudo_label`.
        transcripts: utterances with texts of people, in a language of the data set at least.
        folder: of the labels.

    Raises:
        ValueError: where no language with a language model has transcripts.
    """
    searches = {penalty: search.with_blank_penalty(penalty) for penalty in PENALTIES}
    begun = begun_job(folder).get("teacher")
    for each in searches.values():
        if begun == f"{teacher}+{each.name}":
            return each
    model = accelerator.unwrap_model(model)

    def label(sample: Dataset, penalty: float) -> dict[int, str]:
        batching = max_batch_seconds, num_workers
        hypotheses = transcribe(model, processor, sample, *batching, search=searches[penalty])
        return {each.row: each.text for each in hypotheses if not each.error}

    def choose() -> float:
        distances = penalty_distances(label, dataset, transcripts, sorted(search.decoders))
        chosen = chosen_penalty(distances)
        line = ", ".join(f"{penalty:g} {distance:.3f}" for penalty, distance in distances.items())
        tqdm.write(f"blank penalty {chosen:g}; distances of labels from transcripts: {line}")
        return chosen

    return searches[on_main_process(accelerator, choose)]


def penalty_distances(
    label: Callable[[Dataset, float], dict[int, str]], dataset: Dataset, transcripts: Dataset, languages: list[str]
) -> dict[float, float]:
    """Returns how far labels of a sample with each penalty are from transcripts.

    The distance is that of [`~letter_statistics.mean_excess`], of all speakers of a language together, because few
    utterances of one say little.

    Args:
        label: returns the texts of utterances, by row, for a penalty; without those that cannot be read.
        languages: of the utterances that have a language model.

    Raises:
        ValueError: where none of them has transcripts.
    """
    if not len(transcripts := _in_languages(transcripts, languages)):
        raise ValueError(
            f"no transcripts are in {', '.join(languages)}, the languages of the utterances with a language model; "
            "name the penalty with --blank-penalty, or other files"
        )
    shares = TrigramShares(transcripts)
    dataset = _in_languages(dataset, list(shares.shares))
    count = int(np.clip(MOST_SECONDS / float(durations_of(dataset).mean()), 1, MOST_SAMPLED))
    sample = select_rows(dataset, choose_rows(dataset, count, LONGEST_SECONDS))
    anonymous = sample.remove_columns("speaker")
    return {
        penalty: mean_excess(shares.distances(with_texts(anonymous, label(sample, penalty))))
        for penalty in tqdm(PENALTIES, "blank penalties", leave=False)
    }


def chosen_penalty(distances: dict[float, float]) -> float:
    """Returns the smallest penalty whose distance is hardly more than the least one."""
    return min(penalty for penalty, distance in distances.items() if distance <= min(distances.values()) + TOLERANCE)


def _in_languages(dataset: Dataset, languages: list[str]) -> Dataset:
    names = pa.array(languages, pa.string())
    return filter_rows(dataset, ["language"], lambda block: pc.is_in(block["language"], names).to_numpy())
