"""Trains on two processes with DistributedDataParallel, which fails for parameters that a loss does not depend on."""

import socket
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from hf_mlpl import MlplForCTC

from ..quick_python import start
from .test_modeling_mlpl import LABELS, LANGUAGE_IDS, make_batch, make_model, make_utterances

# Gradient checkpointing, what the loss depends on, and LayerDrop.
CASES = [(None, "both", 0.0)]
CASES += [(None, targets, 0.5) for targets in ("labels", "language_ids", "logits")]
CASES += [({"use_reentrant": is_reentrant}, "labels", 0.5) for is_reentrant in (False, True)]
SEEDS = range(3)  # with which processes drop different layers, or the same ones


def model_of(case) -> MlplForCTC:
    checkpointing, _, layerdrop = case
    model = make_model(layerdrop=layerdrop, num_hidden_layers=3, dtype=torch.float32)
    if checkpointing is not None:
        model.gradient_checkpointing_enable(checkpointing)
    return model


def gradients(model, targets: str, rank: int, seed: int) -> dict[str, torch.Tensor | None]:
    """Computes the gradients of a process's batch, by name."""
    own = slice(0, 3) if rank == 0 else slice(3, 5)
    inputs = make_batch(make_utterances(dtype=torch.float32)[own])
    inputs |= {"labels": LABELS[own]} if targets in ("labels", "both") else {}
    inputs |= {"language_ids": LANGUAGE_IDS[own]} if targets in ("language_ids", "both") else {}
    model.zero_grad()
    torch.manual_seed(2 * seed + rank)
    output = model(**inputs)
    (output.logits.square().mean() if targets == "logits" else output.loss).backward()
    return {name.removeprefix("module."): parameter.grad for name, parameter in model.named_parameters()}


def run(rank: int, port: int, folder) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, 2, is_master=rank == 0, timeout=timedelta(seconds=60))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    results = {}
    for number, case in enumerate(CASES):
        model = DistributedDataParallel(model_of(case))
        for seed in SEEDS:
            averages = gradients(model, case[1], rank, seed)
            results[number, seed] = {name: gradient.clone() for name, gradient in averages.items()}
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("gradients")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [start(run, rank, port, folder) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("number", range(len(CASES)), ids=map(str, CASES))
def test_gradients_are_the_averages_of_single_processes(number, two, one_thread):
    case = CASES[number]
    num_missing = 0
    for seed in SEEDS:
        single = [gradients(model_of(case), case[1], rank, seed) for rank in range(2)]
        num_missing += sum(gradient is None for each in single for gradient in each.values())
        for name in single[0]:
            # What no process has is zero here, and None in one process, where an optimizer leaves the parameter alone.
            shares = [torch.zeros(()) if each[name] is None else each[name] / 2 for each in single]
            for results in two:
                actual = results[number, seed][name]
                torch.testing.assert_close(actual, sum(shares).expand_as(actual), rtol=1e-5, atol=1e-7, msg=name)
    assert (num_missing == 0) == (case[1] == "both" and case[2] == 0)
