"""Models that generate text: their texts are those of transformers, whatever the batch, and their scores exact."""

import re
import shutil
import threading

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import AutoProcessor, GenerationConfig, pipeline

from hf_mlpl.audio.reading import load_audio
from hf_mlpl.data.utterances import FEATURES
from hf_mlpl.data.words import join_texts, words_of
from hf_mlpl.inference.decoding import decode_in_threads
from hf_mlpl.inference.generation import GenerativeTranscriber
from hf_mlpl.inference.precision import convert
from hf_mlpl.inference.quiet_cuts import cut_where_quiet
from hf_mlpl.inference.recognition import load_recognizer, transcriber
from hf_mlpl.inference.transcription_requests import names_of_language

from ..small_teachers import TEACHERS, make_whisper

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 16_000
SECONDS = [0.5, 1.31, 0.02, 2.0, 0.9, 1.32]
UNREADABLE = 4  # row
LOCALES = {"cohere_asr": "de"}  # Cohere does not know Swedish


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Makes each model once, when a test takes it."""
    made, root = {}, tmp_path_factory.mktemp("teachers")

    def folder(name):
        if name not in made:
            try:
                TEACHERS[name](root / name)
            except ImportError as error:
                pytest.skip(f"this transformers lacks it: {error}")
            made[name] = root / name
        return made[name]

    return folder


def sound(seconds, seed) -> np.ndarray:
    rng, time = np.random.default_rng(seed), np.arange(round(RATE * seconds)) / RATE
    tone = np.sin(2 * np.pi * (200 + 200 * seed + 700 * np.sin(3 * time)) * time)
    return (0.1 * (rng.normal(size=len(time)) * np.sin((5 + seed) * time) ** 2 + tone)).astype(np.float32)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Returns a function that makes the data set of the clips, of which one is not audio, in a language."""
    folder = tmp_path_factory.mktemp("clips")
    for i, seconds in enumerate(SECONDS):
        soundfile.write(folder / f"{i}.wav", sound(seconds, i), RATE, subtype="FLOAT")
    (folder / f"{UNREADABLE}.wav").write_bytes(b"no sound")
    return lambda locale: dataset_of([(folder / f"{i}.wav", seconds, locale) for i, seconds in enumerate(SECONDS)])


def dataset_of(rows) -> Dataset:
    empty = dict.fromkeys(["text", "speaker", "source"])
    rows = [
        {"id": f"u{i}", "audio": {"path": str(path)}, "duration_seconds": seconds, "language": locale, **empty}
        for i, (path, seconds, locale) in enumerate(rows)
    ]
    return Dataset.from_list(rows, features=FEATURES)


def by_transformers(name, folder, model, samples) -> str:
    """Transcribes one clip as the model's page in the documentation of transformers shows it."""
    if name in ("whisper", "moonshine", "speech_to_text"):
        recognize = pipeline("automatic-speech-recognition", model=model, **parts(folder))
        options = {"language": "sv", "task": "transcribe"} if name == "whisper" else {}
        return recognize(samples, generate_kwargs={"num_beams": 1, "max_length": 64, **options})["text"].strip()
    processor = AutoProcessor.from_pretrained(folder)
    if name == "cohere_asr":
        inputs = processor(samples, sampling_rate=RATE, return_tensors="pt", language="de")
    elif name == "seamless_m4t":
        inputs = processor(audio=samples, sampling_rate=RATE, return_tensors="pt")
        output = model.generate(**inputs, tgt_lang="swe", do_sample=False, num_beams=1)
        return processor.decode(output[0], skip_special_tokens=True).strip()
    elif name == "canary":
        inputs = processor.apply_transcription_request(samples, source_language="sv")
    elif name == "omniasr":
        inputs = processor.apply_transcription_request(samples, language="swe_Latn", return_tensors="pt")
    else:
        inputs = processor.apply_transcription_request(audio=samples, language="Swedish")
    output = model.generate(**inputs, do_sample=False, max_new_tokens=40)
    prompt = inputs["input_ids" if "input_ids" in inputs else "decoder_input_ids"].shape[1]
    return processor.decode(output[0, prompt:], skip_special_tokens=True).strip()


def parts(folder) -> dict:
    processor = AutoProcessor.from_pretrained(folder)
    return {"feature_extractor": processor.feature_extractor, "tokenizer": processor.tokenizer}


