"""Run by a Python that has transformers 4.57.6: small models of the old port, as it saves them, and what it computes.

Arguments: a folder to write to, and a file of arrays: `features_<T>` (1, T, 80), `batch` (B, T, 80) and its `mask`
(B, T), `audio` (N,) at 16 kHz, and `labels` (1, L).
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import (
    MCTCTConfig,
    MCTCTFeatureExtractor,
    MCTCTForCTC,
    MCTCTProcessor,
    Wav2Vec2CTCTokenizer,
    pipeline,
)

LETTERS = ["|", "e", "<unk>", *"abcdfghijklmnopqrstuvwxyz", "ß", "ch", "<pad>"]
SIZES = {
    "vocab_size": len(LETTERS),
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}
NO_DROPOUT = {"conv_dropout": 0.0, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def make_model(per_channel: bool) -> MCTCTForCTC:
    """All parameters are random; those of the layer norms are one number each, or differ from channel to channel."""
    torch.manual_seed(0)
    model = MCTCTForCTC(MCTCTConfig(**SIZES, **NO_DROPOUT)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm" in name or "layer_norm" in name:
                values = torch.randn(parameter.shape if per_channel else 1)
                parameter.copy_(0.3 * values + (1 if name.endswith("weight") else 0))
            else:
                parameter.normal_(0, 1.5 * parameter[0].numel() ** -0.5)
        model.mctct.encoder.layer_norm.singleton_bias.fill_(0.5)
    return model


def make_processor(folder: Path) -> MCTCTProcessor:
    path = folder / "vocab.json"
    path.write_text(json.dumps({letter: index for index, letter in enumerate(LETTERS)}), encoding="utf-8")
    return MCTCTProcessor(MCTCTFeatureExtractor(), Wav2Vec2CTCTokenizer(path, pad_token="<pad>"))


def run(model: MCTCTForCTC, arrays, own_features: np.ndarray) -> dict[str, torch.Tensor]:
    """Logits, (B, S, classes), in evaluation; of `dropped`, in training with all layers skipped; and a loss."""
    inputs = {key: torch.from_numpy(arrays[key]) for key in arrays if key != "audio"}
    long = next(value for key, value in inputs.items() if key.startswith("features"))
    with torch.no_grad():
        outputs = {key: model(value).logits for key, value in inputs.items() if key.startswith("features")}
        outputs["batch"] = model(inputs["batch"], attention_mask=inputs["mask"]).logits
        outputs["own_features"] = model(torch.from_numpy(own_features)).logits
        outputs["loss"] = model(long, labels=inputs["labels"]).loss
        model.config.layerdrop = 1.0
        outputs["dropped"] = model.train()(long).logits
    return outputs


def error_of(function, *arguments, **kwargs) -> str:
    try:
        function(*arguments, **kwargs)
    except AttributeError as error:
        return str(error)
    return ""


def main(folder: Path, inputs: Path) -> None:
    assert transformers.__version__ == "4.57.6"
    arrays = np.load(inputs)
    processor = make_processor(folder)
    extractor, tokenizer = processor.feature_extractor, processor.tokenizer
    own_features = extractor(arrays["audio"], sampling_rate=16000, return_tensors="np")["input_features"]
    np.save(folder / "own_features.npy", own_features)
    for name in ("scalar", "channels"):
        model = make_model(per_channel=name == "channels")
        for form in ("bin", "safetensors"):
            model.save_pretrained(folder / f"{name}-{form}", safe_serialization=form == "safetensors")
            processor.save_pretrained(folder / f"{name}-{form}")
        np.savez(
            folder / f"{name}.npz", **{key: value.numpy() for key, value in run(model, arrays, own_features).items()}
        )

    recognize = pipeline("automatic-speech-recognition", model=str(folder / "scalar-bin"), device="cpu")
    silence = extractor(np.zeros(16000, np.float32), sampling_rate=16000, return_tensors="np")["input_features"]
    ids = [0, 3, 3, 30, 3, 0, 1, 30, 29, 0, 30, 0, 28, 2, 3]
    report = {
        "vocab": tokenizer.get_vocab(),
        "ids": ids,
        "decoded": tokenizer.decode(ids),
        "encoded": tokenizer("bad eich").input_ids,
        "silence_is_nan": bool(np.isnan(silence).all()),
        "chunks": error_of(recognize, arrays["audio"], chunk_length_s=2),
        "timestamps": error_of(recognize, arrays["audio"], return_timestamps="word"),
    }
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
