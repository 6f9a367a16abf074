"""What do int8 weights give on a CPU, and what do they cost a trained model?

    make demo
    python benchmarks/bench_int8.py --demo runs/demo

The large model with random weights, fp32 against `quantize` and against weights in bfloat16, in turns, on the clips
of bench_inference.py: 10 s alone, and 16 clips of 2 to 20 s, with a third of the layers. On this processor as it is,
and on what its libraries take for one with AVX2 alone (x86-64 only). Then the demo's model transcribes its test set
with both, for the character error rate. Needs 10 GB of memory and 9 GB of disk.
"""

import platform
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np
from large_model import LAYERS, clips, folders, program
from side_by_side import Worker, benchmark_arguments, in_turns, ratio, versions, write_results

AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}


def times(processor: str, variables: dict, rounds: int, threads: int) -> tuple[list[dict], dict[str, float]]:
    folder, _ = folders()
    programs = {"fp32": program("hf_mlpl", folder), "int8": program("int8", folder)}
    if not variables:
        programs["bf16"] = program("hf_mlpl", folder, "bfloat16")
    rows, ratios = [], {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers = {
            name: stack.enter_context(Worker(name, text, threads, variables=variables))
            for name, text in programs.items()
        }
        for what, layers in LAYERS.items():
            path, told = folder / f"{what}.npz", {}
            np.savez(path, *clips(what))

            def measure(name: str, request=(str(path), layers), told=told) -> float:
                told[name] = workers[name].ask(request)
                return told[name]["seconds"]

            alone = what == "alone"  # whose first round has read all weights
            candidates = {name: lambda name=name, measure=measure: measure(name) for name in workers}
            measured = in_turns(candidates, rounds if alone else max(1, rounds // 3), warm_up=alone)
            for name in workers:
                memory = told[name]["answer"]["resident_mb"]
                row = {"processor": processor, "what": what, "weights": name, "seconds": median(measured[name])}
                rows.append(row | {"memory_mb": memory, "peak_mb": told[name]["peak_mb"]})
                if name != "fp32":
                    ratios[f"{processor}, {what}: {name}, time"] = ratio(measured["fp32"], measured[name])
                    if alone:  # later, what the other layers held is still there
                        ratios[f"{processor}: {name}, memory"] = told["fp32"]["answer"]["resident_mb"] / memory
    return rows, ratios


def error_rates(demo: Path) -> list[dict]:
    """Of the demo's final model on its test set, and how many texts differ."""
    from old_port import cer

    from hf_mlpl import MlplForCTC, MlplProcessor
    from hf_mlpl.data.utterances import read_utterances
    from hf_mlpl.inference.decoding import transcribe
    from hf_mlpl.inference.quantization import quantize

    folder, dataset = demo / "final" / "model", read_utterances([demo / "data" / "test.parquet"])
    model, processor = MlplForCTC.from_pretrained(folder), MlplProcessor.from_pretrained(folder)
    texts = {}
    for name in ("fp32", "int8"):
        model = quantize(model) if name == "int8" else model
        texts[name] = {h.row: h.text for h in transcribe(model, processor, dataset, max_batch_seconds=60)}
    references = dataset["text"][:]
    return [
        {
            "demo's model": name,
            "cer": cer([texts[name][i] for i in range(len(references))], references),
            "texts": len(references),
            "texts that differ from fp32's": sum(texts[name][i] != texts["fp32"][i] for i in texts["fp32"]),
        }
        for name in texts
    ]


def main() -> None:
    parser = benchmark_arguments(__doc__)
    parser.add_argument("--demo", type=Path, help="what `make demo` has written")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    rows, ratios = times("as it is", {}, options.rounds, options.threads)
    if platform.machine() in ("x86_64", "AMD64"):
        more = times("AVX2", AVX2, options.rounds, options.threads)
        rows, ratios = rows + more[0], ratios | more[1]
    if options.demo is not None:
        rows += error_rates(options.demo)
    write_results(options.results, "int8", options.rounds, rows, ratios, {"hf_mlpl": versions()})


if __name__ == "__main__":
    main()
