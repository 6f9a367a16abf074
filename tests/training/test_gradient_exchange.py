"""Holds the gradients that two processes exchange over gloo, in fp32 and in bfloat16, to exact bounds."""

import dataclasses

import torch

from hf_mlpl.training.optimization import fsdp_problem
from hf_mlpl.training_config import TrainingConfig

from ..gradients import SHARES, build

ROUNDOFF = 2.0**-8  # of bfloat16, which has 8 significant bits


def test_gradients_in_bfloat16_are_off_by_their_rounding_alone(tone_data, two_processes, one_thread):
    """Without the setting they have the bits of the sum. With it, each share is rounded once, and then their sum."""
    both = [torch.load(two_processes / f"gradients-{rank}.pt", weights_only=True) for rank in range(2)]
    _, ctc, model, shares = build(tone_data / "tones.yaml")
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
