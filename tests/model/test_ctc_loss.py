"""Compares the CTC loss over the labels' own classes, and that of a compiled graph, with PyTorch's."""

import pytest
import torch
from torch.nn import functional as F

from hf_mlpl.model.ctc_loss import _loss_and_gradient, ctc_loss

# Of 80 classes few are those of the labels, of 5 most.
LABELS = torch.tensor([[0, 1, 1, 0], [2, 0, 0, 0], [0, 0, 0, 0], [3, 3, 3, 0], [1, 0, 1, 0]])
# The second is shorter than its row, the third is empty, the fourth needs five frames and has three.
LENGTHS = torch.tensor([6, 4, 2, 3, 6]), torch.tensor([4, 1, 0, 3, 3])
WEIGHTS = torch.tensor([1.0, -2.0, 3.0, 0.5, 2.0])


def logits_of(num_classes):
    return torch.randn(5, 6, num_classes, generator=torch.Generator().manual_seed(0))


def kernel(log_probs, *rest):
    return _loss_and_gradient(log_probs.transpose(0, 1), *rest)[0]


def pytorch(log_probs, labels, num_frames, label_lengths, blank, zero_infinity):
    return F.ctc_loss(log_probs.transpose(0, 1), labels, num_frames, label_lengths, blank, "none", zero_infinity)


def losses_and_gradient(loss, num_classes, labels, lengths, zero_infinity):
    """Returns gradients of logits, because PyTorch's gradient of log-probabilities assumes the softmax before them."""
    logits = logits_of(num_classes).requires_grad_()
    losses = loss(logits.log_softmax(-1), labels, *lengths, num_classes - 1, zero_infinity)
    (losses * WEIGHTS).sum().backward()
    return losses.detach(), logits.grad


@pytest.mark.parametrize("zero_infinity", [False, True])
@pytest.mark.parametrize(
    "loss, num_classes", [(ctc_loss, 80), (ctc_loss, 5), (kernel, 5)], ids=["few", "all", "graph"]
)
def test_losses_and_gradients_are_pytorchs(loss, num_classes, zero_infinity):
    arguments = (num_classes, LABELS, LENGTHS, zero_infinity)
    expected, expected_gradient = losses_and_gradient(pytorch, *arguments)
    actual, gradient = losses_and_gradient(loss, *arguments)
    assert expected.isinf().tolist() == [False, False, False, not zero_infinity, False]
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)
    # Where the loss is infinite, some numbers of an utterance are NaN, or all: an update must see it, not how many.
    finite = ~expected.isinf()
    torch.testing.assert_close(gradient[finite], expected_gradient[finite], rtol=1e-5, atol=1e-6)
    assert not gradient[3].any() if zero_infinity else not gradient[3].isfinite().all()


@pytest.mark.parametrize("labels", [torch.empty(5, 0, dtype=torch.long), torch.zeros(5, 3, dtype=torch.long)])
def test_empty_labels(labels):
    lengths = LENGTHS[0], torch.zeros(5, dtype=torch.long)
    expected, expected_gradient = losses_and_gradient(pytorch, 80, labels, lengths, False)
    actual, gradient = losses_and_gradient(ctc_loss, 80, labels, lengths, False)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-6)


def test_the_operator_is_sound():
    """Its shapes without data, its gradients and its tracing agree with what it computes."""
    log_probs = logits_of(5).log_softmax(-1)
    for tensor in (log_probs.transpose(0, 1), log_probs.transpose(0, 1).contiguous()):
        torch.library.opcheck(_loss_and_gradient, (tensor.requires_grad_(), LABELS, *LENGTHS, 4, True))
