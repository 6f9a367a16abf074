"""Holds the settings of a training run. All imports are quick, so that a wrong setting is refused at once."""

from .files import (
    FREE_ON_RESUME,
    changed_settings,
    check_same_config,
    has_settings,
    language_setting,
    load_config,
    plain_settings,
    write_config,
)
from .settings import (
    DECIDED_MODEL_FIELDS,
    FREE_MODEL_FIELDS,
    PRESETS,
    TRACKERS,
    VARIANTS,
    CurriculumConfig,
    LoraConfig,
    SlimIplConfig,
    SpecAugmentConfig,
    TrainingConfig,
    WaveformAugmentConfig,
    check_our_fields,
)

__all__ = [
    "CurriculumConfig",
    "DECIDED_MODEL_FIELDS",
    "FREE_MODEL_FIELDS",
    "FREE_ON_RESUME",
    "LoraConfig",
    "PRESETS",
    "SlimIplConfig",
    "SpecAugmentConfig",
    "TRACKERS",
    "TrainingConfig",
    "VARIANTS",
    "WaveformAugmentConfig",
    "changed_settings",
    "check_our_fields",
    "check_same_config",
    "has_settings",
    "language_setting",
    "load_config",
    "plain_settings",
    "write_config",
]
