"""Labels the same utterances again and again, by all processes together."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import PreTrainedModel

from ..data.batches import SpeechBatches, plan_batches
from .decoding import Hypothesis, decode_batch
from .unsharded import unsharded


class Sample:
    """Holds utterances that are labelled again and again, in other ways or by other teachers.

    Args:
        batches: of the data set; each utterance of the sample fits into a batch of `max_batch_seconds`.
        rows: of the sample.
    """

    def __init__(self, batches: SpeechBatches, rows: np.ndarray, max_batch_seconds: float):
        self.batches, self.dataset, self.rows = batches, batches.dataset, rows.tolist()
        columns = self.dataset[self.rows]
        self.ids, self.texts = columns["id"], columns["text"]
        plan = plan_batches(np.array(columns["duration_seconds"]), max_batch_seconds)
        self.plan = [rows[np.sort(batch)].tolist() for batch in plan]

    def label(self, accelerator: Accelerator, teacher: PreTrainedModel) -> dict[int, Hypothesis]:
        """Labels the sample, each process its share; returns all labels by row, without those that cannot be read."""
        was_training, hypotheses = teacher.training, []
        teacher.eval()
        with torch.no_grad(), unsharded(teacher):
            for rows in self.plan[accelerator.process_index :: accelerator.num_processes]:
                batch = self.batches.batch(rows, None)
                hypotheses += decode_batch(teacher, self.batches.ctc, batch)
        teacher.train(was_training)
        found = {hypothesis.row: hypothesis for hypothesis in gather_object(hypotheses)}
        return {row: found[row] for row in self.rows if row in found}
