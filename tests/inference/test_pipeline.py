"""The pipeline with saved model folders and files of all formats, compared with a computation step by step."""

import json
import multiprocessing
import os
import random
from pathlib import Path
from statistics import geometric_mean

import numpy as np
import pytest
import soundfile
import soxr
import torch
from datasets import Audio, Dataset
from rapidfuzz.distance import Levenshtein
from transformers import AutoFeatureExtractor, AutomaticSpeechRecognitionPipeline, AutoProcessor, pipeline
from transformers.pipelines.pt_utils import KeyDataset

import hf_mlpl
from hf_mlpl import MlplFeatureExtractor, MlplProcessor, MlplTokenizer
from hf_mlpl.inference.pipeline_mlpl import MlplSpeechRecognitionPipeline

from ..random_model import LANGUAGES, RATE, save_folder, save_wav2vec2_folder, sweep
from ..tones import random_text, speak


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_folder(tmp_path_factory.mktemp("models") / "tiny", LANGUAGES)


@pytest.fixture(scope="module")
def asr(folder):
    return pipeline("automatic-speech-recognition", model=folder)


def by_hand(asr, samples):
    """Returns class numbers (S,) and language log-probabilities (L,) of one utterance."""
    inputs = MlplFeatureExtractor()(samples, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        outputs = asr.model(**inputs)
    return outputs.logits[0].argmax(dim=-1), outputs.language_log_probs[0]


def test_a_folder_gives_our_pipeline(asr, folder):
    assert type(asr) is MlplSpeechRecognitionPipeline
    assert hf_mlpl.MlplSpeechRecognitionPipeline is MlplSpeechRecognitionPipeline
    assert type(asr.feature_extractor) is MlplFeatureExtractor
    assert type(asr.tokenizer) is MlplTokenizer
    # With custom_pipelines there, transformers would ask for trust_remote_code.
    assert "custom_pipelines" not in json.loads((folder / "config.json").read_text())


def test_text_and_language(asr):
    samples = sweep(3)
    labels, log_probs = by_hand(asr, samples)
    answer = asr(samples)
    assert answer["text"] == asr.tokenizer.decode(labels)
    assert len(answer["text"]) > 5
    assert answer["language"] == LANGUAGES[int(log_probs.argmax())]
    assert answer["language_probability"] == pytest.approx(float(log_probs.exp().max()), rel=1e-5)
    assert list(answer) == ["text", "language", "language_probability"]


def test_generate_gives_the_same_texts(asr):
    """As `ParakeetForCTC` is used, and served by transformers."""
    processor = MlplProcessor(asr.feature_extractor, asr.tokenizer)
    recordings = [sweep(3), sweep(1), sweep(2)]
    inputs = processor(recordings, sampling_rate=RATE, return_tensors="pt")
    texts = processor.batch_decode(asr.model.generate(**inputs), skip_special_tokens=True)
    assert texts == [asr(samples)["text"] for samples in recordings] and all(texts)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 44100, 48000])
@pytest.mark.parametrize("extension", ["wav", "flac", "mp3", "ogg"])
def test_files(asr, tmp_path, extension, rate, channels):
    path = tmp_path / f"a.{extension}"
    samples = sweep(2, rate)
    soundfile.write(path, samples if channels == 1 else np.stack([samples, 0.5 * samples], axis=1), rate)
    decoded, _ = soundfile.read(path, dtype="float32", always_2d=True)
    expected = asr(soxr.resample(decoded.mean(axis=1), rate, RATE))
    content = path.read_bytes()
    array = {"raw": decoded.T if channels == 2 else decoded[:, 0], "sampling_rate": rate}
    sources = [str(path), path, content, {"path": str(path)}, {"bytes": content, "path": None}, array]
    answers = asr(sources)
    assert len(array) == 2  # the stock pipeline empties the dict that it is given
    for answer in answers:
        assert answer["text"] == expected["text"]
        assert answer["language_probability"] == pytest.approx(expected["language_probability"], rel=1e-3)


def test_a_part_of_a_file_and_other_keys(asr, tmp_path):
    path = tmp_path / "a.ogg"
    soundfile.write(path, sweep(6), RATE)
    decoded, _ = soundfile.read(path, dtype="float32")
    answer = asr({"path": path, "start": 2.5, "end": 4.75, "id": "a_1"})
    assert answer["text"] == asr(decoded[40000:76000])["text"]
    assert answer["id"] == ["a_1"]  # a list, as in the stock pipeline


