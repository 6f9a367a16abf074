"""Averages the weights of models that began their training with the same weights.

Runs with other seeds make other errors by chance, and the mean of their weights makes fewer of them, as Wortsman et
al. found for fine-tuned models ("Model soups", 2022). Models that began with different weights have no use for it:
their mean recognises nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from ..atomic import atomic_write
from ..inference.loading import load_model
from .saved_model import write_model

# Cosine similarity of the weights of two models. Those of runs from one model have nearly 1, others nearly 0.
LEAST_SIMILARITY = 0.5


def average_models(names: Sequence[str], output: Path) -> None:
    """Writes a folder with the mean of the weights of several models, and with the processor of the first one.

    The running statistics of normalisation layers are averaged, too; whole numbers are those of the first model.
    Means are computed in float32, and written in the dtype of the first model. Memory holds three models at a time.

    Args:
        names: folders or Hub names of CTC models of one architecture, with the same tokens and features.
        output: a folder, which must not exist.

    Raises:
        OSError, ValueError: as `load_model` does.
        ValueError: for fewer than two models, for models that differ in more than their weights, and for weights that
            are not finite or did not begin as those of the first model.
    """
    if len(names) < 2:
        raise ValueError(f"{', '.join(names) or 'no model'}: two or more models are needed for a mean")
    mean, processor = _load(names[0])
    dtype, expected = mean.dtype, _description(mean, processor)
    first = _matrices(mean.float())
    for number, name in enumerate(tqdm(names[1:], "models", unit="model", leave=False), 2):
        model, others = _load(name)
        for part, own in _description(model, others).items():
            if own != expected[part]:
                raise ValueError(f"{name}: has other {part} than {names[0]}; models that are averaged must be alike")
        similarity = float(torch.cosine_similarity(first, _matrices(model.float()), dim=0))
        if similarity < LEAST_SIMILARITY:
            raise ValueError(
                f"{name}: its weights are not like those of {names[0]} (cosine similarity {similarity:.2f}, at least "
                f"{LEAST_SIMILARITY} is accepted); models can be averaged that were trained from the same model"
            )
        for weights, own in zip(_numbers(mean), _numbers(model), strict=True):
            weights.lerp_(own, 1 / number)
    with atomic_write(output) as partial:
        write_model(partial, mean.config, processor, mean.to(dtype).state_dict())


def _load(name: str) -> tuple[PreTrainedModel, ProcessorMixin]:
    model, processor = load_model(name)
    if not all(weights.isfinite().all() for weights in model.parameters()):
        raise ValueError(f"{name}: has weights that are not finite, as after a training that failed")
    return model, processor


def _description(model: PreTrainedModel, processor: ProcessorMixin) -> dict[str, object]:
    """Returns what must be equal in models that are averaged."""
    extractor = processor.feature_extractor.to_dict()
    return {
        "layers": (type(model), {name: weights.shape for name, weights in model.state_dict().items()}),
        "tokens": processor.tokenizer.get_vocab(),
        "languages": getattr(model.config, "languages", None),
        "features": {name: value for name, value in extractor.items() if not name.endswith("_class")},
    }


def _numbers(model: PreTrainedModel) -> Iterator[torch.Tensor]:
    """Yields the parameters and buffers that can be averaged; those that two layers share come once."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            yield tensor.detach()


def _matrices(model: PreTrainedModel) -> torch.Tensor:
    """Returns the weights of all matrices and convolutions in one vector; the rest begins alike in all models."""
    return torch.cat([weights.detach().flatten() for weights in model.parameters() if weights.dim() > 1])
