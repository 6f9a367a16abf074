"""Chooses how the teacher of a labelling job hears the speech."""

from __future__ import annotations

from accelerate import Accelerator
from datasets import Dataset
from transformers import PreTrainedModel, ProcessorMixin

from ..data.batches import SpeechBatches
from ..data.heard_speech import HeardSpeech
from ..data.summary import ids_sha256
from ..inference.decoding import default_batch_seconds
from ..inference.hearing import HEARINGS, Hearing, choose_hearing, hear
from ..main_process import on_main_process
from ..remote_path import AnyPath
from .folder import begun_job
from .source_name import source_name

CACHE_BYTES = 10**9  # of the features of a sample and of labelled speech, which several ways to hear need


def with_chosen_hearing(
    accelerator: Accelerator,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    dataset: Dataset,
    labelled: Dataset,
    folder: AnyPath,
    teacher: str,
    max_batch_seconds: float | None = None,
) -> HeardSpeech | None:
    """Returns how a CTC model hears a data set, so that its labels are most like transcripts; None for as it is.

    All processes call it. Where a job has begun, speech is heard as in this job, or as it is for a job of another
    teacher or other labelled speech, which `pseudo_label` refuses.

    Args:
        model, processor, dataset, teacher, max_batch_seconds: of `pseudo_label`.
        labelled: speech with transcripts that the teacher has learned.
        folder: of the labels.
    """
    model = accelerator.unwrap_model(model)
    speech, reference = (
        SpeechBatches(each, [], processor, model.config, with_labels=False, cache_bytes=CACHE_BYTES)
        for each in (dataset, labelled)
    )
    names = {hearing: _name(hearing, labelled) for hearing in HEARINGS}

    def begun() -> Hearing | None:  # by this job or another one, which may begin at any time
        if source := begun_job(folder).get("teacher"):
            prefixes = {hearing: source_name(teacher, HeardSpeech(name)) for hearing, name in names.items() if name}
            return next(
                (each for each, prefix in prefixes.items() if f"{source}+".startswith(f"{prefix}+")), HEARINGS[0]
            )
        return None

    if hearing := on_main_process(accelerator, begun):
        hear(accelerator, hearing, speech, reference)
    else:
        seconds = default_batch_seconds(model, max_batch_seconds)
        hearing = choose_hearing(accelerator, model, speech, reference, seconds)
    return HeardSpeech(names[hearing], speech.snr, speech.match) if names[hearing] else None


def _name(hearing: Hearing, labelled: Dataset) -> str:
    """Returns the name of a way to hear, with a checksum of the speech whose spectrum it has; "" for as it is."""
    parts = [f"m{ids_sha256(labelled)[:12]}"] * hearing.is_matched
    parts += [f"n{hearing.snr:g}"] if hearing.snr is not None else []
    return "-".join(["heard", *parts]) if parts else ""
