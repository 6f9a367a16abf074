"""The CTC loss, also where torch.compile makes one graph of it, as it cannot of `F.ctc_loss` (in PyTorch 2.13)."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def ctc_loss(
    log_probs: torch.Tensor,
    labels: torch.Tensor,
    num_frames: torch.Tensor,
    label_lengths: torch.Tensor,
    blank: int,
    zero_infinity: bool,
) -> torch.Tensor:
    """`F.ctc_loss` without reduction: fp32 log-probabilities (S, B, V) and labels (B, L) -> losses (B,)."""
    if torch.compiler.is_compiling():
        return _loss_and_gradient(log_probs, labels, num_frames, label_lengths, blank, zero_infinity)[0]
    return F.ctc_loss(log_probs, labels, num_frames, label_lengths, blank, "none", zero_infinity)


@torch.library.custom_op(
    "hf_mlpl::ctc_loss",
    mutates_args=(),
    schema="(Tensor log_probs, Tensor labels, Tensor num_frames, Tensor label_lengths, int blank, bool zero_infinity)"
    " -> (Tensor, Tensor)",
)
def _loss_and_gradient(log_probs, labels, num_frames, label_lengths, blank, zero_infinity):
    """Losses, and the gradient of each one in the shape of `log_probs`, from the kernels that `F.ctc_loss` calls.

    What the first kernel leaves for the second, in a shape that depends on the longest label, stays in here.
    """
    inputs = (log_probs, labels, num_frames.tolist(), label_lengths.tolist())
    losses, alpha = torch.ops.aten._ctc_loss(*inputs, blank, zero_infinity)
    ones = torch.ones_like(losses)
    gradient = torch.ops.aten._ctc_loss_backward(ones, *inputs, losses, alpha, blank, zero_infinity)
    return losses.masked_fill(losses.isinf(), 0.0) if zero_infinity else losses, gradient.contiguous()


@_loss_and_gradient.register_fake
def _(log_probs, labels, num_frames, label_lengths, blank, zero_infinity):
    return log_probs.new_empty(log_probs.shape[1]), log_probs.new_empty(log_probs.shape)


def _keep_gradient(ctx, inputs, output):
    ctx.save_for_backward(output[1])


def _backward(ctx, gradient_of_losses, _):
    (gradient,) = ctx.saved_tensors
    return gradient * gradient_of_losses[:, None], None, None, None, None, None


_loss_and_gradient.register_autograd(_backward, setup_context=_keep_gradient)