QUICK = ("whisper", "moonshine", "qwen3_asr")  # the three kinds: encoder-decoders of features and samples, and a chat


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TEACHERS]
)
def test_texts_are_those_of_transformers_whatever_the_batch(name, folders, clips, caplog):
    """Outputs of some models depend on the padding, so they get no batches, and a line says so."""
    locale = LOCALES.get(name, "sv-SE")
    dataset, (model, processor) = clips(locale), load_recognizer(str(folders(name)))
    transcribe = transcriber(model, processor, dataset)
    with tqdm(total=len(SECONDS), disable=True) as progress:
        progress.update = progress_counts = lambda count, counts=[]: counts.append(count) or counts
        batched = list(transcribe(dataset, 100.0, progress=progress))
    assert sum(progress_counts(0)) == len(SECONDS)
    assert sorted(label.row for label in batched) == list(range(len(SECONDS)))
    single = {label.row: label for label in transcribe(dataset, 0.0, num_workers=0)}
    texts = set()
    for label in batched:
        if label.row == UNREADABLE:
            assert re.fullmatch(rf"utterance u{UNREADABLE}: .*{UNREADABLE}.wav: .*", label.error)
            continue
        samples = sound(SECONDS[label.row], label.row)
        if label.row == 2:  # 20 ms, to which silence is added
            samples = np.pad(samples, (0, 1600 - len(samples)))
        assert label.text == single[label.row].text == by_transformers(name, folders(name), model, samples)
        for score in ("mean_log_prob", "language_probability", "no_speech_probability"):
            assert getattr(label, score) == pytest.approx(getattr(single[label.row], score), abs=1e-4), score
        assert label.is_complete and label.blank_ratio is None and label.seconds == round(RATE * label.seconds) / RATE
        assert (label.no_speech_probability is None) == (name != "whisper")
        texts.add(label.text)
    assert len(texts) > 2  # the texts say something about the audio
    transcribe = transcriber(convert(model, "int8"), processor, dataset)
    texts = [{label.row: label.text for label in transcribe(dataset, budget)} for budget in (0.0, 100.0)]
    assert texts[0] == texts[1]
    remarks = [record.getMessage() for record in caplog.records if "one by one" in record.getMessage()]
    assert len(remarks) == 2 * (name in ("moonshine", "speech_to_text", "seamless_m4t"))


def test_batches_are_of_similar_length_and_one_language(folders, clips, monkeypatch):
    """Longest first, and in one language, for the decoder has one prompt; a later language is found in its turn."""
    locales = ["de", "en", "de", "en", "en", "en"]
    paths = [audio["path"] for audio in clips("de")["audio"]]
    dataset = dataset_of(list(zip(paths, SECONDS, locales, strict=True)))
    transcribe = transcriber(*load_recognizer(str(folders("cohere_asr"))), clips("de"))
    batches, generate = [], transcribe._generate
    monkeypatch.setattr(transcribe, "_generate", lambda batch: batches.append(batch) or generate(batch))
    labels = list(transcribe(dataset, 3.0))
    assert [(batch.locale, batch.rows) for batch in batches] == [("en", [3]), ("en", [1, 5]), ("de", [0, 2])]
    assert sorted(label.row for label in labels) == list(range(len(SECONDS)))


@pytest.fixture(scope="module")
def endless(folders):
    """Returns a Whisper whose texts do not end."""
    model, processor = load_recognizer(str(folders("whisper")))
    model.generation_config.exponential_decay_length_penalty = None
    model.generation_config.suppress_tokens += [model.generation_config.eos_token_id]
    return model, processor


def test_settings_of_another_search_do_not_count(folders, clips, caplog):
    """A generation_config.json may ask for beams, chance, an end after some time, or what is code on the Hub."""
    (model, processor), dataset = load_recognizer(str(folders("whisper"))), clips("fi").select([0, 1, 3])
    expected = list(transcriber(model, processor, dataset)(dataset, 4.0))
    for settings in (
        {"num_beams": 3, "num_return_sequences": 2, "do_sample": True, "temperature": 2.0, "use_cache": False},
        {
            "penalty_alpha": 0.6,
            "top_k": 4,
            "cache_implementation": "static",
            "guidance_scale": 2.0,
            "token_healing": True,
        },
        {"prompt_lookup_num_tokens": 2, "stop_strings": ["e"], "max_time": 0.0, "max_new_tokens": 60},
        {"return_timestamps": True, "forced_decoder_ids": [[1, 5]], "prompt_ids": [3, 4], "dola_layers": "low"},
    ):
        model, processor = load_recognizer(str(folders("whisper")))
        for name, value in settings.items():
            setattr(model.generation_config, name, value)
        assert list(transcriber(model, processor, dataset)(dataset, 4.0)) == expected, settings
    assert not any("max_length" in message for message in caplog.messages)


