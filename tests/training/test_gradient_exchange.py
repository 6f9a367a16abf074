"""Exchanges gradients between two processes over gloo, in fp32 and in bfloat16, and holds them to exact bounds."""

import copy
import dataclasses
import os
import socket

import torch
from accelerate.state import AcceleratorState

from hf_mlpl.ctc_models import ctc_interface
from hf_mlpl.data.batches import SpeechBatches
from hf_mlpl.data.utterances import read_utterances
from hf_mlpl.main_process import job_state
from hf_mlpl.training.loop import train_step
from hf_mlpl.training.model_setup import build_model
from hf_mlpl.training.optimization import fsdp_problem, make_accelerator, prepare
from hf_mlpl.training_config import TrainingConfig, load_config

from ..quick_python import start

SHARES = ([[28, 29, 30], [31]], [[32, 33, 34]])  # rows of the micro-batches of each process
ROUNDOFF = 2.0**-8  # of bfloat16, which has 8 significant bits
STILL = [f"model_fields.{name}=0" for name in ("conv_dropout", "attention_dropout", "activation_dropout", "layerdrop")]


def build(settings):
    """Returns settings, model and micro-batches of each process; nothing is random."""
    torch.set_num_threads(1)
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


def exchange(rank: int, port: int, folder, settings) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    job_state()  # as `train` does first
    config, ctc, new_model, shares = build(settings)
    results = {}
    for is_bf16 in (False, True):
        config = dataclasses.replace(config, bf16_gradients=is_bf16)
        AcceleratorState._reset_state()
        accelerator = make_accelerator(config, ctc, new_model)
        model, _ = prepare(accelerator, copy.deepcopy(new_model), ctc, config)
        kept = Kept(model)
        train_step(accelerator, ctc, model, kept, shares[rank], config)
        results[is_bf16] = kept.gradients
    torch.save(results, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_gradients_in_bfloat16_are_off_by_their_rounding_alone(tone_data, tmp_path, one_thread):
    """Without the setting they have the bits of the sum. With it, each share is rounded once, and then their sum."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = tone_data / "tones.yaml"
    processes = [start(exchange, rank, port, tmp_path, settings) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    _, ctc, model, shares = build(settings)
    num_utterances = sum(len(rows) for share in SHARES for rows in share)
    alone = []
    for share in shares:
        model.zero_grad()
        for _, batch in share:
            ctc.loss(model.train(), **batch.inputs(torch.device("cpu")), num_utterances=num_utterances).backward()
        alone.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    num_rounded = 0
    for name, first in alone[0].items():
        second = alone[1][name]
        bound = 2 * (1 + ROUNDOFF) * ROUNDOFF * (first.abs() + second.abs()) + 1e-30
        for results in both:
            assert torch.equal(results[False][name], first + second), name
            assert (results[True][name] - (first + second)).abs().le(bound).all(), name
            assert torch.equal(results[True][name], both[0][True][name]), name
            assert torch.equal(results[True][name], results[True][name].bfloat16().float()), name
        num_rounded += int((both[0][True][name] != first + second).sum())
    assert num_rounded > 0.9 * sum(gradient.count_nonzero() for gradient in alone[0].values())


def test_fsdp_exchanges_gradients_in_the_precision_of_its_products():
    config = TrainingConfig(output_dir="a", model="b", train=["c"], max_updates=1, bf16_gradients=True)
    assert "bf16_gradients is true, and FSDP" in fsdp_problem(config, "SHARDED_STATE_DICT")
    assert fsdp_problem(dataclasses.replace(config, bf16=True), "SHARDED_STATE_DICT") is None
