"""A tiny random model that says something, and a sound to which it says different things."""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplForCTC, MlplProcessor, MlplTokenizer

RATE = 16000
LANGUAGES = ["de", "sl", "sv-SE"]
SIZES = {"hidden_size": 32, "num_attention_heads": 2, "attention_head_dim": 16, "intermediate_size": 64}


def sweep(seconds, rate=RATE):
    """Tones that rise and fall, so that a random model says something."""
    t = np.arange(round(seconds * rate)) / rate
    envelope = 0.2 * (1 + np.sin(2 * np.pi * 3 * t))
    return (envelope * np.sin(2 * np.pi * (300 + 900 * np.sin(1.7 * t) ** 2) * t)).astype(np.float32)


def save_folder(path: Path, languages) -> Path:
    tokens = path.with_suffix(".lst")
    tokens.write_text("|\n" + "\n".join("abcdefghijklmno") + "\n")
    torch.manual_seed(0)
    model = MlplForCTC(MlplConfig.tiny(17, languages, num_hidden_layers=2, **SIZES))
    with torch.no_grad():  # random weights alone would say the same letter all the time
        model.ctc_head.weight *= 20
        if model.lid_head is not None:
            model.lid_head.weight *= 5
    model.save_pretrained(path)
    MlplProcessor(MlplFeatureExtractor(), MlplTokenizer(tokens)).save_pretrained(path)
    return path


def save_folder_with_characters(path: Path) -> Path:
    """Writes a model whose tokenizer knows the characters of de and sv-SE."""
    folder = save_folder(path, LANGUAGES)
    tokenizer = MlplTokenizer.from_pretrained(folder)
    tokenizer.learn_language_characters({"de": ["abcdefg"], "sv-SE": ["hijklmno"]})
    tokenizer.save_pretrained(folder)
    return folder


def save_wav2vec2_folder(path: Path) -> Path:
    """Writes a model of transformers, to compare with."""
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_stride=(10, 32),
        conv_kernel=(10, 32),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    model = Wav2Vec2ForCTC(config)
    model.lm_head.weight.data *= 50
    model.save_pretrained(path)
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "a": 5, "b": 6, "c": 7}
    (path / "vocab.json").write_text(json.dumps(vocabulary))
    Wav2Vec2CTCTokenizer(path / "vocab.json").save_pretrained(path)
    Wav2Vec2FeatureExtractor().save_pretrained(path)
    return path