def test_scores_are_those_of_a_forward_pass_with_the_text(endless, clips):
    """Those of Whisper, after the tokens that it suppresses, as in its paper; a text that was cut off is marked."""
    (model, processor), dataset = endless, clips("fi").select([0, 1, 3])
    config, tokenizer = model.generation_config, processor.tokenizer
    start = "<|startoftranscript|><|fi|><|transcribe|><|notimestamps|>"
    prompt = tokenizer(start, add_special_tokens=False, return_tensors="pt")["input_ids"]
    for label in transcriber(model, processor, dataset)(dataset, 100.0):
        samples = load_audio(dataset[label.row]["audio"], RATE)
        features = processor(samples, sampling_rate=RATE, return_tensors="pt")["input_features"]
        tokens = model.generate(features, language="fi", task="transcribe", num_beams=1)[0]
        assert label.text == tokenizer.decode(tokens, skip_special_tokens=True).strip() and not label.is_complete
        assert len(tokens) == config.max_length - prompt.shape[1]
        with torch.no_grad():
            logits = model(features, decoder_input_ids=torch.cat([prompt, tokens[None]], dim=1)).logits[0]
        written = logits[prompt.shape[1] - 1 : -1]
        written[:, config.suppress_tokens] = -torch.inf
        written[0, config.begin_suppress_tokens] = -torch.inf
        log_probs = written.log_softmax(-1)[range(len(tokens)), tokens]
        assert label.mean_log_prob == pytest.approx(float(log_probs.mean()), abs=1e-5)
        nospeech = tokenizer.convert_tokens_to_ids("<|nospeech|>")
        assert label.no_speech_probability == pytest.approx(float(logits[0].softmax(-1)[nospeech]), abs=1e-6)
        languages = logits[0, list(config.lang_to_id.values())].softmax(-1)
        assert label.language_probability == pytest.approx(float(languages[1]), abs=1e-6)
        detected = ["en", "fi", "sv"][int(languages.argmax())]
        assert label.language == detected
        own = config.lang_to_id[f"<|{detected}|>"]
        assert own == int(model.detect_language(features))


def test_a_long_recording_is_its_pieces(folders, tmp_path):
    """Cut in its pauses, nothing lost or doubled; its scores are those of all tokens, and the highest of no speech."""
    bursts = [sound(seconds, seed) for seed, seconds in enumerate([1.5, 1.2, 1.6, 1.4, 0.9])]
    pause = np.zeros(round(0.3 * RATE), np.float32)
    recording = np.concatenate([part for burst in bursts for part in (burst, pause)])
    soundfile.write(tmp_path / "long.wav", recording, RATE, subtype="FLOAT")
    pieces = list(cut_where_quiet(np.split(recording, [7, 50_000, 90_000]), RATE, 2.0))
    assert [is_last for _, is_last in pieces] == [False] * (len(pieces) - 1) + [True]
    assert np.array_equal(np.concatenate([piece for piece, _ in pieces]), recording) and len(pieces) == 5
    cuts = np.cumsum([len(piece) for piece, _ in pieces])[:-1]
    ends = np.cumsum([len(burst) + len(pause) for burst in bursts]) - len(pause)
    assert all(((ends < cut) & (cut < ends + len(pause))).any() for cut in cuts)
    for i, (piece, _) in enumerate(pieces):
        soundfile.write(tmp_path / f"{i}.wav", piece, RATE, subtype="FLOAT")
    rows = [(tmp_path / "long.wav", len(recording) / RATE, "en")]
    rows += [(tmp_path / f"{i}.wav", len(piece) / RATE, "en") for i, (piece, _) in enumerate(pieces)]
    model, processor = load_recognizer(str(folders("whisper")))
    dataset = dataset_of(rows)
    for max_batch_seconds in (100.0, 2.0):
        labels = transcriber(model, processor, dataset)(dataset, max_batch_seconds)
        long, *short = sorted(labels, key=lambda label: label.row)
        assert long.text == " ".join(label.text for label in short)
        assert long.no_speech_probability == pytest.approx(max(label.no_speech_probability for label in short))
        lowest, *_, highest = sorted(label.mean_log_prob for label in short)
        assert lowest < long.mean_log_prob < highest and long.seconds == pytest.approx(len(recording) / RATE)


