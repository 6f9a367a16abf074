"""Detects a model that has learned to say nothing, and tells what to change."""

from __future__ import annotations

import logging

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import ProcessorMixin

from ..data.collapse import COLLAPSED_SHARE
from ..data.rows import select_rows
from ..inference.decoding import transcribe
from ..inference.unsharded import unsharded
from ..main_process import on_main_process
from ..training_config import TrainingConfig

logger = logging.getLogger(__name__)

PATIENCE = 0.25  # share of the updates before the first warning: a CTC model says nothing at first
FEWEST_UPDATES = 100  # of a run that may end with an error: no model speaks after the few of a trial
NUM_PROBES = 32  # training utterances that are transcribed where there is no dev set
REMEDY = (
    "train longer (max_updates), raise learning_rate or warmup_updates, take larger batches (max_batch_seconds, "
    "micro_batches_per_update), short utterances first (curriculum={}) or more labelled speech, and see whether the "
    "texts are those of the recordings"
)


class SilenceCheck:
    """Warns during training that nearly all transcripts are empty, and says at the end whether all of dev are.

    Args:
        train_set: some of its utterances are transcribed where `dev_set` is None, for the warning alone.
    """

    def __init__(self, accelerator: Accelerator, config: TrainingConfig, train_set: Dataset, dev_set: Dataset | None):
        self.accelerator, self.config = accelerator, config
        rows = np.unique(np.linspace(0, len(train_set) - 1, NUM_PROBES).round().astype(int))
        self.probes = select_rows(train_set, rows) if dev_set is None else None
        self.subject = "dev" if dev_set is not None else "training utterances"
        self.empty, self.total = 0, 0  # transcripts of the last check, in the main process

    def judge_results(self, update: int, results: dict | None) -> None:
        """Judges an evaluation on dev; only the main process has results."""
        if results is not None:
            self._judge(update, results["empty"], results["utterances"] - results["unreadable"])

    def judge_probes(self, update: int, model: torch.nn.Module, processor: ProcessorMixin) -> None:
        """Transcribes some training utterances and judges that, once it may be judged; all processes call it."""
        if update < PATIENCE * self.config.max_updates:
            return
        accelerator, model = self.accelerator, self.accelerator.unwrap_model(model)
        share = self.probes.select(range(accelerator.process_index, len(self.probes), accelerator.num_processes))
        with unsharded(model):
            hypotheses = list(transcribe(model, processor, share, self.config.max_batch_seconds, num_workers=0))
        is_empty = gather_object([not hypothesis.text for hypothesis in hypotheses if not hypothesis.error])
        self._judge(update, sum(is_empty), len(is_empty))

    def _judge(self, update: int, empty: int, total: int) -> None:
        self.empty, self.total = empty, total
        is_early = update < PATIENCE * self.config.max_updates
        if total and empty >= COLLAPSED_SHARE * total and not is_early and self.accelerator.is_main_process:
            logger.warning(
                "update %d: %d of %d transcripts of %s are empty: %s", update, empty, total, self.subject, REMEDY
            )

    def describe(self) -> str | None:
        """Describes in a line that all transcripts of dev were empty at last; returns None if they were not.

        Also None for a run without dev, and for one of few updates. All processes call it.
        """
        empty, total = on_main_process(self.accelerator, lambda: (self.empty, self.total))
        is_trial = self.probes is not None or self.config.max_updates < FEWEST_UPDATES
        if is_trial or not total or empty < total:
            return None
        return f"all {total} transcripts of dev are empty, so the model has learned to say nothing: {REMEDY}"
