"""Exchanges models with other programs: flashlight's checkpoints, the old port M-CTC-T, ONNX."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "flashlight": "Checkpoint read_checkpoint write_checkpoint",
        "mctct": "MCTCTForCTC convert_mctct",
        "onnx": "export_onnx",
    },
)
