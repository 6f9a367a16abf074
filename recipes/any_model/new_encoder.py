"""Writes a small encoder with random weights, as transformers saves one, for `demo.sh`.

python recipes/any_model/new_encoder.py conformer runs/any_model/conformer
"""

import sys

import torch
from transformers import (
    AutoModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
)

KINDS = {
    "conformer": (
        Wav2Vec2BertConfig(
            hidden_size=128,
            num_hidden_layers=5,
            num_attention_heads=4,
            intermediate_size=512,
            conv_depthwise_kernel_size=15,
        ),
        SeamlessM4TFeatureExtractor(),
    ),
    "wav2vec2": (  # with three convolutions instead of seven, and a frame each 30 ms, as our model has it
        Wav2Vec2Config(
            hidden_size=160,
            num_hidden_layers=5,
            num_attention_heads=4,
            intermediate_size=640,
            conv_dim=(32, 96, 160),
            conv_kernel=(20, 12, 10),
            conv_stride=(10, 8, 6),
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            num_conv_pos_embeddings=31,
        ),
        Wav2Vec2FeatureExtractor(return_attention_mask=True),
    ),
}
DROPOUTS = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout")

kind, folder = sys.argv[1:]
config, extractor = KINDS[kind]
config.update(dict.fromkeys(DROPOUTS, 0.0) | {"layerdrop": 0.0})  # as in our model of this size
torch.manual_seed(0)
model = AutoModel.from_config(config)
model.save_pretrained(folder)
extractor.save_pretrained(folder)
print(f"{folder}: {model.num_parameters() / 1e6:.1f} million parameters")
