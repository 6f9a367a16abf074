"""Computes the character error rate in a module that `evaluate.load` reads from this folder."""

import datasets
import evaluate

# By its full name: evaluate copies this file to a cache before it runs it.
from hf_mlpl.evaluation.error_rate import ErrorRate

INPUTS = """
Args:
    predictions (list of str): transcripts to score; may be empty strings.
    references (list of str): correct transcripts; characters predicted for an empty reference are insertions.
Returns:
    cer: `edits / length`; with length 0 it is 0.0 without edits and 1.0 with any.
    edits: substituted, deleted and inserted characters of all pairs together.
    length: characters of all references.
"""


class Cer(evaluate.Metric):
    """Divides the edits of all pairs by the characters of all references, as `ErrorRate` counts them."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(dict.fromkeys(["predictions", "references"], datasets.Value("string"))),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float | int]:
        errors = ErrorRate()
        for pair in zip(predictions, references, strict=True):
            errors.add(*pair)
        return {"cer": errors.rate, "edits": errors.edits, "length": errors.length}
