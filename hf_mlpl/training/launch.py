"""Reads what a command of `accelerate launch` or `torchrun` starts, and finds what does not fit a run's settings."""

from __future__ import annotations

import os
import shlex
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from typing import NoReturn

from accelerate.commands.config.config_args import default_config_file, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from ..error_line import error_line
from ..training_config import TrainingConfig
from .optimization import SHARDS, fsdp_problem


@dataclass(frozen=True)
class Launch:
    """Holds what a launch command starts: processes on all machines, and the state dict type of FSDP if it shards."""

    processes: int
    state_dict_type: str | None = None
    machines: int = 1

    def problem(self, config: TrainingConfig) -> str | None:
        """Describes why a run of these settings would fail; returns None if it would not."""
        return fsdp_problem(config, self.state_dict_type) if self.state_dict_type else None

    def warning(self, config: TrainingConfig) -> str | None:
        """Describes how many processes a run of these settings has no work for; returns None if it has for all."""
        shares = config.micro_batches_per_update
        if self.processes <= shares:
            return None
        return (
            f"micro_batches_per_update is {shares}, so {self.processes - shares} of {self.processes} processes have "
            f"nothing to do; start at most {shares}, or take more and smaller micro-batches (max_batch_seconds)"
        )


def read_launch(command: str) -> Launch:
    """Reads a command such as `accelerate launch --config_file FILE`, and its file, or `torchrun`.

    Processes that the command counts only when it starts, as one for each GPU of a machine, are taken for one, and so
    are those of other commands, such as `python`.

    Raises:
        ValueError: for a command or a file that accelerate or torch refuses, or processes that do not fit machines.
    """
    try:
        words = shlex.split(command)
        names = [os.path.basename(word) for word in words]
        if starts := [names.index(name) for name in ("torchrun", "torch.distributed.run") if name in names]:
            launch = _read_torchrun(words[starts[0] + 1 :])
        elif starts := [names.index(name) for name in ("launch", "accelerate-launch") if name in names]:
            launch = _read_accelerate(words[starts[0] + 1 :])
        else:
            return Launch(processes=1)
        if launch.processes < 1 or launch.machines < 1 or launch.processes % launch.machines:
            raise ValueError(
                f"starts {launch.processes} processes on {launch.machines} machines; there must be 1 or more, and the "
                "same number on each machine"
            )
    except ValueError as error:
        raise ValueError(f"{command}: {error_line(error)}") from None
    return launch


def _read_torchrun(arguments: list[str]) -> Launch:
    """Reads the arguments of `torchrun`."""
    options = _parse(get_args_parser(), arguments)
    per_node, nodes = options.nproc_per_node, options.nnodes.rpartition(":")[2]
    if not nodes.isdigit():
        raise ValueError(f"--nnodes is {options.nnodes}; it must be a number, or two of the form 1:8")
    return Launch(int(nodes) * (int(per_node) if per_node.isdigit() else 1), machines=int(nodes))


def _read_accelerate(arguments: list[str]) -> Launch:
    """Reads the arguments of `accelerate launch`, and its file."""
    options = _parse(launch_command_parser(), arguments)
    path = options.config_file or (default_config_file if os.path.isfile(default_config_file) else None)
    try:
        file = load_config_from_file(path) if path else None
    except Exception as error:  # of YAML, and of values that accelerate does not know
        raise ValueError(f"{path}: {error_line(error)}") from error

    def chosen(name: str) -> int:
        values = getattr(options, name), getattr(file, name, None)
        return next((value for value in values if value is not None), 1)

    processes, machines = chosen("num_processes"), chosen("num_machines")
    if not options.use_fsdp and str(getattr(file, "distributed_type", "")).rpartition(".")[2] != "FSDP":
        return Launch(processes, machines=machines)
    state_dict_type = (getattr(file, "fsdp_config", None) or {}).get("fsdp_state_dict_type", SHARDS)
    return Launch(processes, state_dict_type, machines)


def _parse(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """Parses arguments of a launcher, with errors of one line; what follows its own belongs to the script."""

    def refuse(message: str) -> NoReturn:
        raise ValueError(message)

    parser.error = refuse
    options, _ = parser.parse_known_args([*arguments, "script"])
    return options
