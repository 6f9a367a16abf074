"""Temporarily unshards FSDP weights, so that ranks can run different numbers of forwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.distributed.fsdp import FSDPModule


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Gathers the weights of a sharded model on every process, once, and reshards them at the end.

    In between, each process may run as many forwards as it has batches; a forward of sharded weights would wait for
    all processes to run one. Models that are not sharded stay as they are.
    """
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.set_reshard_after_forward(True, recurse=False)
            module.reshard()
