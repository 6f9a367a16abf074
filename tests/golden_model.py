"""The original program's small checkpoint as one of our models, from its tensors dumped one by one."""

import json
import re
from pathlib import Path

import numpy as np
import torch

from hf_mlpl.model.configuration_mlpl import MlplConfig
from hf_mlpl.model.modeling_mlpl import MlplForCTC

OUR_NAMES = {
    "convFrontend.1(LayerNorm)": "model.front_end.layer_norm",
    "convFrontend.2(Conv2D)": "model.front_end.conv",
    "posEmb": "attention.position_table",
    "wq": "attention.q_proj",
    "wk": "attention.k_proj",
    "wv": "attention.v_proj",
    "wf": "attention.o_proj",
    "norm1": "attention_layer_norm",
    "w1": "up_proj",
    "w2": "down_proj",
    "norm2": "output_layer_norm",
    "linear": "ctc_head",
    "LID_head": "lid_head",
}


def our_name(name: str) -> str:
    """`transformers.0.w1.weight` -> `model.layers.0.up_proj.weight`."""
    prefix = ""
    if match := re.match(r"transformers\.(\d+)\.", name):
        prefix, name = f"model.layers.{match[1]}.", name[match.end() :]
    for theirs, ours in OUR_NAMES.items():
        if name.startswith(theirs):
            return prefix + ours + name[len(theirs) :]
    raise KeyError(name)


def load_golden_model(golden: Path, **fields) -> MlplForCTC:
    """`models/tiny40`: 2 layers, 4 heads x 4, 40 positions, 30 classes, 5 languages; in evaluation mode."""
    config = MlplConfig(
        vocab_size=30,
        languages=[f"language_{i}" for i in range(5)],
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        attention_head_dim=4,
        intermediate_size=32,
        max_position_embeddings=40,
        **fields,
    )
    model = MlplForCTC(config)
    folder = golden / "models" / "tiny40" / "params"
    state = {}
    for parameter in json.loads((folder / "index.json").read_text())["params"]:
        array = np.load(folder / parameter["file"])
        if array.shape[0] == config.conv_kernel and array.ndim == 4 and array.shape[2] == config.num_mel_bins:
            array = array[:, 0].transpose(2, 1, 0)  # (kernel, 1, in, out) -> (out, in, kernel)
        name = our_name(parameter["name"])
        state[name] = torch.from_numpy(np.ascontiguousarray(array)).reshape(model.state_dict()[name].shape)
    model.load_state_dict(state, strict=True)
    return model.eval()
