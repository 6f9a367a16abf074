"""How much of a GPU does the large model use, in bf16, to transcribe and to train?

    python benchmarks/bench_gpu.py

Random weights, 1.06 billion parameters, clips of 10 s; features lie on the GPU already. For inference and for
training (autocast, forward with CTC and language loss, backward, fused AdamW), eager and compiled layer by layer:
hours of audio in an hour, share of the GPU's own bf16 matrix rate (MFU), and peak memory. The rate is that of
products of 8192 x 8192 matrices in the same run; a training step counts three times the operations of a forward.

The peer is transformers' old port, where an environment with a GPU build of PyTorch is named by `--port-python`.
Without a GPU it says so, and measures nothing; `--tiny` runs all of it with a tiny model on any device, to see that
it works.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import torch
from large_model import CLASSES, LANGUAGES, folders, operations
from side_by_side import Worker, benchmark_arguments, print_table, versions, write_results

from hf_mlpl import MlplConfig, MlplForCTC

SECONDS, LABELS = 10, 100  # of a clip; graphemes in it


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(step, device: torch.device, rounds: int) -> float:
    """Median over rounds, after three that warm up."""
    times = []
    for number in range(rounds + 3):
        wait(device)
        start = time.perf_counter()
        step()
        wait(device)
        if number >= 3:
            times.append(time.perf_counter() - start)
    return median(times)


def matrix_rate(device: torch.device, size: int, rounds: int) -> float:
    """Operations in a second of bf16 products of square matrices."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: torch.mm(a, b), device, rounds)


def make_step(model: MlplForCTC, mode: str, batch_size: int):
    """One forward, or one update, of a batch of clips; `model` is on its device already."""
    device, frames = model.device, 1 + (SECONDS * 16_000 - 400) // 160
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch_size, frames, 80, generator=generator).to(device)
    mask = torch.ones(batch_size, frames, dtype=torch.long, device=device)
    if mode == "inference":
        features = features.bfloat16()

        def infer():
            with torch.inference_mode():
                return model(features, attention_mask=mask).logits.argmax(-1)

        return infer
    targets = {
        "labels": torch.randint(0, model.config.blank_token_id, (batch_size, LABELS), generator=generator).to(device),
        "language_ids": torch.zeros(batch_size, dtype=torch.long, device=device),
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def train():
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(features, attention_mask=mask, **targets).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return train


def measure(mode: str, compiled: bool, options: argparse.Namespace, device: torch.device, rate: float) -> dict:
    config = MlplConfig.tiny(30, 2) if options.tiny else MlplConfig.large(CLASSES, LANGUAGES, layerdrop=0.0)
    dtype = torch.bfloat16 if mode == "inference" else torch.float32
    with device:
        model = MlplForCTC(config)
    model = model.to(dtype).eval() if mode == "inference" else model.train()
    if compiled:
        for layer in model.model.layers:
            layer.compile(dynamic=False)
    batch_size = options.batch_size if mode == "inference" else options.train_batch_size
    frames = config.num_output_frames(1 + (SECONDS * 16_000 - 400) // 160)
    work = operations(config, [frames] * batch_size) * (1 if mode == "inference" else 3)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = seconds_of(make_step(model, mode, batch_size), device, options.rounds)
    return {
        "what": f"{mode}, {'compiled' if compiled else 'eager'}",
        "batch_size": batch_size,
        "seconds": seconds,
        "audio_hours_per_hour": SECONDS * batch_size / seconds,
        "mfu": work / seconds / rate,
        "peak_gb": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None,
    }


PORT = """
import time, torch
from transformers import MCTCTForCTC
model = MCTCTForCTC.from_pretrained({folder!r}, torch_dtype=torch.bfloat16).eval().cuda()
def answer(request):
    features = torch.randn(request["batch_size"], 998, 80, device="cuda", dtype=torch.bfloat16)
    times = []
    with torch.inference_mode():
        for number in range(request["rounds"] + 3):
            torch.cuda.synchronize()
            start = time.perf_counter()
            model(features).logits.argmax(-1)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return [sorted(times[3:])[request["rounds"] // 2], torch.cuda.max_memory_allocated() / 2**30]
"""


def measure_port(options: argparse.Namespace, rate: float) -> dict:
    request = {"batch_size": options.batch_size, "rounds": options.rounds}
    with Worker("port", PORT.format(folder=str(folders()[1])), 2, options.port_python) as worker:
        seconds, peak_gb = worker.ask(request)["answer"]
    work = operations(MlplConfig.large(CLASSES, LANGUAGES), [333] * options.batch_size)
    row = {"what": "inference, port", "batch_size": options.batch_size, "seconds": seconds}
    per_hour = SECONDS * options.batch_size / seconds
    return row | {"audio_hours_per_hour": per_hour, "mfu": work / seconds / rate, "peak_gb": peak_gb}


def main() -> int:
    parser = benchmark_arguments(__doc__)
    parser.add_argument("--batch-size", type=int, default=32, help="clips of 10 s in a forward")
    parser.add_argument("--train-batch-size", type=int, default=16, help="clips of 10 s in an update")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--port-python", type=Path, help="a Python with transformers 4.57.6 and PyTorch for the GPU")
    parser.add_argument("--tiny", action="store_true", help="a tiny model on any device; nothing is written")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.tiny:
        print("no GPU here, so there is nothing to measure; --tiny runs the program with a tiny model on the CPU")
        return 0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rate = matrix_rate(device, 256 if options.tiny else 8192, options.rounds)
    rows = [{"what": "matrix products", "tflops": rate / 1e12}]
    for mode in ("inference", "training"):
        for compiled in (False, True) if device.type == "cuda" else (False,):
            rows.append(measure(mode, compiled, options, device, rate))
            torch._dynamo.reset()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    if options.port_python is not None:
        rows.append(measure_port(options, rate))
    if options.tiny:
        print_table(rows)
        return 0
    ratios = {f"{row['what']}: MFU": row["mfu"] for row in rows[1:] if "port" not in row["what"]}
    if options.port_python is not None:
        best = max(row["audio_hours_per_hour"] for row in rows[1:-1] if row["what"].startswith("inference"))
        ratios["inference: time"] = best / rows[-1]["audio_hours_per_hour"]
    told = {"hf_mlpl": versions() | {"gpu": torch.cuda.get_device_name()}}
    write_results(options.results, "gpu", options.rounds, rows, ratios, told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
