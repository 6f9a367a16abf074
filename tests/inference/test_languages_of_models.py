"""Which languages of a test set a model transcribes: each with what it has for it, also those it does not know."""

import pytest
import soundfile
from transformers import pipeline

from hf_mlpl.inference.recognition import load_recognizer, transcriber, transcriber_of_languages

from ..random_model import save_folder
from ..small_models import save_small_mms
from ..small_teachers import make_cohere, make_whisper
from .test_generation import RATE, dataset_of, parts, sound

pytestmark = pytest.mark.usefixtures("one_thread")

SECONDS = [0.6, 0.9, 1.3, 1.7]


@pytest.fixture
def clips(tmp_path):
    def make(locales):
        for i, seconds in enumerate(SECONDS):
            soundfile.write(tmp_path / f"{i}.wav", sound(seconds, i), RATE, subtype="FLOAT")
        return dataset_of([(tmp_path / f"{i}.wav", SECONDS[i], locale) for i, locale in enumerate(locales)])

    return make


def test_whisper_writes_in_the_language_that_it_hears(clips, tmp_path):
    """It does so as transformers' own `generate` does when it is not told the language."""
    make_whisper(tmp_path / "whisper")
    locales, name = ["sl", "fi", "sl", "sl"], str(tmp_path / "whisper")
    dataset, (model, processor) = clips(locales), load_recognizer(name, ["fi", "sl"], any_language=True)
    known = transcriber_of_languages(name, model, processor, ["fi", "sl"])
    assert (known.unknown, known.left_out) == (["sl"], [])
    recognize = pipeline("automatic-speech-recognition", model=model, **parts(name))
    heard = set()
    for batch_seconds in (0.0, 100.0):
        for label in known.transcribe(dataset, batch_seconds):
            told = {"language": "fi"} if locales[label.row] == "fi" else {}
            options = {"generate_kwargs": {"num_beams": 1, "max_length": 64, "task": "transcribe", **told}}
            assert label.text == recognize(sound(SECONDS[label.row], label.row), **options)["text"].strip()
            heard.add(label.text)
    assert len(heard) > 2
    with pytest.raises(ValueError, match="does not know the language sl"):  # as a teacher
        transcriber(model, processor, dataset)


@pytest.mark.slow
def test_languages_that_a_model_cannot_be_asked_for_are_left_out(clips, tmp_path):
    make_cohere(tmp_path / "cohere")
    name = str(tmp_path / "cohere")
    model, processor = load_recognizer(name, ["de", "sl"], any_language=True)
    known = transcriber_of_languages(name, model, processor, ["de", "sl"])
    assert (known.unknown, known.left_out) == ([], ["sl"])
    with pytest.raises(ValueError, match="does not know the language sl"):
        transcriber_of_languages(name, model, processor, ["sl"])
    ours = save_folder(tmp_path / "ours", ["sl"])
    known = transcriber_of_languages(str(ours), *load_recognizer(str(ours), any_language=True), ["de", "sl"])
    assert (known.unknown, known.left_out) == (["de"], [])


@pytest.mark.slow
def test_mms_has_an_adapter_for_each_language(clips, tmp_path):
    name = str(save_small_mms(tmp_path / "mms", {"eng": "abcdef", "bre": "abcñ"}))
    locales, expected = ["br", "en", "br", "en"], {}
    dataset = clips(locales)
    for locale in ("br", "en"):
        model, processor = load_recognizer(name, [locale])
        rows = [row for row, other in enumerate(locales) if other == locale]
        for hypothesis in transcriber(model, processor, dataset)(dataset.select(rows)):
            expected[rows[hypothesis.row]] = hypothesis.text
    model, processor = load_recognizer(name, ["br", "en", "sl"], any_language=True)
    known = transcriber_of_languages(name, model, processor, ["br", "en", "sl"])
    assert (known.unknown, known.left_out) == ([], ["sl"])
    assert {hypothesis.row: hypothesis.text for hypothesis in known.transcribe(dataset)} == expected
    assert len({*expected.values()}) > 2
    with pytest.raises(ValueError, match="mms: has no adapter for the language sl; it has bre, eng"):
        load_recognizer(name, ["sl", "de"], any_language=True)
