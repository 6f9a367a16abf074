"""How fast are the features? One core, against kaldi-native-fbank on the same samples.

    python benchmarks/bench_features.py

Prints a table and writes benchmarks/results/features.json: medians over alternating runs, and their ratio. The peer
computes 80 log-mel bins of 25 ms windows every 10 ms too, but power instead of magnitude and no normalisation.
"""

import platform
import statistics
import time
from pathlib import Path

import kaldi_native_fbank
import numpy as np
import torch

from hf_mlpl import MlplFeatureExtractor
from hf_mlpl.atomic import write_json

SAMPLING_RATE = 16_000
ROUNDS = 20


def ours(samples: np.ndarray, extractor=MlplFeatureExtractor()) -> np.ndarray:  # noqa: B008 - made once
    return extractor(samples, sampling_rate=SAMPLING_RATE, return_tensors="np")["input_features"][0]


def kaldi(samples: np.ndarray) -> np.ndarray:
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = 80
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(SAMPLING_RATE, samples * 32768)
    fbank.input_finished()
    return np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])


def seconds(function, samples: np.ndarray) -> float:
    start = time.perf_counter()
    function(samples)
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for duration in (2, 10, 60):
        samples = np.random.default_rng(0).standard_normal(duration * SAMPLING_RATE).astype(np.float32) * 0.1
        assert ours(samples).shape == kaldi(samples).shape, "the two must make as many frames"
        pairs = [(seconds(ours, samples), seconds(kaldi, samples)) for _ in range(ROUNDS)]
        row = {
            "audio_seconds": duration,
            "hf_mlpl_ms": 1000 * statistics.median(pair[0] for pair in pairs),
            "kaldi_native_fbank_ms": 1000 * statistics.median(pair[1] for pair in pairs),
            "times_faster": statistics.median(pair[1] / pair[0] for pair in pairs),
        }
        rows.append(row)
        print("  ".join(f"{name} {value:.2f}" for name, value in row.items()))
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    machine = {"processor": platform.machine(), "threads": 1, **versions}
    path = Path(__file__).parent / "results" / "features.json"
    write_json(path, {"machine": machine, "rounds": ROUNDS, "rows": rows})
    print(f"results: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    main()