def test_batches_equal_one_by_one(asr):
    recordings = [sweep(seconds) for seconds in (0.01, 3, 1.234, 2.005, 0.3)]
    one_by_one = [asr(recording) for recording in recordings]
    for answer, expected in zip(asr(recordings, batch_size=4), one_by_one, strict=True):
        assert answer["text"] == expected["text"]
        assert answer["language"] == expected["language"]
        assert answer["language_probability"] == pytest.approx(expected["language_probability"], rel=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_chunks(asr, batch_size):
    samples = sweep(7.3)
    chunk, stride = 48000, 8160  # 3 s and 0.51 s are whole output frames of 480 samples
    labels, weighted, total = [], torch.zeros(len(LANGUAGES)), 0
    for start in range(0, len(samples), chunk - 2 * stride):
        piece = samples[start : start + chunk]
        is_last = start + chunk >= len(samples)
        piece_labels, log_probs = by_hand(asr, piece)
        own = piece_labels[0 if start == 0 else stride // 480 : None if is_last else -stride // 480]
        labels.append(own)
        weighted += len(own) * log_probs
        total += len(own)
        if is_last:
            break
    probabilities = (weighted / total).softmax(dim=0)

    answer = asr(samples, chunk_length_s=3, stride_length_s=0.51, batch_size=batch_size)
    assert total == pytest.approx(len(samples) / 480, abs=1)
    assert answer["text"] == asr.tokenizer.decode(torch.cat(labels))
    assert answer["language"] == LANGUAGES[int(probabilities.argmax())]
    assert answer["language_probability"] == pytest.approx(float(probabilities.max()), rel=1e-3)


@pytest.mark.parametrize("unit", ["char", "word"])
@pytest.mark.parametrize("chunks", [{}, {"chunk_length_s": 3, "stride_length_s": 0.51}])
def test_confidences(asr, unit, chunks):
    """The geometric mean of the probabilities of a chunk's frames, also in a batch and in pieces."""
    samples = sweep(4)
    plain = asr(samples, return_timestamps=unit, **chunks)
    found = asr([sweep(7.3), samples], return_timestamps=unit, return_confidence=True, batch_size=2, **chunks)[1]
    confidences = [chunk.pop("confidence") for chunk in found["chunks"]]
    assert found["chunks"] == plain["chunks"] and len(confidences) > 1
    assert all(0 < confidence <= 1 for confidence in confidences)
    if not chunks:
        with torch.no_grad():
            features = asr.feature_extractor(samples, sampling_rate=16_000, return_tensors="pt")
            probabilities = asr.model(**features).logits[0].softmax(-1).amax(-1).double()
        for chunk, confidence in zip(plain["chunks"], confidences, strict=True):
            start, end = (round(second / 0.03) for second in chunk["timestamp"])
            frames = probabilities[start:end].tolist()
            assert confidence == pytest.approx(geometric_mean(frames), rel=1e-3)


@pytest.mark.parametrize("chunks", [{}, {"chunk_length_s": 3}])
def test_timestamps(asr, chunks):
    samples = sweep(7.3)
    text = asr(samples, **chunks)["text"]
    characters = asr(samples, return_timestamps="char", **chunks)
    words = asr(samples, return_timestamps="word", **chunks)
    assert characters["text"] == words["text"] == text
    assert characters["language"] in LANGUAGES
    assert "".join(chunk["text"] for chunk in characters["chunks"]) == text
    assert [chunk["text"] for chunk in words["chunks"]] == text.split()
    for result in (characters, words):
        times = [time for chunk in result["chunks"] for time in chunk["timestamp"]]
        assert times == sorted(times)
        assert 0 <= times[0] < times[-1] <= 7.31
    if not chunks:
        labels, _ = by_hand(asr, samples)
        first = next(i for i, label in enumerate(labels) if label not in (0, 16))
        assert characters["chunks"][0]["timestamp"][0] == pytest.approx(0.03 * first)


@pytest.mark.parametrize("chunks", [{}, {"chunk_length_s": 0.6}])
def test_no_time_lies_behind_the_end(asr, chunks):
    ends = []
    for frames in range(30, 44):
        samples = sweep(2)[: 480 * frames + 400]  # whose last output frame is 80 samples longer than they are
        labels, _ = by_hand(asr, samples)
        for unit in ("char", "word"):
            times = [chunk["timestamp"] for chunk in asr(samples, return_timestamps=unit, **chunks)["chunks"]]
            assert all(0 <= start < end <= len(samples) / RATE for start, end in times)
            if labels[-1] not in (0, 16):
                ends.append(times[-1][1] == len(samples) / RATE)
    assert len(ends) > 2 and any(ends)


@pytest.fixture(scope="module")
def long_speech():
    """Returns samples and text of 79 utterances, one after another, 100 s long."""
    letters, noise, texts, parts = random.Random(5), np.random.default_rng(5), [], []
    while sum(map(len, parts)) < 100 * RATE:
        texts.append(random_text("de", letters))
        parts.append(speak(f"{texts[-1]} ", noise))
    return np.concatenate(parts), " ".join(texts)


@pytest.mark.parametrize("chunk_length", [10, 25])
def test_chunks_of_long_speech_give_the_text_of_the_whole(tone_run, long_speech, chunk_length):
    asr = pipeline("automatic-speech-recognition", model=tone_run / "model")
    samples, text = long_speech
    whole = asr(samples, return_timestamps="word")
    assert Levenshtein.distance(whole["text"], text) / len(text) < 0.01  # the model has really understood it
    chunked = asr(samples, chunk_length_s=chunk_length, batch_size=3, return_timestamps="word")
    assert chunked["text"] == whole["text"] and chunked["language"] == whole["language"] == "de"
    for word, expected in zip(chunked["chunks"], whole["chunks"], strict=True):
        assert word["timestamp"] == pytest.approx(expected["timestamp"], abs=0.0301)  # a frame


def test_the_stock_class_on_arrays(asr, folder):
    stock = pipeline("automatic-speech-recognition", model=folder, pipeline_class=AutomaticSpeechRecognitionPipeline)
    assert type(stock) is AutomaticSpeechRecognitionPipeline
    recordings = [sweep(7.3), sweep(2)]
    chunks = {"chunk_length_s": 3, "stride_length_s": 0.51}
    for arguments in ({}, {"batch_size": 2}, chunks, {"return_timestamps": "word", **chunks}):
        answers = asr(recordings, **arguments)
        for answer in answers:
            del answer["language"], answer["language_probability"]
        assert stock(recordings, **arguments) == answers
    assert len(answers[0]["text"]) > 20


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Writes five files at several rates."""
    folder = tmp_path_factory.mktemp("recordings")
    rates = [RATE, 8000, 48000, RATE, RATE]
    for i, rate in enumerate(rates):
        soundfile.write(folder / f"{i}.flac", sweep(2 + 0.3 * i, rate), rate)
    return [folder / f"{i}.flac" for i in range(len(rates))]


def rows(recordings):
    return {
        "id": [path.stem for path in recordings],
        "audio": [str(path) for path in recordings],
        "text": [f"reference {path.stem}" for path in recordings],
        "language": ["hu"] * len(recordings),
    }


@pytest.mark.parametrize("is_iterable", [False, True])
@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("decode", [False, True])  # True needs torchcodec, if datasets is to do it
def test_data_sets(asr, recordings, is_iterable, embedded, decode):
    expected = [asr(path) for path in recordings]
    dataset = Dataset.from_dict(rows(recordings))
    if embedded:
        audio = [{"bytes": path.read_bytes(), "path": path.name} for path in recordings]
        dataset = dataset.remove_columns("audio").add_column("audio", audio)
    dataset = dataset.cast_column("audio", Audio(decode=decode))
    if is_iterable:
        dataset = dataset.to_iterable_dataset()
    answers = asr(dataset, batch_size=2)
    assert iter(answers) is answers  # no list: it streams
    answers = list(answers)
    # The text is what the model says, not the row's own.
    assert [answer["text"] for answer in answers] == [answer["text"] for answer in expected]
    assert [answer["language"] for answer in answers] == [answer["language"] for answer in expected]
    assert [answer["id"] for answer in answers] == [[path.stem] for path in recordings]
    assert list(answers[0]) == ["text", "language", "language_probability", "id"]


def test_single_rows_and_columns(asr, recordings):
    dataset = Dataset.from_dict(rows(recordings)).cast_column("audio", Audio(decode=False))
    expected = [asr(path)["text"] for path in recordings]
    assert asr(dataset[2])["text"] == asr(dataset[2]["audio"])["text"] == expected[2]
    assert [answer["text"] for answer in asr(KeyDataset(dataset, "audio"))] == expected
    assert [answer["text"] for answer in asr([dict(row) for row in dataset], batch_size=3)] == expected
    assert [answer["text"] for answer in asr(Dataset.from_dict(rows(recordings)))] == expected  # paths as strings

    # what prepare_data writes: a part of a long recording
    audio = {"path": str(recordings[4]), "start": 0.5, "end": 1.75}
    utterance = {"id": "a_1", "audio": audio, "duration_seconds": 1.25, "language": "hu", "text": "x", "speaker": None}
    samples, _ = soundfile.read(recordings[4], dtype="float32")
    answer = asr(utterance)
    assert answer["text"] == asr(samples[8000:28000])["text"] and answer["language"] in LANGUAGES
    assert answer["duration_seconds"] == [1.25] and answer["speaker"] == [None]
    assert audio == {"path": str(recordings[4]), "start": 0.5, "end": 1.75}  # the stock pipeline empties dicts

    decoded = {"audio": {"array": sweep(2, 48000), "sampling_rate": 48000, "path": "nowhere.flac"}, "text": "x"}
    assert asr(decoded)["text"] == asr({"array": sweep(2, 48000), "sampling_rate": 48000})["text"] != "x"


def test_a_decoder_of_torchcodec(asr):
    """Uses a stand-in with the documented interface of AudioDecoder, whose import needs ffmpeg."""

    class AudioDecoder:
        def get_all_samples(self):
            return type("AudioSamples", (), {"data": torch.from_numpy(sweep(2, 48000))[None], "sample_rate": 48000})

    expected = asr({"array": sweep(2, 48000), "sampling_rate": 48000})
    assert asr(AudioDecoder()) == asr({"audio": AudioDecoder(), "text": "x"}) == expected


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_generator_is_not_read_ahead(asr, recordings, batch_size):
    read = []

    def endless():
        while True:
            read.append(recordings[len(read) % 5])
            yield read[-1]

    expected = [asr(path)["text"] for path in recordings]
    answers = iter(asr(endless(), batch_size=batch_size))
    assert len(read) <= 1
    for i in range(10):
        assert next(answers)["text"] == expected[i % 5]
        assert len(read) <= (i // batch_size + 1) * batch_size + 1


def test_nothing_gives_nothing(asr):
    assert asr([]) == [] and list(asr(path for path in [])) == []


class TokenizerWithLanguages(MlplTokenizer):
    """Allows `a` to `e` for sl, and all else for de; the word boundary and the blank for both."""

    def allowed_ids(self, language):
        allowed = {"sl": [0, 1, 2, 3, 4, 5, 16], "de": [0, *range(6, 17)]}
        if language not in allowed:
            raise ValueError(f"no characters are known for the language {language!r}; known are de, sl")
        return allowed[language]


@pytest.fixture(scope="module")
def restricted(folder):
    return pipeline(
        "automatic-speech-recognition", model=folder, tokenizer=TokenizerWithLanguages.from_pretrained(folder)
    )


def test_text_of_one_language(asr, restricted):
    samples = sweep(3)
    inputs = MlplFeatureExtractor()(samples, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        logits = asr.model(**inputs).logits[0]
    for language in ("sl", "de"):
        allowed = restricted.tokenizer.allowed_ids(language)
        best = [max(allowed, key=lambda index, frame=frame: frame[index]) for frame in logits]
        answer = restricted(samples, language=language)
        assert restricted(samples, generate_kwargs={"language": language, "task": "transcribe"}) == answer
        assert answer["text"] == asr.tokenizer.decode(best) != asr(samples)["text"]
        assert {"text": answer.pop("text")} | answer == asr(samples) | {"text": asr.tokenizer.decode(best)}
    assert restricted(samples) == asr(samples)  # off by default

    slovene = restricted(
        [sweep(7.3), sweep(1)], language="sl", batch_size=2, chunk_length_s=3, return_timestamps="char"
    )
    assert all(set(answer["text"]) <= set("abcde ") and len(answer["text"]) > 3 for answer in slovene)
    assert {chunk["text"] for answer in slovene for chunk in answer["chunks"]} <= set("abcde ")
    always = pipeline(
        "automatic-speech-recognition",
        model=asr.model,
        tokenizer=restricted.tokenizer,
        feature_extractor=asr.feature_extractor,
        language="sl",
    )
    assert always(samples) == restricted(samples, language="sl")
    with pytest.raises(ValueError, match="no characters are known for the language 'hu'; known are de, sl"):
        restricted(samples, language="hu")


def test_likeliest_languages(asr):
    samples = sweep(3)
    _, log_probs = by_hand(asr, samples)
    expected = sorted(zip(log_probs.exp().tolist(), LANGUAGES, strict=True), reverse=True)
    for k in (1, 2, 3, 9):
        answer = asr(samples, top_k_languages=k)
        assert [item["language"] for item in answer["languages"]] == [name for _, name in expected[:k]]
        assert [item["probability"] for item in answer["languages"]] == pytest.approx(
            [probability for probability, _ in expected[:k]], rel=1e-5
        )
        best = answer["languages"][0]
        assert (answer["language"], answer["language_probability"]) == (best["language"], best["probability"])
    chunked = asr([sweep(7.3), samples], top_k_languages=3, chunk_length_s=3, batch_size=2)
    assert [sum(item["probability"] for item in answer["languages"]) for answer in chunked] == pytest.approx([1, 1])
    alone = asr(sweep(7.3), chunk_length_s=3)["language_probability"]
    assert chunked[0]["language_probability"] == pytest.approx(alone, rel=1e-5)
    with pytest.raises(ValueError, match="top_k_languages is 0; it must be at least 1"):
        asr(samples, top_k_languages=0)


def test_stride_of_a_dict_counts_samples_of_its_array(asr):
    samples = sweep(3)
    labels, _ = by_hand(asr, samples)
    given = {"raw": samples, "sampling_rate": RATE, "stride": (4800, 9600)}
    assert asr(given)["text"] == asr.tokenizer.decode(labels[10:-20])
    at_48_khz = {"array": sweep(3, 48000), "sampling_rate": 48000, "stride": (14400, 28800)}
    length = len(asr(at_48_khz, return_timestamps="char")["chunks"])
    assert 0 < length < len(asr({**at_48_khz, "stride": None}, return_timestamps="char")["chunks"])


def test_bad_input_gives_one_clear_line(asr, tmp_path):
    (tmp_path / "empty.mp3").touch()
    (tmp_path / "text.wav").write_text("hello")
    good = sweep(1)
    for bad, message in [
        ("missing.wav", "missing.wav: no such file"),
        (tmp_path / "empty.mp3", "empty.mp3: is empty"),
        (tmp_path / "text.wav", "text.wav: is not audio"),
        (b"hello", "<5 bytes>: is not audio"),
        ({"text": "hello"}, "a dict with text has no audio: it needs array"),
        ({"audio": None, "text": "hello"}, "None is not audio: pass a path"),
        ({"raw": good}, "its sampling_rate is None"),
        (np.zeros(500, np.int16), "divide 16-bit samples by 32768"),
        (np.full(500, np.nan), "NaN"),
    ]:
        for inputs in (bad, [good, bad]):
            with pytest.raises(ValueError, match=message) as error:
                asr(inputs)
            assert "\n" not in str(error.value)
    assert asr(np.zeros(RATE, np.float32))["language"] in LANGUAGES  # silence
    assert asr(np.zeros(0, np.float32))["language"] in LANGUAGES


def test_a_model_without_languages(tmp_path):
    asr = pipeline("automatic-speech-recognition", model=save_folder(tmp_path / "model", []))
    assert list(asr(sweep(2))) == ["text"]
    assert list(asr([sweep(4), sweep(2)], batch_size=2, chunk_length_s=3)[0]) == ["text"]
    with pytest.raises(ValueError, match="this model has no languages"):
        asr(sweep(2), top_k_languages=2)
    with pytest.raises(ValueError, match="return_language was given, but this model has no languages"):
        asr(sweep(2), return_language=True)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no forks here")
def test_a_forked_child_recognises_the_same_text(asr):
    samples, before = sweep(20), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = asr(samples)["text"]  # which two threads have computed
        child = multiprocessing.get_context("fork").Process(target=lambda: os._exit(asr(samples)["text"] != expected))
        child.start()
        child.join(timeout=60)
        child.kill()  # where it hangs
        child.join()
    finally:
        torch.set_num_threads(before)
    assert child.exitcode == 0


def test_half_precision(folder, asr):
    half = pipeline("automatic-speech-recognition", model=folder, dtype=torch.bfloat16)
    assert half(sweep(2))["language_probability"] == pytest.approx(asr(sweep(2))["language_probability"], abs=0.05)


def test_a_saved_pipeline_is_a_model_folder(asr, tmp_path):
    asr.save_pretrained(tmp_path)
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
    assert pipeline("automatic-speech-recognition", model=tmp_path)(sweep(2)) == asr(sweep(2))


def test_other_models_get_the_stock_pipeline(tmp_path):
    folder = save_wav2vec2_folder(tmp_path / "model")
    ours = pipeline("automatic-speech-recognition", model=folder)
    stock = pipeline("automatic-speech-recognition", model=folder, pipeline_class=AutomaticSpeechRecognitionPipeline)
    assert type(ours) is AutomaticSpeechRecognitionPipeline
    assert len(stock(sweep(3))["text"]) > 5
    for arguments in ({}, {"return_timestamps": "char"}, {"chunk_length_s": 2}, {"batch_size": 2}):
        assert ours([sweep(3), sweep(1)], **arguments) == stock([sweep(3), sweep(1)], **arguments)


def test_processor_makes_inputs_and_labels(folder):
    processor = AutoProcessor.from_pretrained(folder)
    assert type(processor) is MlplProcessor
    recordings = [sweep(1), sweep(0.5)]
    batch = processor(audio=recordings, text=["ab c", "aab cd"], sampling_rate=RATE)
    expected = MlplFeatureExtractor()(recordings, sampling_rate=RATE, return_tensors="pt")
    assert list(batch) == ["input_features", "attention_mask", "labels"] == processor.model_input_names
    assert torch.equal(batch["input_features"], expected["input_features"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].tolist() == [[1, 2, 0, 3, -100, -100], [1, 1, 2, 0, 3, 4]]
    # decode collapses repeated labels unless it is told that they are labels, not frames
    assert processor.batch_decode(batch["labels"], group_tokens=False) == ["ab c", "aab cd"]
    assert processor.decode(torch.tensor([16, 1, 1, 16, 1, 2, 0, 0, 3, 16])) == "aab c"


def test_processor_with_one_utterance_or_one_modality(folder):
    processor = AutoProcessor.from_pretrained(folder)
    one = processor(audio=sweep(1), text="ab", sampling_rate=RATE, return_tensors="np")
    assert one["input_features"].shape == (1, 98, 80)
    assert one["labels"].tolist() == [[1, 2]]
    assert list(processor(audio=sweep(1), sampling_rate=RATE)) == ["input_features", "attention_mask"]
    assert processor(text=["", ""])["labels"].shape == (2, 0)
    assert processor(text=["", ""])["labels"].dtype == torch.int64
    with pytest.raises(ValueError, match="pass audio, text or both"):
        processor()
    with pytest.raises(ValueError, match="2 transcripts were passed for 1 utterances"):
        processor(audio=sweep(1), text=["a", "b"], sampling_rate=RATE)
    with pytest.raises(ValueError, match="44100 Hz"):
        processor(audio=sweep(1), sampling_rate=44100)


def test_processor_saves_and_loads(folder, tmp_path):
    AutoProcessor.from_pretrained(folder).save_pretrained(tmp_path)
    loaded = MlplProcessor.from_pretrained(tmp_path)
    assert loaded.feature_extractor.to_dict().items() >= MlplFeatureExtractor().to_dict().items()
    assert loaded.tokenizer("abc")["input_ids"] == [1, 2, 3]
    assert type(AutoFeatureExtractor.from_pretrained(tmp_path)) is MlplFeatureExtractor
    assert max(path.stat().st_size for path in tmp_path.iterdir() if path.suffix != ".py") < 2000
