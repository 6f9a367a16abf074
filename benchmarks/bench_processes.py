"""What does a second process bring? Updates of training, and labelling, through the recipes, of one thread each.

    python benchmarks/bench_processes.py

A model of about 8 million parameters on mp3 clips of 5 s. Training: audio seconds per second as the run's own
metrics.jsonl has them, the first window left out; an update has two micro-batches in both cases, so one for each of
two processes. Labelling: the time of all clips, twice, less that of few, so that what starting takes does not count.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from bench_batches import BATCH_SECONDS, CLIP_SECONDS, CLIPS, write_clips
from side_by_side import benchmark_arguments, in_turns, ratio, seconds, versions, write_results

from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplForCTC, MlplProcessor, MlplTokenizer
from hf_mlpl.data.utterances import read_utterances, write_utterances

ROUNDS, UPDATES, FEW, TIMES = 2, 8, 20, 2
ROOT = Path(__file__).resolve().parents[1]
SIZES = {"hidden_size": 256, "attention_head_dim": 64, "intermediate_size": 1024, "num_hidden_layers": 8}


def launch(processes: int, recipe: str, *arguments) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_cpu_threads_per_process", "1"]
    command += ["--config_file", ROOT / "recipes/accelerate" / ("cpu.yaml" if processes == 1 else "multi_cpu.yaml")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    told = subprocess.run(
        [*command, ROOT / "recipes" / recipe, *arguments], env=environment, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr


def training(folder: Path, processes: int) -> float:
    """Audio seconds per second."""
    with tempfile.TemporaryDirectory(dir=folder) as output:
        settings = {
            "output_dir": output,
            "model": "tiny",
            "model_fields": json.dumps(SIZES),
            "tokens": folder / "tokens.lst",
            "train": f"[{folder / 'clips.parquet'}]",
            "max_updates": UPDATES,
            "max_batch_seconds": BATCH_SECONDS,
            "micro_batches_per_update": 2,
            "log_every": UPDATES // 4,
            "num_workers": 0,
        }
        (folder / "empty.yaml").write_text("{}", encoding="utf-8")
        launch(processes, "train.py", folder / "empty.yaml", *(f"{name}={value}" for name, value in settings.items()))
        lines = (Path(output) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    windows = [json.loads(line).get("audio_seconds_per_second") for line in lines]
    return statistics.median([rate for rate in windows if rate is not None][1:])


def labelling(folder: Path, processes: int) -> float:
    """Audio seconds per second."""

    def label(data: str) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as output:
            what = ("--model", folder / "model", "--data", folder / data, "--output", output)
            launch(processes, "pseudo_label.py", *what, "--batch-seconds", str(BATCH_SECONDS), "--num-workers", "0")

    many = TIMES * CLIPS - FEW
    return many * CLIP_SECONDS / (seconds(label, "many.parquet") - seconds(label, "few.parquet"))


def main() -> None:
    options = benchmark_arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        write_clips(folder)
        clips = list(read_utterances([folder / "clips.parquet"]))
        write_utterances(clips[:FEW], folder / "few.parquet")
        many = (clip | {"id": f"{clip['id']} {time}"} for clip in clips for time in range(TIMES))
        write_utterances(many, folder / "many.parquet")
        processor = MlplProcessor(MlplFeatureExtractor(), MlplTokenizer(folder / "tokens.lst"))
        torch.manual_seed(0)
        model = MlplForCTC(MlplConfig.tiny(len(processor.tokenizer), ["sl"], **SIZES))
        model.save_pretrained(folder / "model")
        processor.save_pretrained(folder / "model")
        rates = {
            what.__name__: in_turns({n: partial(what, folder, n) for n in (1, 2)}, ROUNDS, warm_up=False)
            for what in (training, labelling)
        }
    rows = [
        {"what": what, "processes": number, "audio s/s": statistics.median(of[number])}
        for what, of in rates.items()
        for number in of
    ]
    ratios = {f"{what}, two processes over one": ratio(of[2], of[1]) for what, of in rates.items()}
    write_results(options.results, "processes", ROUNDS, rows, ratios, {"hf_mlpl": versions(["accelerate"])})


if __name__ == "__main__":
    main()
