"""Folders of the old port, written by hand as those on the Hub are, and what the original computes with them."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from hf_mlpl import MlplFeatureExtractor

from .random_model import RATE, sweep

LAYERS, HIDDEN, HEADS, REACH = 2, 16, 2, 12
LETTERS = ["|", "e", "<unk>", *"abcdfghijklmno", "<pad>"]
CONFIG = {
    "architectures": ["MCTCTForCTC"],
    "attention_head_dim": HIDDEN // HEADS,
    "attention_probs_dropout_prob": 0.1,
    "bos_token_id": 0,
    "conv_dropout": 0.2,
    "conv_glu_dim": 1,
    "conv_kernel": [7],
    "conv_stride": [3],
    "ctc_loss_reduction": "sum",
    "ctc_zero_infinity": False,
    "eos_token_id": 2,
    "hidden_act": "relu",
    "hidden_dropout_prob": 0.4,
    "hidden_size": HIDDEN,
    "input_channels": 1,
    "input_feat_per_channel": 80,
    "intermediate_size": 24,
    "layer_norm_eps": 1e-05,
    "layerdrop": 0.3,
    "max_position_embeddings": REACH,
    "model_type": "mctct",
    "num_attention_heads": HEADS,
    "num_conv_layers": 1,
    "num_hidden_layers": LAYERS,
    "pad_token_id": 1,  # what the released folder says; the blank is another class
    "position_embedding_type": "relative_key",
    "torch_dtype": "float32",
    "use_cache": True,
    "vocab_size": len(LETTERS),
}
PREPROCESSOR = {
    "K": 257,
    "do_normalize": True,
    "feature_extractor_type": "MCTCTFeatureExtractor",
    "feature_size": 80,
    "frame_signal_scale": 32768.0,
    "hop_length": 10,
    "mel_floor": 1.0,
    "n_fft": 512,
    "normalize_means": True,
    "normalize_vars": True,
    "padding_side": "right",
    "padding_value": 0.0,
    "preemphasis_coeff": 0.97,
    "return_attention_mask": False,
    "sample_size": 400,
    "sample_stride": 160,
    "sampling_rate": 16000,
    "win_function": "hamming_window",
    "win_length": 25,
}
TOKENIZER = {
    "bos_token": "<s>",
    "do_lower_case": False,
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "replace_word_delimiter_char": " ",
    "tokenizer_class": "Wav2Vec2CTCTokenizer",
    "unk_token": "<unk>",
    "word_delimiter_token": "|",
}


def port_weights(per_channel: bool = False) -> dict[str, torch.Tensor]:
    """Random weights by the port's names, large enough for a model that says something."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator) * 1.5 / math.sqrt(math.prod(shape[1:]))

    def norm(name):
        size = HIDDEN if per_channel else 1
        weight, bias = 1 + 0.1 * random(size), 0.1 * random(size)
        return {f"{name}.weight": weight.expand(HIDDEN).clone(), f"{name}.bias": bias.expand(HIDDEN).clone()}

    encoder = "mctct.encoder"
    weights = {
        f"{encoder}.layer_norm.singleton_weight": torch.tensor([1.2]),
        f"{encoder}.layer_norm.singleton_bias": torch.tensor([0.3]),
        f"{encoder}.conv.conv_layers.0.weight": random(2 * HIDDEN, 80, 7),
        f"{encoder}.conv.conv_layers.0.bias": random(2 * HIDDEN),
        "ctc_head.weight": 3 * random(len(LETTERS), HIDDEN),
        "ctc_head.bias": random(len(LETTERS)),
    }
    for number in range(LAYERS):
        layer = f"{encoder}.layers.{number}"
        for name in ("query", "key", "value"):
            weights[f"{layer}.attention.self.{name}.weight"] = random(HIDDEN, HIDDEN)
        weights[f"{layer}.attention.self.distance_embedding.weight"] = random(2 * REACH - 1, HIDDEN // HEADS)
        weights[f"{layer}.attention.output.dense.weight"] = random(HIDDEN, HIDDEN)
        weights[f"{layer}.intermediate.dense.weight"] = random(24, HIDDEN)
        weights[f"{layer}.output.dense.weight"] = random(HIDDEN, 24)
        weights |= norm(f"{layer}.attention.output.LayerNorm") | norm(f"{layer}.output.LayerNorm")
    mean = original_logits(weights, features_of(sweep(3))).mean(axis=0)
    weights["ctc_head.bias"] -= torch.from_numpy(mean).float()  # so that no class always wins
    weights["ctc_head.bias"][[0, 2]] += 1.5  # and words and an `<unk>` come up soon
    return weights


def original_logits(weights: dict[str, torch.Tensor], features: np.ndarray) -> np.ndarray:
    """What the original computes with these weights, (S, classes) from (T, 80), written down in fp64."""
    w = {name.removeprefix("mctct.encoder."): tensor.double() for name, tensor in weights.items()}
    x = torch.from_numpy(features).double()
    x = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() * w["layer_norm.singleton_weight"]
    x = F.pad((x + w["layer_norm.singleton_bias"]).T, (2, 2) if len(x) % 3 == 0 else (3, 3))
    x = F.conv1d(x, w["conv.conv_layers.0.weight"], w["conv.conv_layers.0.bias"], stride=3)
    x = (x[:HIDDEN] * torch.sigmoid(x[HIDDEN:])).T  # (S, hidden size)
    distances = torch.arange(len(x)) - torch.arange(len(x))[:, None]
    for number in range(LAYERS):

        def of(name, layer=f"layers.{number}."):
            return w[layer + name]

        def norm(x, name):
            return F.layer_norm(x, (HIDDEN,), of(f"{name}.weight"), of(f"{name}.bias"))

        heads = []
        for rows in torch.arange(HIDDEN).split(HIDDEN // HEADS):
            query, key, value = (x @ of(f"attention.self.{name}.weight")[rows].T for name in ("query", "key", "value"))
            query = query / math.sqrt(HIDDEN // HEADS)
            table = of("attention.self.distance_embedding.weight")[(distances + REACH - 1).clamp(0, 2 * REACH - 2)]
            positions = (query[:, None] * table).sum(-1).masked_fill(distances.abs() >= REACH, 0.0)
            heads.append((query @ key.T + positions).softmax(-1) @ value)
        attended = torch.cat(heads, dim=-1) @ of("attention.output.dense.weight").T
        x = norm(attended + x, "attention.output.LayerNorm")
        x = norm(F.relu(x @ of("intermediate.dense.weight").T) @ of("output.dense.weight").T + x, "output.LayerNorm")
    return (x @ w["ctc_head.weight"].T + w["ctc_head.bias"]).numpy()


def save_weights(folder: Path, weights: dict[str, torch.Tensor], form: str) -> None:
    save, name = (torch.save, "pytorch_model.bin") if "bin" in form else (save_file, "model.safetensors")
    if "sharded" not in form:
        save(weights, folder / name)
        return
    stem, suffix = name.split(".")
    names = sorted(weights)
    shards = {f"{stem}-0000{i + 1}-of-00002.{suffix}": names[i::2] for i in range(2)}
    for shard, keys in shards.items():
        save({key: weights[key] for key in keys}, folder / shard)
    index = {"metadata": {}, "weight_map": {key: shard for shard, keys in shards.items() for key in keys}}
    (folder / f"{name}.index.json").write_text(json.dumps(index))


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def save_port(folder: Path, weights=None, form="bin", vocab=None, tokenizer=(), config=(), preprocessor=()) -> Path:
    """A folder as those on the Hub are, with other values here and there."""
    folder.mkdir()
    save_weights(folder, port_weights() if weights is None else weights, form)
    vocab = {letter: index for index, letter in enumerate(LETTERS)} if vocab is None else vocab
    added = {"<s>": len(LETTERS), "</s>": len(LETTERS) + 1}
    special = {name: token for name, token in TOKENIZER.items() if name.endswith("_token") and "delimiter" not in name}
    write_json(folder / "config.json", CONFIG | dict(config))
    write_json(folder / "preprocessor_config.json", PREPROCESSOR | dict(preprocessor))
    write_json(folder / "vocab.json", vocab)
    write_json(folder / "added_tokens.json", added)
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", TOKENIZER | dict(tokenizer))
    return folder


def features_of(samples: np.ndarray) -> np.ndarray:
    return MlplFeatureExtractor()(samples, sampling_rate=RATE)["input_features"][0]
