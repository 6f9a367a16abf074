"""Whoever looks at transformers' registries and at what they load finds ordinary classes of ours."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import transformers
from transformers import (
    FEATURE_EXTRACTOR_MAPPING,
    MODEL_FOR_CTC_MAPPING,
    MODEL_MAPPING,
    PROCESSOR_MAPPING,
    TOKENIZER_MAPPING,
    AutomaticSpeechRecognitionPipeline,
    AutoModel,
    AutoModelForCTC,
    Pipeline,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    pipeline,
)

import hf_mlpl
from hf_mlpl import MlplConfig, MlplForCTC, MlplModel

from .random_model import LANGUAGES, save_folder, sweep

MAPPINGS = [
    (MODEL_FOR_CTC_MAPPING, MlplForCTC),
    (MODEL_MAPPING, MlplModel),
    (FEATURE_EXTRACTOR_MAPPING, hf_mlpl.MlplFeatureExtractor),
    (TOKENIZER_MAPPING, hf_mlpl.MlplTokenizer),
    (PROCESSOR_MAPPING, hf_mlpl.MlplProcessor),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_folder(tmp_path_factory.mktemp("models") / "tiny", LANGUAGES)


@pytest.mark.parametrize(("mapping", "ours"), MAPPINGS)
def test_the_registries_have_our_classes(mapping, ours):
    assert MlplConfig in mapping
    assert mapping[MlplConfig] is mapping.get(MlplConfig, None) is ours
    assert ours in mapping._extra_content.values() and (MlplConfig, ours) in mapping._extra_content.items()
    assert pickle.loads(pickle.dumps(mapping))[MlplConfig] is ours
    assert pickle.loads(pickle.dumps(ours)) is ours


def test_models_are_instances_of_the_registered_classes(folder):
    model = AutoModelForCTC.from_pretrained(folder)
    assert isinstance(model, MODEL_FOR_CTC_MAPPING[type(model.config)])
    assert type(AutoModelForCTC.from_config(model.config)) is MODEL_FOR_CTC_MAPPING[MlplConfig] is MlplForCTC
    assert type(AutoModel.from_pretrained(folder)) is MODEL_MAPPING[MlplConfig]

    class Mine(MODEL_FOR_CTC_MAPPING[MlplConfig]):
        pass

    assert isinstance(Mine.from_pretrained(folder), MlplForCTC)


def test_registries_keep_what_others_register():
    class OtherConfig(Wav2Vec2Config):
        model_type = "other"

    class OtherForCTC(Wav2Vec2ForCTC):
        config_class = OtherConfig

    AutoModelForCTC.register(OtherConfig, OtherForCTC)
    assert MODEL_FOR_CTC_MAPPING[OtherConfig] is OtherForCTC
    del MODEL_FOR_CTC_MAPPING._extra_content[OtherConfig]
    assert MODEL_FOR_CTC_MAPPING[Wav2Vec2Config] is Wav2Vec2ForCTC


def test_the_pipeline_passes_for_one_of_transformers(folder, caplog):
    recognize = pipeline("automatic-speech-recognition", model=folder)
    assert "is not supported" not in caplog.text
    assert isinstance(recognize, Pipeline) and isinstance(recognize, AutomaticSpeechRecognitionPipeline)
    assert type(recognize) is hf_mlpl.MlplSpeechRecognitionPipeline
    assert type(recognize).__module__.startswith("transformers.pipelines.")  # Gradio's condition
    assert pickle.loads(pickle.dumps(type(recognize))) is type(recognize)


@pytest.mark.slow
def test_a_process_that_has_not_imported_hf_mlpl_unpickles_a_pipeline(folder, tmp_path):
    recognize = pipeline("automatic-speech-recognition", model=folder)
    (tmp_path / "pipeline").write_bytes(pickle.dumps(recognize))
    program = """
import pickle, sys
import numpy as np
recognize = pickle.load(open(sys.argv[1], "rb"))
print(type(recognize).__name__, recognize(np.load(sys.argv[2]))["text"])
"""
    np.save(tmp_path / "samples.npy", sweep(2))
    command = [sys.executable, "-c", program, tmp_path / "pipeline", tmp_path / "samples.npy"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split(maxsplit=1) == ["MlplSpeechRecognitionPipeline", recognize(sweep(2))["text"] + "\n"], (
        done.stderr
    )


@pytest.mark.slow
def test_looking_for_other_models_imports_none_of_ours():
    program = """
import sys
import hf_mlpl
from transformers import MODEL_FOR_CTC_MAPPING
print(hf_mlpl.MlplConfig in MODEL_FOR_CTC_MAPPING, "hf_mlpl.model.modeling_mlpl" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "True False\n", done.stderr


def test_transformers_has_no_audio_processors_yet():
    """Watches that transformers makes audio processors of feature extractors: its pull requests 44394, 48113-48115."""
    processors = [name for name in dir(transformers) if name.endswith(("AutoAudioProcessor", "BaseAudioProcessor"))]
    assert not processors, (
        f"transformers {transformers.__version__} has {', '.join(processors)}: register our extractor with "
        "the Auto class too, in registration.py and in auto_map; the `pad` of its base class takes audio instead "
        "of features; and keep loading the extractors of folders that exist"
    )
    assert hasattr(transformers.audio_utils, "mel_filter_bank"), (
        f"transformers {transformers.__version__} has no mel_filter_bank: feature_extraction_mlpl.py needs another"
    )
