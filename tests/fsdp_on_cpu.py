"""`recipes/train.py` with weights sharded over two processes on a CPU, where accelerate offers FSDP for GPUs alone."""

import runpy
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from tones import without_pictures  # beside this script

initialize = AcceleratorState.__init__


def initialize_as_on_gpus(state: AcceleratorState, *args, **kwargs) -> None:
    initialize(state, *args, **kwargs)
    state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin = state.__dict__.get("fsdp_plugin") or kwargs["fsdp_plugin"]


if __name__ == "__main__":
    without_pictures(pytest.MonkeyPatch())
    AcceleratorState.__init__ = initialize_as_on_gpus
    # What recipes/accelerate/fsdp.yaml sets becomes the plugin's defaults, by the launcher's environment variables.
    assert FullyShardedDataParallelPlugin().fsdp_version == 2
    runpy.run_path(str(Path(__file__).parents[1] / "recipes" / "train.py"), run_name="__main__")
