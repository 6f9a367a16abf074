"""Reads what a command of `accelerate launch` or `torchrun` starts, and finds what does not fit a run's settings."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass

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

    Processes that the command counts only when it starts, as one for each GPU of a machine, are taken for one.

    Raises:
        ValueError: for a file that cannot be read, or that accelerate refuses.
    """
    words = shlex.split(command)
    if "torchrun" in words:
        options, _ = get_args_parser().parse_known_args([*words[words.index("torchrun") + 1 :], "script"])
        per_node, machines = options.nproc_per_node, int(options.nnodes.rpartition(":")[2])
        return Launch(machines * (int(per_node) if per_node.isdigit() else 1), machines=machines)
    if "launch" not in words:
        return Launch(processes=1)
    options, _ = launch_command_parser().parse_known_args([*words[words.index("launch") + 1 :], "script"])
    path = options.config_file or (default_config_file if os.path.isfile(default_config_file) else None)
    try:
        file = load_config_from_file(path) if path else None
    except Exception as error:  # of YAML, and of values that accelerate does not know
        raise ValueError(f"{path}: {error_line(error)}") from error
    processes = options.num_processes or getattr(file, "num_processes", None) or 1
    machines = options.num_machines or getattr(file, "num_machines", None) or 1
    if not options.use_fsdp and str(getattr(file, "distributed_type", "")).rpartition(".")[2] != "FSDP":
        return Launch(processes, machines=machines)
    state_dict_type = (getattr(file, "fsdp_config", None) or {}).get("fsdp_state_dict_type", SHARDS)
    return Launch(processes, state_dict_type, machines)
