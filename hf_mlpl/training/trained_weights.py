"""Copies, saves and restores the weights of a model that training changes; frozen ones are shared, and not saved."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_model, save_file, save_model
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_leaves, tree_map_only


def frozen_names(model: nn.Module) -> set[str]:
    """Returns the names of the parameters that are not trained."""
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def copy_of_trained(model: nn.Module) -> nn.Module:
    """Copies a model whose frozen parameters are those of the original, and take no memory again."""
    return copy.deepcopy(model, {id(each): each for each in model.parameters() if not each.requires_grad})


def copy_of_structure(model: nn.Module) -> nn.Module:
    """Copies a model whose parameters are those of the original, to change its settings and not its weights."""
    return copy.deepcopy(model, {id(each): each for each in model.parameters()})


def host_copy(state: dict) -> dict:
    """Copies a nested state with its tensors to host memory; tensors that are the same memory are so again."""
    copies: dict[tuple, torch.Tensor] = {}

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        shard = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        place = shard.untyped_storage().data_ptr(), shard.storage_offset(), shard.shape, shard.stride(), shard.dtype
        if place not in copies:
            copies[place] = tensor.detach().to("cpu", copy=True)
        return copies[place]

    return tree_map_only(torch.Tensor, copied, state)


def num_bytes(state: dict) -> int:
    """Returns the bytes of all tensors of a nested state."""
    return sum(leaf.nbytes for leaf in tree_leaves(state) if isinstance(leaf, torch.Tensor))


def host_copy_of_trained(model: nn.Module) -> nn.Module:
    """Copies a model as `copy_of_trained` does, with the copies in host memory."""
    copies: dict[int, torch.Tensor] = {id(each): each.to("cpu", copy=True) for each in model.buffers()}
    for each in model.parameters():
        copies[id(each)] = nn.Parameter(each.detach().to("cpu", copy=True)) if each.requires_grad else each
    return copy.deepcopy(model, copies)


def save_trained(model: nn.Module, path: Path) -> None:
    """Saves a model's state without its frozen parameters."""
    if frozen := frozen_names(model):
        save_file({name: value for name, value in model.state_dict().items() if name not in frozen}, path)
    else:
        save_model(model, path)


def load_trained(model: nn.Module, path: Path) -> None:
    """Loads what `save_trained` has saved, or the state of the whole model; raises a RuntimeError for another one."""
    missing, unexpected = load_model(model, path, strict=False)
    if wrong := sorted({*missing, *unexpected} - frozen_names(model)):
        raise RuntimeError(f"{path.name} is of another model: it differs in {', '.join(wrong)}")


def digest_of_frozen(model: nn.Module) -> str:
    """Returns a hash of the frozen parameters, which checkpoints do not hold."""
    frozen, sha = frozen_names(model), hashlib.sha256()
    for name, parameter in model.named_parameters():
        if name in frozen:
            sha.update(name.encode())
            sha.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()
