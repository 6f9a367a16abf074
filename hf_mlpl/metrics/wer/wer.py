"""Word error rate, a module that `evaluate.load` reads from this folder."""

import unicodedata

import datasets
import evaluate
from rapidfuzz.distance import Levenshtein

INPUTS = """
Args:
    predictions (list of str): transcripts to score; may be empty strings.
    references (list of str): what was said; the words of a prediction for an empty reference are insertions.
Returns:
    wer: `edits / length`; with length 0 it is 0.0 without edits and 1.0 with any.
    edits: substituted, deleted and inserted words of all pairs together.
    length: words of all references.
"""


class Wer(evaluate.Metric):
    """Edits of all pairs divided by the words of all references, after NFC; a word is what white space separates."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float | int]:
        edits = length = 0
        for prediction, reference in zip(predictions, references, strict=True):
            words = unicodedata.normalize("NFC", reference).split()
            edits += Levenshtein.distance(unicodedata.normalize("NFC", prediction).split(), words)
            length += len(words)
        # a rate over nothing stays finite, so that it can be averaged and written as JSON
        return {"wer": edits / length if length else float(edits > 0), "edits": edits, "length": length}
