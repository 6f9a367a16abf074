"""Computes the gradients of an update in two processes, for tests of how they are exchanged."""

import copy
import dataclasses
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

from hf_mlpl.ctc_models import ctc_interface
from hf_mlpl.data.batches import SpeechBatches
from hf_mlpl.data.utterances import read_utterances
from hf_mlpl.training.loop import train_step
from hf_mlpl.training.model_setup import build_model
from hf_mlpl.training.optimization import make_accelerator, prepare
from hf_mlpl.training_config import load_config

SHARES = ([[28, 29, 30], [31]], [[32, 33, 34]])  # rows of the micro-batches of each process
STILL = [f"model_fields.{name}=0" for name in ("conv_dropout", "attention_dropout", "activation_dropout", "layerdrop")]


def build(settings: Path):
    """Returns settings, model and micro-batches of each process; nothing is random."""
    config = load_config(settings, [*STILL, "max_grad_norm=1e9", "micro_batches_per_update=3"])
    train_set = read_utterances(config.train)
    torch.manual_seed(0)
    model, processor = build_model(config, train_set)
    ctc = ctc_interface(model.config, processor)
    batches = [SpeechBatches(train_set, plan, processor, model.config, with_labels=True) for plan in SHARES]
    shares = [[(number, each[number]) for number in range(len(each.plan))] for each in batches]
    return config, ctc, model, shares


class Kept:
    """Keeps the gradients of an update instead of using them."""

    def __init__(self, model):
        self.model, self.gradients = model, {}

    def step(self):
        named = self.model.named_parameters()
        self.gradients = {name.removeprefix("module."): p.grad.clone() for name, p in named}

    def zero_grad(self):
        self.model.zero_grad()


def exchange(settings: Path, folder: Path) -> None:
    """Writes the gradients of this process, in fp32 and in bfloat16, to `gradients-RANK.pt` of a folder."""
    config, ctc, new_model, shares = build(settings)
    results = {}
    for is_bf16 in (False, True):
        config = dataclasses.replace(config, bf16_gradients=is_bf16)
        AcceleratorState._reset_state()
        accelerator = make_accelerator(config, ctc, new_model)
        model, _ = prepare(accelerator, copy.deepcopy(new_model), ctc, config, longest=1.0)
        kept = Kept(model)
        train_step(accelerator, ctc, model, kept, shares[accelerator.process_index], config)
        results[is_bf16] = kept.gradients
    torch.save(results, folder / f"gradients-{accelerator.process_index}.pt")
