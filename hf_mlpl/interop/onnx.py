"""Exports models to ONNX, for programs that run without PyTorch."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim

from ..atomic import atomic_write
from ..installation import install_command
from ..model.modeling_mlpl import MlplForCTC
from ..model.processing_mlpl import MlplProcessor

try:
    import onnxscript  # noqa: F401 - torch.onnx.export writes graphs with it
except ImportError as error:
    raise ImportError(f"export to ONNX needs onnxscript, which comes with {install_command('onnx')}") from error


class _InferenceGraph(nn.Module):
    """Wraps the forward pass, so that its arguments and results are tensors only."""

    def __init__(self, model: MlplForCTC):
        super().__init__()
        self.model = model

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.model(input_features, attention_mask=attention_mask, return_dict=False)


def export_onnx(model: MlplForCTC, folder: str | os.PathLike, processor: MlplProcessor | None = None) -> Path:
    """Writes a model, its configuration and a given processor into a new folder, and returns the folder.

    `model.onnx` holds the graph and `model.onnx.data` the weights. The graph takes any number of utterances and
    frames: `input_features` (batch, frames, mel bins) in the model's dtype and `attention_mask` (batch, frames) in
    int64, 1 for valid and 0 for padded frames. It returns `logits` (batch, output frames, classes) and, for a model
    with languages, `language_log_probs` (batch, languages).

    Raises:
        ValueError: if the folder exists.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} exists already; name a new folder, or delete it")
    example = {
        "input_features": torch.zeros(2, 30, model.config.num_mel_bins, dtype=model.dtype, device=model.device),
        "attention_mask": torch.ones(2, 30, dtype=torch.long, device=model.device),
    }
    # At least 4, because torch.export makes a single output frame a constant; ONNX does not enforce this bound.
    axes = {"input_features": {0: Dim("batch"), 1: Dim("frames", min=4)}, "attention_mask": {0: Dim.AUTO, 1: Dim.AUTO}}
    was_training, attn_implementation = model.training, model.config._attn_implementation
    # The decomposition of sdpa has other strides than its kernels, which the exporter does not see.
    model.set_attn_implementation("eager")
    try:
        program = torch.onnx.export(
            _InferenceGraph(model).eval(),
            kwargs=example,
            output_names=["logits", "language_log_probs"] if model.config.languages else ["logits"],
            dynamic_shapes=axes,
            dynamo=True,
            verbose=False,
        )
    finally:
        model.train(was_training).set_attn_implementation(attn_implementation)
    with atomic_write(folder) as partial:
        partial.mkdir()
        # Weights in their own file, because protobuf files end at 2 GB; the graph names it without a folder.
        program.save(partial / "model.onnx", external_data=True)
        model.config.save_pretrained(partial)
        if processor is not None:
            processor.save_pretrained(partial)
    return folder
