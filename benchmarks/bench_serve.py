"""What do a server and its common batches cost and bring? Texts per second of `hf-mlpl serve`, and of the pipeline.

    python benchmarks/bench_serve.py

A model of about 4 million parameters, on one thread, and 32 recordings of 1 to 8 s. One client sends them one after
another; 16 clients send them at once, and the server recognises what waits in common batches. The peer is the pipeline
in a process of its own, which reads the same files: one by one, and in batches of 8. Clients and server share cores.
All texts must be the same.
"""

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from os import environ
from pathlib import Path
from statistics import median
from threading import Thread

import numpy as np
import soundfile
import torch
from huggingface_hub.utils import httpx
from side_by_side import RESULTS, Worker, benchmark_arguments, in_turns, ratio, seconds, versions, write_results

from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplForCTC, MlplProcessor, MlplTokenizer

CLIPS, CLIENTS, RATE = 32, 16, 16_000
SIZES = {"hidden_size": 256, "attention_head_dim": 64, "intermediate_size": 1024, "num_hidden_layers": 4}
PIPELINE = """
import hf_mlpl
from transformers import pipeline
recognize = pipeline("automatic-speech-recognition", model={model!r}, device="cpu")
def answer(request):
    paths, batch_size = request
    if batch_size == 1:
        return [recognize(path)["text"] for path in paths]
    return [result["text"] for result in recognize(paths, batch_size=batch_size)]
"""


def write_model(folder: Path) -> Path:
    (folder / "tokens.lst").write_text("|\n" + "\n".join("abcdefghijklmnopqrstuvwxyz") + "\n", encoding="utf-8")
    processor = MlplProcessor(MlplFeatureExtractor(), MlplTokenizer(folder / "tokens.lst"))
    torch.manual_seed(0)
    MlplForCTC(MlplConfig.tiny(len(processor.tokenizer), ["sl", "de"], **SIZES)).save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return folder / "model"


def write_clips(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [folder / f"{number}.wav" for number in range(CLIPS)]
    for path, length in zip(paths, rng.uniform(1, 8, CLIPS), strict=True):
        soundfile.write(path, 0.1 * rng.standard_normal(round(length * RATE)), RATE)
    return paths


@contextmanager
def running_server(model: Path, threads: int):
    """Yields the address of `hf-mlpl serve`."""
    command = [sys.executable, "-m", "hf_mlpl", "serve", "--model", model, "--name", "bench", "--port", "0"]
    environment = environ | {"PYTHONPATH": str(RESULTS.parents[1]), "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, env=environment)
    try:
        address = process.stdout.readline().split()[-2].rstrip(";")
        Thread(target=process.stdout.read, daemon=True).start()  # else the server would wait for somebody to read
        yield f"{address}/v1/audio/transcriptions"
    finally:
        process.terminate()
        process.communicate()


def main() -> None:
    parser = benchmark_arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model, paths = write_model(folder), write_clips(folder)
        address = stack.enter_context(running_server(model, options.threads))
        peer = stack.enter_context(Worker("pipeline", PIPELINE.format(model=str(model)), options.threads))
        client = stack.enter_context(httpx.Client(timeout=300))
        texts = {}

        def ask(path: Path) -> str:
            with path.open("rb") as file:
                answer = client.post(address, data={"model": "bench"}, files={"file": file})
            answer.raise_for_status()
            return answer.json()["text"]

        def served(clients: int) -> float:
            def ask_all() -> None:
                with ThreadPoolExecutor(clients) as threads:
                    texts[f"{clients} clients"] = list(threads.map(ask, paths))

            return CLIPS / seconds(ask_all)

        def piped(batch_size: int) -> float:
            told = peer.ask([list(map(str, paths)), batch_size])
            texts[f"batches of {batch_size}"] = told["answer"]
            return CLIPS / told["seconds"]

        rates = in_turns(
            {
                "server, 1 client": lambda: served(1),
                f"server, {CLIENTS} clients": lambda: served(CLIENTS),
                "pipeline, one by one": lambda: piped(1),
                "pipeline, batches of 8": lambda: piped(8),
            },
            options.rounds,
        )
    assert len({tuple(of) for of in texts.values()}) == 1, "the texts differ"
    one, many, single, batches = rates.values()
    ratios = {
        "16 clients over 1 client": ratio(many, one),
        "1 client over the pipeline, one by one": ratio(one, single),
        "16 clients over the pipeline, batches of 8": ratio(many, batches),
    }
    rows = [{"who": who, "texts/s": median(of)} for who, of in rates.items()]
    packages = ("starlette", "uvicorn", "python-multipart")
    write_results(options.results, "serve", options.rounds, rows, ratios, {"hf_mlpl": versions(packages)})


if __name__ == "__main__":
    main()
