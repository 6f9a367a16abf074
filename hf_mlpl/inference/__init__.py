"""Recognises speech: decoding, long recordings, blanks, the pipeline, alignment, subtitles, tiers, 8-bit models."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "alignment": "Alignment Segment Word align",
        "beam_search": "BeamSearchDecoder",
        "blank_detector": "BlankDetector",
        "decoding": "Hypothesis transcribe",
        "pipeline_mlpl": "MlplSpeechRecognitionPipeline",
        "quantization": "quantize",
        "subtitles": "build_cues to_srt to_vtt",
        "tiers": "Interval segments_of to_ctm to_textgrid word_intervals",
        "transcription": "find_recordings transcribe_recordings",
        "trellis": "LabelSpans viterbi",
    },
)
