"""Trains models: the loop, slimIPL, checkpoints, the record of a run, and the estimate of its cost."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "checkpoints": "Checkpointer",
        "estimate": "Estimate estimate_stages",
        "loop": "train train_step",
        "model_setup": "build_model",
        "resume": "resume_from_hub",
        "slimipl": "SlimIpl SlimIplPlan",
    },
)
