"""How does the cost of the model grow? With the length of utterances, the batch and the vocabulary.

    python benchmarks/bench_scaling.py

On one thread, with random weights of the base model's width and four layers. The exponent of a curve is the slope of
its logarithms: with the length of an utterance, 1 would be linear and 2 what attention alone costs. `operations` are
those of the products of the model, for each second, over those of a second of 5 s.
"""

import statistics
from functools import partial

import numpy as np
import torch
from side_by_side import benchmark_arguments, in_turns, ratio, seconds, versions, write_results

from hf_mlpl import MlplConfig, MlplForCTC
from hf_mlpl.data.utterances import SpeechTotals
from hf_mlpl.training.operations import forward_flops

ROUNDS = 3
LAYERS = 4
LENGTHS, BATCHES, VOCABULARIES = (5, 10, 15, 30, 60, 120), (1, 2, 4, 8, 16), (100, 1000, 8065)  # s; of 10 s; classes
LABELS = 100


def base_model(vocab_size: int = 100) -> MlplForCTC:
    torch.manual_seed(0)
    return MlplForCTC(MlplConfig.base(vocab_size, ["sl"], num_hidden_layers=LAYERS)).eval()


def random_features(batch: int, duration: float) -> torch.Tensor:
    return torch.randn(batch, round(100 * duration), 80)


def forward(model: MlplForCTC, features: torch.Tensor) -> float:
    """Seconds for each second of audio."""
    with torch.inference_mode():
        return seconds(model, features) * 100 / features.shape[:2].numel()


def forward_and_decode(model: MlplForCTC, features: torch.Tensor) -> float:
    with torch.inference_mode():
        return seconds(lambda: model(features).logits.argmax(dim=-1).tolist()) * 100 / features.shape[:2].numel()


def train_step(model: MlplForCTC, features: torch.Tensor) -> float:
    labels = torch.randint(model.config.vocab_size - 1, (len(features), LABELS))
    model.zero_grad()
    return seconds(lambda: model(features, labels=labels).loss.backward()) * 100 / features.shape[:2].numel()


def curves() -> tuple[list[dict], dict[str, float]]:
    torch.set_num_threads(1)
    model, rows = base_model(), []
    by_length = in_turns({d: partial(forward, model, random_features(1, d)) for d in LENGTHS}, ROUNDS)
    by_batch = in_turns({b: partial(forward, model, random_features(b, 10)) for b in BATCHES}, ROUNDS)
    models = {size: base_model(size) for size in VOCABULARIES}
    decoded = in_turns({v: partial(forward_and_decode, m, random_features(1, 10)) for v, m in models.items()}, ROUNDS)
    trained = in_turns({v: partial(train_step, m, random_features(1, 10)) for v, m in models.items()}, ROUNDS)
    for length, times in by_length.items():
        told = {"length, s": length, "ms per s of audio": 1000 * statistics.median(times)}
        rows.append(told | {"operations": flops_of_a_second(length) / flops_of_a_second(5)})
    measured = {"batch": by_batch, "vocabulary": decoded, "vocabulary, training": trained}
    for what, of in measured.items():
        rows += [{what: x, "ms per s of audio": 1000 * statistics.median(times)} for x, times in of.items()]
    to_60 = [length for length in LENGTHS if length <= 60]
    whole = {length: length * statistics.median(by_length[length]) for length in LENGTHS}
    rows.append({"exponent, 5-60 s": exponent({length: whole[length] for length in to_60})})
    rows.append({"exponent, 60-120 s": exponent({length: whole[length] for length in (60, 120)})})
    return rows, {
        "length: a second of 5 s over one of 60 s": ratio(by_length[5], by_length[60]),
        "batch: a second alone over one of 16": ratio(by_batch[1], by_batch[16]),
        "vocabulary: decoding, 100 over 8065": ratio(decoded[100], decoded[8065]),
        "vocabulary: training, 100 over 8065": ratio(trained[100], trained[8065]),
    }


def flops_of_a_second(length: float) -> float:
    config = MlplConfig.base(100, ["sl"], num_hidden_layers=LAYERS)
    return forward_flops(config, SpeechTotals(1, length, length**2)) / length


def exponent(curve: dict[float, float]) -> float:
    return float(np.polyfit(np.log(list(curve)), np.log(list(curve.values())), 1)[0])


def main() -> None:
    options = benchmark_arguments(__doc__).parse_args()
    rows, ratios = curves()
    write_results(options.results, "scaling", ROUNDS, rows, ratios, {"hf_mlpl": versions()})


if __name__ == "__main__":
    main()
