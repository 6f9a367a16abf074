"""How much faster are updates if recordings that `waveform_augment` changes in each pass are decoded only once?

    python benchmarks/bench_changed_audio.py

Batches, forward and backward of `MlplConfig.tiny` on one core, on Ogg Opus files of 5 s and 48 kHz, from the second
pass on: with the decoded samples kept (`cache_gigabytes`), and with each recording decoded anew.
"""

import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from side_by_side import benchmark_arguments, print_table, versions, write_results

from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplForCTC, MlplProcessor, MlplTokenizer
from hf_mlpl.data.batches import BatchPlan, SpeechBatches
from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.model.text import build_vocabulary, write_tokens
from hf_mlpl.training_config import WaveformAugmentConfig

ROUNDS = 5
CLIPS, CLIP_SECONDS, BATCH_SECONDS, RATE = 36, 5, 30, 48_000
SENTENCE = "Vsak začetek je težak, pravi pregovor številka {}."
KEPT = {"decoded once": 10**9, "decoded in each pass": 0}


def write_clips(folder: Path) -> None:
    rng, rows = np.random.default_rng(0), []
    for number in range(CLIPS):
        path = folder / f"{number}.ogg"
        soundfile.write(path, 0.1 * rng.standard_normal(RATE * CLIP_SECONDS), RATE, format="OGG", subtype="OPUS")
        whole = dict.fromkeys(("offset", "size", "start", "end")) | {"path": str(path)}
        utterance = {"id": path.stem, "audio": whole, "duration_seconds": CLIP_SECONDS, "language": "sl"}
        rows.append(utterance | {"text": SENTENCE.format(number), "speaker": None, "source": "human"})
    write_utterances(rows, folder / "clips.parquet")
    write_tokens(folder / "tokens.lst", build_vocabulary(row["text"] for row in rows))


def main() -> None:
    options = benchmark_arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_DATASETS_CACHE"] = f"{name}/cache"
        write_clips(folder)
        processor = MlplProcessor(MlplFeatureExtractor(), MlplTokenizer(folder / "tokens.lst"))
        config, dataset = (
            MlplConfig.tiny(len(processor.tokenizer), ["sl"]),
            read_utterances([folder / "clips.parquet"]),
        )
        plan = BatchPlan(np.full(CLIPS, float(CLIP_SECONDS)), BATCH_SECONDS, 0)
        model = MlplForCTC(config).train()
        batches = {
            kept: SpeechBatches(
                dataset, plan, processor, config, True, waveform_augment=WaveformAugmentConfig(), cache_bytes=size
            )
            for kept, size in KEPT.items()
        }
        numbers, seconds = itertools.count(), {kept: [] for kept in KEPT}
        one_pass = CLIPS * CLIP_SECONDS // BATCH_SECONDS
        for done in range(1 + ROUNDS):  # the first fills memory
            chosen = list(itertools.islice(numbers, one_pass))
            for kept, source in batches.items():
                start = time.perf_counter()
                for number in chosen:
                    model(**source[number].inputs(torch.device("cpu"))).loss.backward()
                    model.zero_grad()
                if done:
                    seconds[kept].append(time.perf_counter() - start)
    rows = [
        {"recordings": kept, "audio s/s": CLIPS * CLIP_SECONDS / statistics.median(each)}
        for kept, each in seconds.items()
    ]
    print_table(rows)
    once, always = (statistics.median(each) for each in seconds.values())
    ratios = {"updates of changed audio, decoded once over in each pass": always / once}
    write_results(options.results, "changed_audio", ROUNDS, rows, ratios, {"hf_mlpl": versions(["soundfile"])})


if __name__ == "__main__":
    main()
