"""The large model with random weights for the benchmarks of inference: folders, clips, operations, and who runs it."""

import json
from pathlib import Path

import numpy as np
from side_by_side import PEERS

SAMPLING_RATE = 16_000
LAYERS = {"alone": 36, "batch": 12}  # a third of them for the batch, which takes minutes otherwise
PORT = ["torch==2.13.0", "transformers==4.57.6"]
CLASSES, LANGUAGES = 8065, 60


def clips(what: str) -> list[np.ndarray]:
    """`alone`: 10 s of noise; `batch`: 16 clips of 2 to 20 s."""
    rng = np.random.default_rng(0)
    seconds = [10.0] if what == "alone" else rng.uniform(2, 20, 16)
    return [0.1 * rng.standard_normal(int(s * SAMPLING_RATE)).astype(np.float32) for s in seconds]


def output_frames(what: str) -> list[int]:
    return [-(-(1 + (len(clip) - 400) // 160) // 3) for clip in clips(what)]


def operations(config, frames: list[int]) -> int:
    """Of a forward, without padding: two for each product of two numbers. What is not a matrix product is left out."""
    width = config.num_attention_heads * config.attention_head_dim
    layer = 4 * config.hidden_size * width + 2 * config.hidden_size * config.intermediate_size
    front_end = config.conv_kernel * config.num_mel_bins * 2 * config.hidden_size
    of_a_frame = config.num_hidden_layers * layer + front_end + config.hidden_size * config.vocab_size
    # Scores of content and of 2 S distances, and the weighted sum of values.
    attention = config.num_hidden_layers * sum(4 * n * n * width for n in frames)
    return 2 * (sum(frames) * of_a_frame + attention)


def folders() -> tuple[Path, Path]:
    """The same weights as a model of ours and as one of the port, 4.2 GB each, in the user's cache; made once."""
    import torch
    from safetensors.torch import save_file

    from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplForCTC
    from hf_mlpl.atomic import atomic_write
    from hf_mlpl.interop.mctct import MCTCTConfig, name_in_port

    ours, port = PEERS.parent / "bench-large", PEERS.parent / "bench-large-port"
    if ours.exists() and port.exists():
        return ours, port
    torch.manual_seed(0)
    model = MlplForCTC(MlplConfig.large(CLASSES, LANGUAGES)).eval()
    if not ours.exists():
        with atomic_write(ours) as folder:
            model.save_pretrained(folder, max_shard_size="50GB")
            MlplFeatureExtractor().save_pretrained(folder)
    if not port.exists():
        weights = {name_in_port(name): tensor for name, tensor in model.state_dict().items() if "lid" not in name}
        size = model.config.hidden_size
        weights = {name: t.expand(size).clone() if "LayerNorm" in name else t for name, t in weights.items()}
        sizes = {name: value for name, value in model.config.to_dict().items() if name in MCTCTConfig().to_dict()}
        with atomic_write(port) as folder:
            folder.mkdir()
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
            config = sizes | {"model_type": "mctct", "architectures": ["MCTCTForCTC"], "pad_token_id": 1}
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return ours, port


LOAD = {
    "hf_mlpl": """
from hf_mlpl import MlplFeatureExtractor, MlplForCTC
extractor, model = MlplFeatureExtractor(), MlplForCTC.from_pretrained({folder!r}, dtype={dtype!r}).eval()
""",
    "int8": """
from hf_mlpl import MlplFeatureExtractor, MlplForCTC
from hf_mlpl.inference.quantization import quantize
extractor, model = MlplFeatureExtractor(), quantize(MlplForCTC.from_pretrained({folder!r}))
""",
    "port": """
from transformers import MCTCTFeatureExtractor, MCTCTForCTC
extractor, model = MCTCTFeatureExtractor(), MCTCTForCTC.from_pretrained({folder!r}).eval()
""",
}

ANSWER = """
import numpy as np, torch
{load}
@torch.inference_mode()
def answer(request):
    path, num_layers = request
    encoder = model.model if hasattr(model, "model") else model.mctct.encoder
    encoder.layers = encoder.layers[:num_layers]
    clips = list(np.load(path).values())
    arguments = dict(sampling_rate=16000, padding=True, return_tensors="pt", return_attention_mask=True)
    inputs = extractor(clips, **arguments)
    features = inputs["input_features"].to(model.dtype)
    labels = model(features, attention_mask=inputs["attention_mask"]).logits.argmax(-1)
    memory = dict(line.split(":") for line in open("/proc/self/status"))
    return {{"frames": labels.shape[1], "resident_mb": int(memory["VmRSS"].split()[0]) / 1024}}
"""


def program(load: str, folder: Path, dtype: str = "float32") -> str:
    """For a `Worker`: samples in a file to the likeliest classes, features included. A request is the file and the
    number of layers to compute; the others are gone for good."""
    return ANSWER.format(load=LOAD[load].format(folder=str(folder), dtype=dtype))


# The products of a third of the layers and of the CTC head, with as many frames, written where memory is already.
MATRIX_RATE = """
import time, torch
sizes = [(1536, 1536)] * 4 + [(1536, 6144), (6144, 1536)]
weights = [torch.rand(n, k) for _ in range(12) for k, n in sizes] + [torch.rand(8065, 1536)]
def answer(frames):
    inputs = {k: torch.rand(frames, k) for k in (1536, 6144)}
    outputs = {n: torch.zeros(frames, n) for n in (1536, 6144, 8065)}
    start = time.perf_counter()
    for weight in weights:
        torch.mm(inputs[weight.shape[1]], weight.T, out=outputs[weight.shape[0]])
    return 2 * frames * sum(map(torch.numel, weights)) / (time.perf_counter() - start)
"""
