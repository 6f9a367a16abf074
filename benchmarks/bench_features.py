"""How fast are the features? One core, against transformers' old extractor and kaldi-native-fbank.

    python benchmarks/bench_features.py

Prints a table and writes features.json: medians over rounds in turns, and ratios. `MCTCTFeatureExtractor` was the
extractor of the same model in transformers until 4.57; it runs in an environment of its own, which the script makes
once with pip. kaldi-native-fbank computes 80 log-mel bins of 25 ms windows every 10 ms too, but power instead of
magnitude and no normalisation. All get the same samples, and make as many frames of them.
"""

import statistics
from contextlib import ExitStack

from side_by_side import Worker, benchmark_arguments, in_turns, peer_environment, ratio, versions, write_results

ROUNDS = 20
PORT_PACKAGES = ["torch==2.13.0", "transformers==4.57.6"]
KALDI_PACKAGES = ["kaldi-native-fbank==1.23.0", "numpy"]
WORK = {  # name -> seconds of each clip of a call, and calls in a round
    "2 s": ([2], 20),
    "10 s": ([10], 5),
    "60 s": ([60], 1),
    "16 clips of 2-20 s": ([2 + 1.2 * number for number in range(16)], 1),
}

# Of each, `features` makes the features of a list of clips. An answer is the number of frames of a call.
PROGRAM = """
import numpy as np
{features}
def answer(request):
    lengths, calls = request
    clips = [np.random.default_rng(n).standard_normal(n, dtype=np.float32) * 0.1 for n in lengths]
    started = time.perf_counter()
    for _ in range(calls):
        frames = features(clips)
    return (time.perf_counter() - started) / calls, frames
"""
OURS = """
import torch; torch.set_num_threads(1)
from hf_mlpl import MlplFeatureExtractor
extractor = MlplFeatureExtractor()
def features(clips):
    return int(extractor(clips, sampling_rate=16000, return_tensors="pt")["attention_mask"].sum())
"""
PORT = """
import torch; torch.set_num_threads(1)
from transformers import MCTCTFeatureExtractor
extractor = MCTCTFeatureExtractor()
def features(clips):
    made = extractor(clips, sampling_rate=16000, padding=True, return_attention_mask=True, return_tensors="pt")
    return int(made["attention_mask"].sum())
"""
KALDI = """
import kaldi_native_fbank
options = kaldi_native_fbank.FbankOptions()
options.frame_opts.dither = 0
options.mel_opts.num_bins = 80
def features(clips):
    total = 0
    for samples in clips:
        fbank = kaldi_native_fbank.OnlineFbank(options)
        fbank.accept_waveform(16000, samples * 32768)
        fbank.input_finished()
        total += len(np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)]))
    return total
"""


def main() -> None:
    arguments = benchmark_arguments(__doc__).parse_args()
    port, kaldi = peer_environment("port", PORT_PACKAGES), peer_environment("kaldi", KALDI_PACKAGES)
    programs = {"hf_mlpl": (OURS, None), "MCTCTFeatureExtractor": (PORT, port), "kaldi-native-fbank": (KALDI, kaldi)}
    rows, ratios = [], {}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(name, PROGRAM.format(features=program), 1, python))
            for name, (program, python) in programs.items()
        }
        for what, (lengths, calls) in WORK.items():
            request = [[round(16_000 * seconds) for seconds in lengths], calls]
            frames = {}

            def measure(name, worker, request=request, frames=frames) -> float:
                taken, frames[name] = worker.ask(request)["answer"]
                return taken

            candidates = {name: lambda n=name, w=worker: measure(n, w) for name, worker in workers.items()}
            measured = in_turns(candidates, ROUNDS)
            if len(set(frames.values())) > 1:
                raise RuntimeError(f"{what}: they must make as many frames, but make {frames}")
            row = {"audio": what, "frames": frames["hf_mlpl"]}
            rows.append(row | {f"{name} ms": 1000 * statistics.median(measured[name]) for name in workers})
            for peer in list(workers)[1:]:
                ratios[f"{what}: times as fast as {peer}"] = ratio(measured[peer], measured["hf_mlpl"])
    all_versions = {"hf_mlpl": versions()}
    all_versions["MCTCTFeatureExtractor"] = versions(["torch", "transformers", "numpy"], port)
    all_versions["kaldi-native-fbank"] = versions(["kaldi-native-fbank", "numpy"], kaldi)
    write_results(arguments.results, "features", ROUNDS, rows, ratios, all_versions)


if __name__ == "__main__":
    main()
