"""Chooses what a blank costs in the beam search of labels, so that they are as long as the teacher expects.

The likeliest text of a weak teacher is too short: where it is unsure of a letter, the blank is likelier than each
letter. A language model, which prefers short texts, leaves out more of them. How many letters there are in all is less
doubtful: the posteriors expect nearly as many as people have written, though they do not say where. Labels of a sample
are made with larger and larger penalties until they have so many letters. It takes no reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from accelerate import Accelerator
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from ..data.heard_speech import HeardSpeech
from ..data.rows import choose_rows, durations_of, filter_rows, select_rows
from ..inference.decoding import Hypothesis, transcribe
from ..inference.label_search import LabelSearch
from ..main_process import on_main_process
from ..remote_path import AnyPath
from .folder import begun_job
from .source_name import source_name

PENALTIES = (0.0, 1.0, 2.0, 3.0, 4.0)  # nats
MOST_SAMPLED, MOST_SECONDS = 200, 200.0  # of a few utterances, the sum of letters is known within a hundredth
LONGEST_SECONDS = 35.0  # of an utterance of the sample
LEAST_GAIN = 0.003  # of the expected letters; a sure teacher's labels do not change with the penalty


def with_chosen_penalty(
    search: LabelSearch,
    accelerator: Accelerator,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    dataset: Dataset,
    folder: AnyPath,
    teacher: str,
    max_batch_seconds: float | None = None,
    num_workers: int | None = None,
    heard: HeardSpeech | None = None,
) -> LabelSearch:
    """Returns the search with the blank penalty for labels of a data set; all processes call it.

    Where a job has begun, it is the penalty of this job, or 0 for one of another search, which `pseudo_label` refuses.

    Args:
        model, processor, dataset, teacher, max_batch_seconds, num_workers, heard: of `pseudo_label`.
        folder: of the labels.
    """
    searches = {penalty: search.with_blank_penalty(penalty) for penalty in PENALTIES}
    model = accelerator.unwrap_model(model)

    def label(sample: Dataset, penalty: float) -> Iterable[Hypothesis]:
        batching = max_batch_seconds, num_workers
        return transcribe(model, processor, sample, *batching, search=searches[penalty], heard=heard)

    def choose() -> float:
        if begun := begun_job(folder).get("teacher"):  # by this job or another one, which may begin at any time
            names = {source_name(teacher, heard, each): penalty for penalty, each in searches.items()}
            return names.get(begun, 0.0)
        ratios = length_ratios(label, dataset, sorted(search.decoders))
        chosen = chosen_penalty(ratios)
        line = ", ".join(f"{penalty:g} {ratio:.2f}" for penalty, ratio in ratios.items())
        tqdm.write(f"blank penalty {chosen:g}; letters of labels, divided by those that the teacher expects: {line}")
        return chosen

    return searches[on_main_process(accelerator, choose)]


def length_ratios(
    label: Callable[[Dataset, float], Iterable[Hypothesis]], dataset: Dataset, languages: list[str]
) -> dict[float, float]:
    """Returns the letters of labels of a sample, divided by those that the posteriors expect, by penalty.

    After a penalty with which there are more letters than expected, or hardly more than before, none is tried.

    Args:
        label: labels utterances with a penalty.
        languages: of the utterances that have a language model.
    """
    names = pa.array(languages, pa.string())
    dataset = filter_rows(dataset, ["language"], lambda block: pc.is_in(block["language"], names).to_numpy())
    count = int(np.clip(MOST_SECONDS / float(durations_of(dataset).mean()), 1, MOST_SAMPLED)) if len(dataset) else 0
    sample = select_rows(dataset, choose_rows(dataset, count, LONGEST_SECONDS))
    ratios = dict[float, float]()
    for penalty in tqdm(PENALTIES, "blank penalties", leave=False):
        labels = [
            each
            for each in label(sample, penalty)
            if each.length_ratio is not None and math.isfinite(each.expected_labels)
        ]
        letters = sum(each.length_ratio * each.expected_labels for each in labels)
        expected = sum(each.expected_labels for each in labels)
        ratios[penalty] = letters / expected if expected else 1.0
        if ratios[penalty] > 1 or chosen_penalty(ratios) != penalty:
            break
    return ratios


def chosen_penalty(ratios: dict[float, float]) -> float:
    """Returns which of the last two penalties makes the number of letters that is expected, or the nearest to it.

    It is the one before the last where the last one makes hardly more letters.
    """
    *others, last = ratios
    if others and ratios[last] - ratios[others[-1]] < LEAST_GAIN:
        return others[-1]
    return min([*others[-1:], last], key=lambda penalty: abs(ratios[penalty] - 1))
