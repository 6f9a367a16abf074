"""Character error rate, a module that `evaluate.load` reads from this folder."""

import datasets
import evaluate

# By its full name: evaluate copies this file to a cache before it runs it.
from hf_mlpl.evaluation.error_rate import ErrorRate

INPUTS = """
Args:
    predictions (list of str): transcripts to score; may be empty strings.
    references (list of str): what was said; the characters of a prediction for an empty reference are insertions.
Returns:
    cer: `edits / length`; with length 0 it is 0.0 without edits and 1.0 with any.
    edits: substituted, deleted and inserted characters of all pairs together.
    length: characters of all references.
"""


class Cer(evaluate.Metric):
    """Divides the edits of all pairs by the characters of all references, as `ErrorRate` counts them."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float | int]:
        errors = ErrorRate()
        for pair in zip(predictions, references, strict=True):
            errors.add(*pair)
        return {"cer": errors.rate, "edits": errors.edits, "length": errors.length}
