"""Reads utterance files and turns them into batches for training: schema, Arrow blocks, selection, augmentation."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "augmentation": "spec_augment",
        "batches": "BatchPlan SpeechBatch SpeechBatches",
        "collapse": "LabelTexts describe_collapse",
        "selection": "select_for_training select_unlabelled",
        "utterances": "FEATURES SpeechTotals languages_of read_utterances speech_totals write_utterances",
    },
)
