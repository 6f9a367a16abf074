"""Measures the speed and the memory of training on this machine, by some updates of a run."""

from __future__ import annotations

import copy
import dataclasses
import time
from dataclasses import dataclass

from accelerate.utils import set_seed
from tqdm import tqdm

from ..ctc_models import ctc_interface
from ..data.rows import longest_seconds
from ..data.selection import select_for_training
from ..data.shared_arrays import SharedArrays
from ..data.utterances import read_utterances, speech_totals
from ..hardware import peak_memory
from ..training_config import TrainingConfig
from .estimate import sum_speech
from .loop import train_step
from .model_setup import build_model
from .operations import counted_model, update_flops
from .optimization import freeze, make_accelerator, prepare, recomputes_layers
from .problems import Problems
from .run_data import plan_passes, supervised_updates

WARM_UP = 2  # updates before the measured ones: the first allocate memory and start the loader's processes
UPDATES = 10


@dataclass(frozen=True)
class Measurement:
    """Holds what updates of a run took on this machine.

    Args:
        processes: that trained together.
        seconds: of an update.
        audio_seconds: of the utterances of an update, without padding.
        gigabytes: most memory that a process held at once: of its GPU, or else of the machine.
        flops_per_second: operations per second of all processes, as `estimate` counts them, with the time to read
            audio included.
    """

    processes: int
    seconds: float
    audio_seconds: float
    gigabytes: float | None
    flops_per_second: float

    def __str__(self):
        memory = "" if self.gigabytes is None else f"; {self.gigabytes:.1f} GB of memory in a process"
        return (
            f"{UPDATES} updates with {self.processes} {'process' if self.processes == 1 else 'processes'}: "
            f"{self.seconds:.2f} s each, {self.audio_seconds / self.seconds:.0f} s of speech per second{memory}"
        )


def measure_updates(config: TrainingConfig) -> Measurement:
    """Makes some updates of a run on labelled speech, without writing anything.

    All processes of `accelerate launch` call it together. slimIPL is left out: its updates do the same work, and
    `estimate` adds the work of making labels.

    Raises:
        ValueError, OSError, TrainingError: as `train` does, for settings, data or a model that cannot work, and if
            most utterances cannot be read.
    """
    set_seed(config.seed)
    waveform_augment = config.waveform_augment and dataclasses.replace(config.waveform_augment, start_update=0)
    config = dataclasses.replace(
        config,
        max_updates=WARM_UP + UPDATES,
        waveform_augment=waveform_augment,
        curriculum=None,  # which has utterances of other lengths
    )
    train_set = read_utterances(config.train, [config.language] if config.language else None)
    model, processor = build_model(config, train_set)
    ctc = ctc_interface(model.config, processor)
    freeze(model, ctc, config)
    accelerator = make_accelerator(config, ctc, model)
    train_set, _ = select_for_training(train_set, processor, model.config, config.max_batch_seconds)
    counted = counted_model(copy.deepcopy(model.config), config.model)
    if problem := getattr(counted, "problem", None):
        raise ValueError(problem)
    longest = min(longest_seconds(train_set), config.max_batch_seconds)
    recomputes = recomputes_layers(accelerator, model, config, longest)
    config = dataclasses.replace(config, gradient_checkpointing=recomputes)
    model, optimizer = prepare(accelerator, model, ctc, config, longest)
    plan = plan_passes(train_set, None, config, SharedArrays())["train"]
    updates = supervised_updates(accelerator, model, processor, train_set, plan, config, start=0)
    progress = tqdm(updates, "measured", config.max_updates, unit="update", disable=not accelerator.is_main_process)
    problems = Problems(accelerator, len(train_set), None)
    audio_seconds, start = 0.0, 0.0
    for number, micro_batches in enumerate(progress):
        if number == WARM_UP:
            start = time.perf_counter()
        problems.add(batch for _, batch in micro_batches)
        step = train_step(accelerator, ctc, model, optimizer, micro_batches, config)  # ends with the result of a sum
        audio_seconds += step["audio_seconds"] * (number >= WARM_UP)
    seconds = (time.perf_counter() - start) / UPDATES
    problems.finish(is_whole_run=True)
    flops = update_flops(config, counted, sum_speech(speech_totals(config.train)), counted.layerdrop)
    return Measurement(
        processes=accelerator.num_processes,
        seconds=seconds,
        audio_seconds=audio_seconds / UPDATES,
        gigabytes=None if (peak := peak_memory(accelerator.device)) is None else peak / 1e9,
        flops_per_second=flops / seconds,
    )
