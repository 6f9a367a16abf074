"""How much of a GPU does the large model use, in bf16 and fp32, to transcribe and to train?

    python benchmarks/bench_gpu.py

Random weights, 1.06 billion parameters, clips of 10 s; features lie on the GPU already. For inference and for
training (forward with CTC and language loss, backward, fused AdamW; bf16 by autocast), eager, and in bf16 also
compiled layer by layer: hours of audio in an hour, share of the GPU's own matrix rate (MFU), and peak memory. The rate
is that of products of 8192 x 8192 matrices of the same precision in the same run; a training step counts three times
the operations of a forward. Last a real job of `hf-mlpl pseudo-label` with this model, from ogg files to labels.

The peer is transformers' old port, where an environment with a GPU build of PyTorch is named by `--port-python`.
Without a GPU it says so, and measures nothing; `--tiny` runs all of it with a tiny model on any device, to see that
it works.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from bench_labelling import write_corpus
from large_model import CLASSES, LANGUAGES, folders, operations
from side_by_side import Worker, benchmark_arguments, print_table, versions, write_results

from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplForCTC, MlplProcessor, MlplTokenizer
from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.model.text import write_tokens

SECONDS, LABELS = 10, 100  # of a clip; graphemes in it


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(step, device: torch.device, rounds: int) -> float:
    """Returns the median over rounds, after three that warm up."""
    times = []
    for number in range(rounds + 3):
        wait(device)
        start = time.perf_counter()
        step()
        wait(device)
        if number >= 3:
            times.append(time.perf_counter() - start)
    return median(times)


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int, rounds: int) -> float:
    """Returns operations in a second of products of square matrices."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: torch.mm(a, b), device, rounds)


def make_step(model: MlplForCTC, mode: str, dtype: torch.dtype, batch_size: int):
    """Returns one forward, or one update, of a batch of clips; `model` is on its device already."""
    device, frames = model.device, 1 + (SECONDS * 16_000 - 400) // 160
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch_size, frames, 80, generator=generator).to(device)
    mask = torch.ones(batch_size, frames, dtype=torch.long, device=device)
    if mode == "inference":
        features = features.to(dtype)

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
        with torch.autocast(device.type, dtype, enabled=dtype == torch.bfloat16):
            loss = model(features, attention_mask=mask, **targets).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return train


def configuration(options: argparse.Namespace) -> MlplConfig:
    return MlplConfig.tiny(30, 2) if options.tiny else MlplConfig.large(CLASSES, LANGUAGES, layerdrop=0.0)


def measure(
    mode: str, dtype: torch.dtype, compiled: bool, options: argparse.Namespace, device: torch.device, rate: float
) -> dict:
    config = configuration(options)
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
    seconds = seconds_of(make_step(model, mode, dtype, batch_size), device, options.rounds)
    return {
        "what": f"{mode}, {'compiled' if compiled else 'eager'}, {name_of(dtype)}",
        "batch_size": batch_size,
        "seconds": seconds,
        "audio_hours_per_hour": SECONDS * batch_size / seconds,
        "mfu": work / seconds / rate,
        "peak_gb": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None,
    }


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def measure_jobs(options: argparse.Namespace) -> list[dict]:
    """Runs label jobs of the command, its start and loading included, with the same files again and again."""
    with TemporaryDirectory() as name:
        folder, config = Path(name), configuration(options)
        write_tokens(folder / "tokens.lst", ["|", *map(chr, range(0x4E00, 0x4E00 + config.vocab_size - 2))])
        torch.manual_seed(0)
        MlplForCTC(config).save_pretrained(folder / "model", max_shard_size="50GB")
        MlplProcessor(MlplFeatureExtractor(), MlplTokenizer(folder / "tokens.lst")).save_pretrained(folder / "model")
        audio_seconds = write_corpus(folder, 4 if options.tiny else 60) * options.repeats
        rows = read_utterances([folder / "data.parquet"]).to_list()
        repeated = (row | {"id": f"{row['id']}, {i}"} for i in range(options.repeats) for row in rows)
        write_utterances(repeated, folder / "all.parquet")
        results = []
        for dtype in ("bfloat16", "float32"):
            command = [sys.executable, "-m", "hf_mlpl", "pseudo-label", "--model", folder / "model", "--dtype", dtype]
            start = time.perf_counter()
            subprocess.run([*command, "--data", folder / "all.parquet", "--output", folder / dtype], check=True)
            seconds = time.perf_counter() - start
            row = {"what": f"label job, {dtype}", "batch_size": len(rows) * options.repeats, "seconds": seconds}
            results.append(row | {"audio_hours_per_hour": audio_seconds / seconds})
    return results


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
    parser.add_argument("--repeats", type=int, default=100, help="of 60 recordings, 7 minutes, in the label jobs")
    parser.add_argument("--eager", action="store_true", help="leave out compiled layers, which take minutes")
    parser.add_argument("--port-python", type=Path, help="a Python with transformers 4.57.6 and PyTorch for the GPU")
    parser.add_argument("--tiny", action="store_true", help="a tiny model on any device; nothing is written")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.tiny:
        print("no GPU here, so there is nothing to measure; --tiny runs the program with a tiny model on the CPU")
        return 0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows, rates = [], {}
    for dtype in (torch.bfloat16, torch.float32):
        rates[dtype] = matrix_rate(device, dtype, 256 if options.tiny else 8192, options.rounds)
        rows.append({"what": f"matrix products, {name_of(dtype)}", "tflops": rates[dtype] / 1e12})
    can_compile = device.type == "cuda" and not options.eager
    for mode in ("inference", "training"):
        for dtype, rate in rates.items():
            for compiled in (False, True) if can_compile and dtype == torch.bfloat16 else (False,):
                rows.append(measure(mode, dtype, compiled, options, device, rate))
                torch._dynamo.reset()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
    ratios = {f"{row['what']}: MFU": row["mfu"] for row in rows if "mfu" in row}
    if options.port_python is not None:
        best = max(row["audio_hours_per_hour"] for row in rows if row["what"].startswith("inference"))
        rows.append(measure_port(options, rates[torch.bfloat16]))
        ratios["inference: time"] = best / rows[-1]["audio_hours_per_hour"]

    def report() -> None:
        if options.tiny:
            print_table(rows)
        else:
            told = {"hf_mlpl": versions() | {"gpu": torch.cuda.get_device_name()}}
            write_results(options.results, "gpu", options.rounds, rows, ratios, told)

    report()  # a limit of time may end the jobs
    rows += measure_jobs(options)
    report()
    return 0


if __name__ == "__main__":
    sys.exit(main())