def test_a_recording_that_is_damaged_behind_its_first_pieces(folders, clips, tmp_path):
    """Has no text at all, and the others keep theirs."""
    damaged = np.tile(sound(1.5, 1), 4)
    damaged[-1000:] = np.nan
    soundfile.write(tmp_path / "damaged.wav", damaged, RATE, subtype="FLOAT")
    good = [(clips("fi")[row]["audio"]["path"], SECONDS[row], "fi") for row in (0, 3)]
    model, processor = load_recognizer(str(folders("whisper")))
    expected = sorted(label.text for label in transcriber(model, processor, dataset_of(good))(dataset_of(good)))
    for max_batch_seconds in (2.0, 100.0):
        dataset = dataset_of([*good, (tmp_path / "damaged.wav", 6.0, "fi")])
        *others, failed = sorted(
            transcriber(model, processor, dataset)(dataset, max_batch_seconds), key=lambda label: label.row
        )
        assert sorted(label.text for label in others) == expected and failed.text == ""
        assert failed.error.startswith(f"utterance u2: {tmp_path}/damaged.wav: ") and "\n" not in failed.error


def test_pieces_are_cut_while_the_recording_is_read():
    """A recording of any length needs no more memory than a piece and a block."""
    read, cut = 0, 0

    def blocks():
        nonlocal read
        for seed in range(100):
            read += RATE
            yield np.random.default_rng(seed).normal(size=RATE).astype(np.float32)

    for piece, _ in cut_where_quiet(blocks(), RATE, 2.0):
        assert read - cut <= 3.2 * RATE
        cut += len(piece)
    assert cut == read == 100 * RATE


@pytest.mark.parametrize("seconds", [0.01, 1.99, 2.0, 2.01, 2.19, 2.2, 4.1, 7.77])
def test_pieces_hold_every_sample_once(seconds):
    noise = np.random.default_rng(0).normal(size=round(seconds * RATE)).astype(np.float32)
    pieces = list(cut_where_quiet(np.array_split(noise, 7), RATE, 2.0))
    assert np.array_equal(np.concatenate([piece for piece, _ in pieces]), noise)
    lengths = [len(piece) / RATE for piece, _ in pieces]
    assert max(lengths) <= 2 and min(lengths) >= min(0.2, seconds)
    assert [is_last for _, is_last in pieces] == [False] * (len(pieces) - 1) + [True]


def test_threads_share_the_batches_of_a_whisper(folders, clips):
    """Texts and scores are those of one thread, and each window is encoded by itself, once."""
    (model, processor), dataset = load_recognizer(str(folders("whisper"))), clips("sv-SE")
    alone = list(transcriber(model, processor, dataset)(dataset, 4.0))
    torch.set_num_threads(4)  # which the fixture ends
    seen, threads = [], set()
    model.get_encoder().register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    layer = model.get_decoder().layers[0].encoder_attn
    layer.k_proj.register_forward_pre_hook(lambda *_: threads.add((threading.get_ident(), torch.get_num_threads())))
    keys = []
    layer.k_proj.register_forward_hook(lambda _, inputs, output: keys.append(len(output)))
    labels = list(transcriber(model, processor, dataset)(dataset, 4.0))
    assert [label.row for label in labels] == [label.row for label in alone]
    for label, expected in zip(labels, alone, strict=True):
        assert label.text == expected.text and label.error == expected.error
        assert label.mean_log_prob == pytest.approx(expected.mean_log_prob, abs=1e-5)
        assert label.language_probability == pytest.approx(expected.language_probability, abs=1e-6)
    num_windows = len(SECONDS) - 1  # of 2 s, one for each clip; a batch has two
    assert seen == [1] * num_windows and sum(keys) == num_windows and len(keys) == 3
    assert {number for _, number in threads} == {1} and threading.get_ident() not in {ident for ident, _ in threads}
    assert torch.get_num_threads() == 4


def test_threads_end_at_once_where_nobody_waits(folders, clips, monkeypatch):
    """As after ^C: a layer of the second batch, which is running, is the last one."""
    (model, processor), dataset = load_recognizer(str(folders("whisper"))), clips("sv-SE")
    threads: dict[int, int] = {}  # of the batches
    waits, is_stopped = threading.Event(), threading.Event()
    calls = []  # of layers in the other thread

    class Stopped(threading.Event):
        def set(self):
            super().set()
            is_stopped.set()

    def decode_in_known_threads(decode, *arguments):
        def decode_batch(number):
            threads[number] = threading.get_ident()
            return decode(number)

        return decode_in_threads(decode_batch, *arguments)

    def count(*_):
        if threads.get(1) == threading.get_ident():
            calls.append(None)
            waits.set()
            assert is_stopped.wait(60)

    transcribe = transcriber(model, processor, dataset)
    monkeypatch.setattr("hf_mlpl.inference.generation.Event", Stopped)
    monkeypatch.setattr("hf_mlpl.inference.generation.decode_in_threads", decode_in_known_threads)
    layers = [*model.get_encoder().layers, *model.get_decoder().layers]
    for layer in layers:
        layer.register_forward_pre_hook(count)
    torch.set_num_threads(2)  # which the fixture ends
    labels = transcribe(dataset, 2.0)
    assert next(labels).text and waits.wait(60)
    labels.close()
    assert len(calls) == 1
    assert torch.get_num_threads() == 2 and all(len(layer._forward_pre_hooks) == 1 for layer in layers)


