"""How fast is the large model on a CPU in fp32, alone and in a batch, and how near to what the processor can do?

    python benchmarks/bench_inference.py

Random weights, 1.06 billion parameters. The peer is transformers' old port, `MCTCTForCTC` with its feature extractor,
the same weights, in an environment of its own. Both get samples and give the likeliest classes: 10 s alone, and a
batch of 16 clips of 2 to 20 s, 178 s, padded by each one's extractor, with a third of the layers and all weights in
memory. Beside them, in turns, the products of the same sizes run without a model: the processor's own rate. Needs
14 GB of memory and 9 GB of disk.
"""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np
from large_model import (
    CLASSES,
    LANGUAGES,
    LAYERS,
    MATRIX_RATE,
    PORT,
    clips,
    folders,
    operations,
    output_frames,
    program,
)
from side_by_side import Worker, benchmark_arguments, in_turns, peer_environment, ratio, versions, write_results


def main() -> None:
    parser = benchmark_arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of 10 s alone; the batch takes a third of them")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    python, (ours, port) = peer_environment("port", PORT), folders()
    from hf_mlpl import MlplConfig

    rows, ratios = [], {}
    with ExitStack() as stack:
        workers = {
            "hf_mlpl": Worker("hf_mlpl", program("hf_mlpl", ours), options.threads),
            "port": Worker("port", program("port", port), options.threads, python),
            "matrix": Worker("matrix", MATRIX_RATE, options.threads),
        }
        for worker in workers.values():
            stack.enter_context(worker)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for what in ("alone", "batch"):
            path, frames = str(folder / f"{what}.npz"), output_frames(what)
            np.savez(path, *clips(what))
            peaks = {}

            def measure(name, request=(path, LAYERS[what]), peaks=peaks):
                told = workers[name].ask(request)
                peaks[name] = told["peak_mb"]
                return told["seconds"]

            # The first round of the alone ones has read all weights.
            measured = in_turns(
                {
                    "hf_mlpl": lambda: measure("hf_mlpl"),
                    "port": lambda: measure("port"),
                    "matrix": lambda frames=frames: workers["matrix"].ask(sum(frames))["answer"],
                },
                rounds=options.rounds if what == "alone" else max(1, options.rounds // 3),
                warm_up=what == "alone",
            )
            work = operations(MlplConfig.large(CLASSES, LANGUAGES, num_hidden_layers=LAYERS[what]), frames)
            for name in ("hf_mlpl", "port"):
                share = median(work / s / r for s, r in zip(measured[name], measured["matrix"], strict=True))
                rows.append(
                    {
                        "what": what,
                        "who": name,
                        "seconds": median(measured[name]),
                        "share_of_matrix_rate": share,
                        "peak_mb": peaks[name],
                    }
                )
            rows.append({"what": what, "who": "matrix products", "gflops": median(measured["matrix"]) / 1e9})
            ratios[f"{what}: time"] = ratio(measured["port"], measured["hf_mlpl"])
            ratios[f"{what}: share of the matrix rate"] = rows[-3]["share_of_matrix_rate"]
            ratios[f"{what}: peak memory"] = peaks["port"] / peaks["hf_mlpl"]
    told = {"hf_mlpl": versions(), "port": versions(("torch", "transformers"), python)}
    write_results(options.results, "inference", options.rounds, rows, ratios, told)


if __name__ == "__main__":
    main()
