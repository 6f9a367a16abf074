"""Arguments of the pipeline, each in the same line as for a CTC model of transformers."""

import pytest
import torch
from transformers import GenerationConfig, Wav2Vec2ForCTC, pipeline

from ..random_model import save_wav2vec2_folder, sweep

TASK = "automatic-speech-recognition"
SAMPLES = sweep(3)

WITHOUT_EFFECT = {
    "batch_size": {"batch_size": 2},
    "num_workers": {"num_workers": 0},
    "chunk_length_s of 0": {"chunk_length_s": 0},
    "stride_length_s without chunks": {"stride_length_s": 0.2},
    "decoder_kwargs without a decoder": {"decoder_kwargs": {"beam_width": 10}},
    "truncation": {"truncation": True},  # evaluate's evaluator passes it
    "padding": {"padding": True},
    "framework": {"framework": "pt"},
    "ignore_warning": {"ignore_warning": True},
    "max_new_tokens": {"max_new_tokens": 5},
    "num_beams": {"num_beams": 3, "do_sample": True},
    "top_k": {"top_k": 1},
    "generation_config": {"generation_config": GenerationConfig(num_beams=2)},
    "assistant_model": {"assistant_model": None},
    "prompt_ids": {"prompt_ids": None},
    "generate_kwargs": {"generate_kwargs": {"max_new_tokens": 5, "task": "transcribe"}},
    "no timestamps": {"return_timestamps": None},
}
ONLY_OURS = {  # the stock class refuses them
    "no generate_kwargs": {"generate_kwargs": None},
    "return_timestamps": {"return_timestamps": False},
    "return_language": {"return_language": True},
    "return_language in generate_kwargs": {"generate_kwargs": {"return_language": False}},
}
OF_CONSTRUCTION = {
    "binary_output": True,
    "decoder": None,
    "device": "cpu",
    "device_map": "cpu",
    "dtype": torch.float32,
    "feature_extractor": None,
    "model_kwargs": {},
    "processor": None,
    "revision": "main",
    "tokenizer": None,
    "trust_remote_code": False,
    "use_fast": True,
}
REFUSED = {
    "return_timestamps": ({"return_timestamps": True}, ValueError, "Set `return_timestamps='char'` or `return_time"),
    "return_timestamps of Whisper": ({"generate_kwargs": {"return_timestamps": True}}, ValueError, "Set `return_time"),
    "chunk_length_s": ({"chunk_length_s": 1, "stride_length_s": 1}, ValueError, "Chunk length must be superior"),
    "task": ({"generate_kwargs": {"task": "translate"}}, ValueError, "task is 'translate'; this model writes what is"),
    "chunk_lenght_s": ({"chunk_lenght_s": 3}, TypeError, "no argument chunk_lenght_s; do you mean chunk_length_s?"),
    "dtypes": ({"dtypes": None}, TypeError, "no argument dtypes; do you mean dtype?"),
    "batchsize in generate_kwargs": ({"generate_kwargs": {"batchsize": 3}}, TypeError, "do you mean batch_size?"),
    "generate_kwargs": (
        {"generate_kwargs": {"batch_size": 3}},
        TypeError,
        "batch_size is an argument of the pipeline",
    ),
    "sampling_rate": ({"sampling_rate": 8000}, TypeError, 'pass {"array": samples, "sampling_rate": rate}'),
    "skip_special_tokens": ({"skip_special_tokens": True}, TypeError, "skip_special_tokens; it has chunk_length_s,"),
}


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    recognize = pipeline(TASK, model=save_wav2vec2_folder(tmp_path_factory.mktemp("models") / "wav2vec2"))
    assert type(recognize.model) is Wav2Vec2ForCTC
    return recognize


def with_arguments(recognize, arguments):
    parts = {"tokenizer": recognize.tokenizer, "feature_extractor": recognize.feature_extractor}
    return pipeline(TASK, model=recognize.model, **parts | arguments)


@pytest.mark.parametrize("case", WITHOUT_EFFECT)
def test_what_has_no_effect_on_a_stock_pipeline_has_none_here(asr, stock, case):
    for recognize in (stock, asr):
        expected = recognize(SAMPLES)
        assert len(expected["text"]) > 10
        assert recognize(SAMPLES, **WITHOUT_EFFECT[case]) == expected
        assert with_arguments(recognize, WITHOUT_EFFECT[case])(SAMPLES) == expected


@pytest.mark.parametrize("case", ONLY_OURS)
def test_what_asks_for_no_more_than_the_result_is_accepted(asr, case):
    expected = asr(SAMPLES)
    assert "language" in expected
    assert asr(SAMPLES, **ONLY_OURS[case]) == with_arguments(asr, ONLY_OURS[case])(SAMPLES) == expected


@pytest.mark.parametrize("name", OF_CONSTRUCTION)
def test_arguments_of_construction(asr, stock, name):
    argument = {name: OF_CONSTRUCTION[name]}
    if argument[name] is not None:
        for recognize in (stock, asr):
            assert with_arguments(recognize, argument)(SAMPLES) == recognize(SAMPLES)
    with pytest.raises(TypeError, match=f"^{name} is an argument of pipeline"):  # in a call it would have no effect
        asr(SAMPLES, **argument)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused(asr, case):
    arguments, error, message = REFUSED[case]
    for recognize in (lambda: asr(SAMPLES, **arguments), lambda: with_arguments(asr, arguments)(SAMPLES)):
        with pytest.raises(error) as raised:
            recognize()
        assert message in str(raised.value) and "\n" not in str(raised.value)
