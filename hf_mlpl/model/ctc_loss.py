"""Computes the CTC loss, over the labels' own classes if there are thousands, and as an operator for torch.compile."""

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
    """Computes `F.ctc_loss` without reduction: log-softmax in fp32, (B, S, V), and labels (B, L) -> losses (B,).

    No path contains a class that the label lacks. With 8065 classes PyTorch's kernel would spend most of its time,
    and memory for S x B x V numbers, on those.
    """
    if 16 * labels.shape[1] < log_probs.shape[2]:
        classes = F.pad(labels, (1, 0), value=blank)  # (B, 1 + L), the blank before the label
        log_probs = log_probs.gather(2, classes[:, None].expand(-1, log_probs.shape[1], -1))
        # Equal labels must stay equal, so each becomes the position of the first. (argmax needs at least one label.)
        is_equal = labels[:, :, None] == labels[:, None, :]
        labels = is_equal.int().argmax(dim=2) + 1 if labels.shape[1] else labels
        blank = 0
    elif not torch.compiler.is_compiling():
        return F.ctc_loss(log_probs.transpose(0, 1), labels, num_frames, label_lengths, blank, "none", zero_infinity)
    inputs = (log_probs.transpose(0, 1), labels, num_frames, label_lengths, blank, zero_infinity)
    return _loss_and_gradient(*inputs)[0]


@torch.library.custom_op(
    "hf_mlpl::ctc_loss",
    mutates_args=(),
    schema="(Tensor log_probs, Tensor labels, Tensor num_frames, Tensor label_lengths, int blank, bool zero_infinity)"
    " -> (Tensor, Tensor)",
)
def _loss_and_gradient(log_probs, labels, num_frames, label_lengths, blank, zero_infinity):
    """Returns losses, and the gradient of each in the shape of `log_probs`, from the kernels that `F.ctc_loss` calls.

    The intermediate result between the two kernels, whose shape depends on the longest label, stays inside. The second
    kernel returns the gradient of logits whose softmax the probabilities are; minus the probabilities, it is the
    gradient of the log-probabilities, which need not sum to 1.
    """
    inputs = (log_probs, labels, num_frames.tolist(), label_lengths.tolist())
    losses, alpha = torch.ops.aten._ctc_loss(*inputs, blank, zero_infinity)
    ones = torch.ones_like(losses)
    gradient = torch.ops.aten._ctc_loss_backward(ones, *inputs, losses, alpha, blank, zero_infinity)
    unread = torch.arange(len(log_probs), device=log_probs.device)[:, None] >= num_frames  # (S, B)
    if zero_infinity:
        unread = unread | losses.isinf()
        losses = losses.masked_fill(losses.isinf(), 0.0)
    gradient = (gradient - log_probs.exp()).masked_fill(unread[:, :, None], 0.0)
    return losses, gradient.contiguous()


@_loss_and_gradient.register_fake
def _(log_probs, labels, num_frames, label_lengths, blank, zero_infinity):
    return log_probs.new_empty(log_probs.shape[1]), log_probs.new_empty(log_probs.shape)


def _keep_gradient(ctx, inputs, output):
    ctx.save_for_backward(output[1])


def _backward(ctx, gradient_of_losses, _):
    (gradient,) = ctx.saved_tensors
    return gradient * gradient_of_losses[:, None], None, None, None, None, None


_loss_and_gradient.register_autograd(_backward, setup_context=_keep_gradient)