def test_large_models_have_small_batches_on_a_cpu(folders):
    """The keys and values of a batch's windows take half a gigabyte, or are those of 4 windows."""
    model, processor = load_recognizer(str(folders("whisper")))
    transcribe = transcriber(model, processor, dataset_of([("a.wav", 1.0, "en")]))
    sizes = {(4, 384): 16, (6, 512): 14, (12, 768): 4, (32, 1280): 4}  # tiny, base, small and large, of 30 s
    for (layers, width), windows in sizes.items():
        model.config.decoder_layers, model.config.d_model, model.config.max_source_positions = layers, width, 1500
        assert transcribe.request.cpu_batch_seconds(model) == 2 * windows  # a window of this model has 2 s


def test_a_language_that_the_model_does_not_know_is_one_line(folders, clips, tmp_path):
    for name in ("whisper", "cohere_asr", "qwen3_asr"):
        parts = load_recognizer(str(folders(name)))
        with pytest.raises(
            ValueError, match=r"does not know the language sah \(.*\); leave it out with --lan"
        ) as error:
            transcriber(*parts, clips("sah"))
        assert "\n" not in str(error.value) and str(folders(name)) in str(error.value)
    make_whisper(tmp_path, multilingual=False)
    model, processor = load_recognizer(str(tmp_path))
    with pytest.raises(ValueError, match=r"does not know the language fi \(it knows en\)"):
        transcriber(model, processor, clips("fi"))
    label = next(iter(transcriber(model, processor, clips("en"))(clips("en").select([0]))))
    tokens = pipeline("automatic-speech-recognition", model=model, **parts_of(processor))
    assert label.text == tokens(sound(SECONDS[0], 0), generate_kwargs={"num_beams": 1})["text"].strip()
    assert (label.language, label.language_probability) == (None, None)
    model.generation_config.is_multilingual = True
    with pytest.raises(ValueError, match=r"its generation_config.json has no lang_to_id and task_to_id; take that of"):
        transcriber(model, processor, clips("en"))
    model.generation_config = GenerationConfig.from_model_config(model.config)  # in a folder without that file
    with pytest.raises(ValueError, match=r"generation_config.json has no no_timestamps_token_id and lang_to_id and "):
        transcriber(model, processor, clips("en"))


def parts_of(processor) -> dict:
    return {"feature_extractor": processor.feature_extractor, "tokenizer": processor.tokenizer}


def test_names_of_languages(folders):
    transcribe = GenerativeTranscriber(*load_recognizer(str(folders("omniasr"))), ["kmr"])
    assert [transcribe.request.language(locale) for locale in ("sv-SE", "en", "kmr")] == ["sv", "en", "kmr_latn"]
    expected = {"sv-SE": "sv", "nb-NO": "no", "zh-HK": "yue", "zh-CN": "zh", "jv": "jw", "tl": "fil", "ckb": "ckb"}
    for locale, name in expected.items():
        assert name in names_of_language(locale)
    assert names_of_language("zh-HK")[0] == "yue" and names_of_language("ckb") == ["ckb"]


def test_a_teacher_that_cannot_be_loaded_is_one_line(folders, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders("whisper"), folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="model: its tokenizer has 11 tokens, but its model 65; a file of the token"):
        load_recognizer(str(folder))
    (folder / "processor_config.json").unlink()
    with pytest.raises(
        ValueError, match="model: has no preprocessor_config.json, and so no feature extractor; copy it "
    ):
        load_recognizer(str(folder))
    shutil.copytree(folders("whisper"), folder, dirs_exist_ok=True)
    weights = load_file(folder / "model.safetensors")
    del weights["model.decoder.layer_norm.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"its weights lack 1 tensors, such as model.decoder.layer_norm.bias; downl"):
        load_recognizer(str(folder))


def test_words_and_joints_of_scripts_without_spaces():
    assert words_of("two words") == ["two", "words"] and words_of("两个词 ok") == ["两", "个", "词", "ok"]
    assert join_texts([" good", "", "morning "]) == "good morning" and join_texts(["早上", "好"]) == "早上好"
    assert join_texts(["好", "ok"]) == "好 ok" and join_texts([]) == "" and join_texts(["สวัส", "ดี"]) == "สวัสดี"
