"""How much Python stands between the forwards of a labelling job, for each segment?

    python benchmarks/bench_label_series.py

Prints a table and writes label_series.json: CPU milliseconds of the main thread for each segment, without those of
forwards, which a GPU would compute meanwhile. In one way each shard has a loader of its own, and the main thread makes
texts, rows and files; in the other one loader serves the job, and threads make them beside the next forward. One
worker, a tiny model with random weights, 1,000 segments of 1 to 3 s in shards of 250; the labels are the same.
"""

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
import torch
from accelerate import Accelerator
from side_by_side import benchmark_arguments, ratio, versions, write_results

from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplForCTC, MlplProcessor, MlplTokenizer
from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.inference import decoding
from hf_mlpl.labels import labelling
from hf_mlpl.model.text import write_tokens

SEGMENTS, SHARD_SIZE, ROUNDS = 1000, 250, 3


def write_segments(folder: Path) -> None:
    rng, rows, start = np.random.default_rng(0), [], 0.0
    for number, seconds in enumerate(rng.uniform(1, 3, SEGMENTS).tolist()):
        audio = {
            "path": str(folder / "talk.wav"),
            "offset": None,
            "size": None,
            "start": start,
            "end": start + seconds,
        }
        row = {"id": str(number), "audio": audio, "duration_seconds": seconds, "language": "language_0"}
        rows.append(row | dict.fromkeys(["text", "speaker", "source"]))
        start += seconds
    soundfile.write(folder / "talk.wav", rng.normal(0, 0.1, round(16_000 * (start + 1))), 16_000)
    write_utterances(rows, folder / "data.parquet")


def main() -> None:
    options = benchmark_arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    labelling.SHARD_SIZE = labelling.SMALL_SHARD_SIZE = SHARD_SIZE
    best_paths, streams = (
        decoding.best_paths,
        {"a loader for each shard": lambda *_: None, "one": labelling.shard_stream},
    )
    forwards = [0.0]

    def timed(*arguments):
        start = time.thread_time()
        result = best_paths(*arguments)
        forwards[0] += time.thread_time() - start
        return result

    decoding.best_paths = timed
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_segments(folder)
        model = MlplForCTC(MlplConfig.tiny(400, 60))
        write_tokens(folder / "a.lst", ["|", *map(chr, range(0x4E00, 0x4E00 + model.config.vocab_size - 2))])
        processor = MlplProcessor(MlplFeatureExtractor(), MlplTokenizer(folder / "a.lst"))
        dataset = read_utterances([folder / "data.parquet"])
        measured: dict[str, list[float]] = {way: [] for way in streams}
        for number in range(ROUNDS):
            for way, labelling.shard_stream in streams.items():
                forwards[0], start, output = 0.0, time.thread_time(), folder / f"{way} {number}"
                given = Accelerator(cpu=True), model, processor, dataset, output, "teacher"
                labelling.pseudo_label(*given, num_workers=1)
                measured[way].append(1000 * (time.thread_time() - start - forwards[0]) / SEGMENTS)
        made = [(folder / f"{way} 0" / "labels.parquet").read_bytes() for way in streams]
        assert made[0] == made[1]
    rows = [{"way": way, "ms a segment": round(statistics.median(each), 3)} for way, each in measured.items()]
    ratios = {"less Python in series": ratio(*measured.values())}
    write_results(options.results, "label_series", ROUNDS, rows, ratios, {"hf_mlpl": versions(["datasets"])})


if __name__ == "__main__":
    main()
