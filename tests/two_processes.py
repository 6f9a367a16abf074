"""Runs, in one launch of two processes, all that tests of training and of pseudo-labels need from two processes.

SETTINGS.yaml TEACHER UNLABELLED.parquet OUTPUT -> OUTPUT/run, OUTPUT/slimipl, OUTPUT/tones, OUTPUT/gradients-RANK.pt,
OUTPUT/results.json, OUTPUT/labels, and ends with an error of both processes
"""

import sys
from pathlib import Path

import pytest
from accelerate import Accelerator

from hf_mlpl import MlplForCTC, MlplProcessor
from hf_mlpl.atomic import write_json
from hf_mlpl.cli.errors import exit_status
from hf_mlpl.data.utterances import read_utterances
from hf_mlpl.evaluation.scoring import evaluate_model
from hf_mlpl.inference import hearing
from hf_mlpl.labels import labelling
from hf_mlpl.training.loop import train
from hf_mlpl.training_config import load_config

# A run of one process with these settings differs only in the distribution of its micro-batches.
OVERRIDES = ["max_updates=8", "micro_batches_per_update=3", "eval_every=8", "curriculum={updates: 3, share: 0.4}"]


def slimipl_overrides(teacher: Path, unlabelled: Path) -> list[str]:
    """Returns settings with which two updates fill the cache, and others train on labels of either process."""
    slimipl = "{start_update: 2, cache_size: 8, cache_update_probability: 0.5, unsupervised_updates: 4"
    slimipl += ", dynamic_dropout: 0.4"  # also LayerDrop, which the model does not have before
    slimipl += ", first_label_share: 0.8, prior_strength: 1.0, choose_hearing: true}"
    settings = [
        "micro_batches_per_update=4",
        f"model={teacher}",
        "model_fields={layerdrop: 0.0}",
        "tokens=null",
        f"unlabelled=[{unlabelled}]",
        f"slimipl={slimipl}",
    ]
    return [*OVERRIDES, *settings, "max_updates=12", "save_every=6", "learning_rate=1e-3", "max_batch_seconds=2"]


SHARD_SIZE = 5  # utterances: several shards for each process

if __name__ == "__main__":
    from gradients import exchange  # beside this script
    from tones import without_pictures

    settings, teacher, unlabelled, output = map(Path, sys.argv[1:])
    without_pictures(pytest.MonkeyPatch())
    train(load_config(settings, [f"output_dir={output / 'run'}", *OVERRIDES]))
    train(load_config(settings, [f"output_dir={output / 'slimipl'}", *slimipl_overrides(teacher, unlabelled)]))
    hearing.HEARINGS = hearing.HEARINGS[-1:]  # matched speakers and noise
    train(load_config(settings, [f"output_dir={output / 'heard'}", *slimipl_overrides(teacher, unlabelled)]))

    train(load_config(settings, [f"output_dir={output / 'tones'}", "dev=[]"]))
    exchange(settings, output)

    recognizer = Accelerator(cpu=True), MlplForCTC.from_pretrained(teacher), MlplProcessor.from_pretrained(teacher)
    dev, transcripts = read_utterances([settings.with_name("dev.parquet")]), output / "results.hypotheses.parquet"
    results = evaluate_model(*recognizer, dev, 2.0, hypotheses_file=transcripts, with_speed=True)
    if results is not None:  # in the main process
        write_json(output / "results.json", results)

    labelling.SHARD_SIZE = SHARD_SIZE
    labelling.pseudo_label(
        *recognizer,
        read_utterances([unlabelled]),
        output / "labels",
        teacher="teacher@1",
        max_batch_seconds=3.0,
    )
    recognizer[0].wait_for_everyone()  # the progress bar of the process that does not join the labels has ended
    sys.exit(exit_status(lambda: load_config(settings, ["max_updats=1"])))
