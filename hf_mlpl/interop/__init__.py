"""Exchanges models and manifests with other programs: flashlight, the old port M-CTC-T, ONNX, NeMo, lhotse."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "flashlight": "Checkpoint read_checkpoint write_checkpoint",
        "language_names": "find_language_names",
        "manifests": "export_manifest",
        "mctct": "MCTCTForCTC convert_mctct",
        "onnx": "export_onnx",
    },
)
