"""Defines the columns of pseudo-labels: in the files that labelling writes, and in the data sets that are shared."""

from __future__ import annotations

from datasets import Features, Value

from ..data.utterances import FEATURES

# Meanings of the scores, by which `filter_labels` selects labels. A score is null where there is nothing to measure,
# and where nobody has measured it: teachers have different scores, and files of older versions have fewer.
SCORES = {
    "mean_log_prob": "mean log-probability of the best class per output frame, or of generated tokens; 0 is certain",
    "letter_log_prob": "sum of the best class's log-probability over frames, per letter; null for generated text",
    "length_ratio": "letters, divided by those that the posteriors expect: below 1 some may be missing; null as above",
    "lowest_word_confidence": "the same of the least certain word, as a probability; null without words",
    "blank_ratio": "share of the output frames that say blank; null for teachers that generate text",
    "characters_per_second": "length of the text per second of audio",
    "compression_ratio": "bytes of the text divided by those that zlib makes of it; a repetitive text has a high one",
    "repetition": "share of the text's sequences of four words that occurred before in it; a loop has nearly 1",
    "language_probability": "of the utterance's own language, by the teacher's language-ID head, or Whisper",
    "no_speech_probability": "by Whisper; of a long recording, of its piece where it is highest; null for others",
    "agreement": "of teachers: 1 - edit distance / length of the longer text, mean over pairs; null without another",
    "expected_cer": "character error rate that `hf-mlpl calibrate` expects of such scores; null without a calibration",
}
# `labels.parquet`: utterances with their pseudo-labels, which training reads like any utterance file.
LABEL_FEATURES = Features(
    {
        **FEATURES,
        **dict.fromkeys(SCORES, Value("float64")),
        "predicted_language": Value("string"),  # by the teacher's language-ID head
        "error": Value("string"),  # why there is no label; null otherwise
    }
)
NEVER_NULL = ("id", "audio", "duration_seconds", "language", "text")  # columns of LABEL_FEATURES
LABEL_SET_FEATURES = Features(
    {
        "id": Value("string"),
        "start": Value("float64"),  # seconds in the long recording; null for a whole file
        "end": Value("float64"),
        "duration_seconds": Value("float64"),
        "language": Value("string"),  # Common Voice's locale code, `sv-SE`
        "text": Value("string"),
        **dict.fromkeys(SCORES, Value("float64")),
        "predicted_language": Value("string"),
        "teacher": Value("string"),
        "teacher_revision": Value("string"),
        "kept": Value("bool"),  # by the filters; true for all without
    }
)
