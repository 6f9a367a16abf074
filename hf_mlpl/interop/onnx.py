"""Export to ONNX, for programs that run without PyTorch."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim

from ..atomic import written_whole
from ..modeling_mlpl import MlplForCTC


class _InferenceGraph(nn.Module):
    """The forward pass with tensors alone as arguments and results."""

    def __init__(self, model: MlplForCTC):
        super().__init__()
        self.model = model

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.model(input_features, attention_mask=attention_mask, return_dict=False)


def export_onnx(model: MlplForCTC, folder: str | os.PathLike) -> Path:
    """Writes a new folder with `model.onnx`, its weights in `model.onnx.data`, and `config.json`; returns the folder.

    The graph computes, for any batch and number of frames, from `input_features` (batch, frames, mel bins; the
    model's dtype) and `attention_mask` (batch, frames; int64, 1 for valid and 0 for padded frames): `logits` (batch,
    output frames, classes) and, where the model has languages, `language_log_probs` (batch, languages).

    Raises:
        ValueError: if the folder exists.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} exists already; name a new folder, or delete it")
    was_training = model.training
    example = {
        "input_features": torch.zeros(2, 30, model.config.num_mel_bins, dtype=model.dtype, device=model.device),
        "attention_mask": torch.ones(2, 30, dtype=torch.long, device=model.device),
    }
    axes = {0: Dim("batch"), 1: Dim("frames")}
    outputs = ["logits"] + (["language_log_probs"] if model.config.languages else [])
    try:
        program = torch.onnx.export(
            _InferenceGraph(model.eval()),
            kwargs=example,
            output_names=outputs,
            dynamic_shapes={name: axes for name in example},
            dynamo=True,
            verbose=False,
        )
    finally:
        model.train(was_training)
    with written_whole(folder) as partial:
        partial.mkdir()
        # Beside the graph, because a protobuf file ends at 2 GB; the graph names the weights' file without a folder.
        program.save(partial / "model.onnx", external_data=True)
        model.config.save_pretrained(partial)
    return folder
