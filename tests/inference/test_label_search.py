"""Tests transcripts of data sets by beam search, against the search of all logits of one utterance at a time."""

import itertools
import re
import sys

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset

from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplForCTC, MlplProcessor, MlplTokenizer
from hf_mlpl.data.utterances import FEATURES
from hf_mlpl.inference.candidates import NUM_CANDIDATES, Candidates, likeliest_classes, log_probs_of
from hf_mlpl.inference.decoding import transcribe
from hf_mlpl.inference.pieces import cut
from hf_mlpl.model.text import write_tokens
from hf_mlpl.ngrams import Sentences, characters_units, estimate, words_units, write_arpa

pytest.importorskip("flashlight.lib.text", reason="needs the extra lm")
from hf_mlpl.inference import beam_search, label_search  # noqa: E402
from hf_mlpl.inference.beam_search import BeamSearchDecoder  # noqa: E402
from hf_mlpl.inference.label_search import SearchSettings, load_search  # noqa: E402

TEXTS = ["ab fade e", "d cafe dad", "fa be ab", "bead face", "dad e fade"]
LANGUAGES = ["de", "sl", "sl", "sl", "de", "sl"]
SECONDS = [1.5, 0.4, 0.02, 2.2, 1.0, 47.0]  # the last one is cut into pieces


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Writes a tokens file and language models of Slovenian, of characters and of words."""
    folder = tmp_path_factory.mktemp("lm")
    write_tokens(folder / "tokens.lst", ["|", *"abcdef"])
    for name, split, order in (("characters", characters_units, 4), ("words", words_units, 2)):
        (folder / name).mkdir()
        sentences = Sentences(split)
        sentences.add(TEXTS)
        write_arpa(estimate(*sentences.numbered(), order), folder / name / "sl.arpa")
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder) -> MlplTokenizer:
    return MlplTokenizer(folder / "tokens.lst")


@pytest.fixture(scope="module")
def recognizer(tokenizer):
    """Makes a model that finds letters in sweeps."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "attention_head_dim": 16, "intermediate_size": 64}
    model = MlplForCTC(MlplConfig.tiny(8, ["de", "sl"], num_hidden_layers=2, **sizes)).eval()
    with torch.no_grad():  # random weights alone give one letter all the time
        model.ctc_head.weight *= 20
    return model, MlplProcessor(MlplFeatureExtractor(), tokenizer)


def sweep(seconds: float, number: int) -> np.ndarray:
    t = np.arange(round(seconds * 16000)) / 16000
    envelope = 0.2 * (1 + np.sin(2 * np.pi * (3 + 0.1 * number) * t))
    return (envelope * np.sin(2 * np.pi * (300 + 900 * np.sin((1.7 + number) * t) ** 2) * t)).astype(np.float32)


@pytest.fixture(scope="module")
def dataset(folder) -> Dataset:
    rows = []
    for number, (seconds, language) in enumerate(zip(SECONDS, LANGUAGES, strict=True)):
        soundfile.write(folder / f"{number}.flac", sweep(seconds, number), 16000)
        audio = {"path": str(folder / f"{number}.flac"), "start": None, "end": None}
        rows.append({"id": str(number), "audio": audio, "duration_seconds": seconds, "language": language})
    empty = dict.fromkeys(["text", "speaker", "source"])
    return Dataset.from_list([{**row, **empty} for row in rows], features=FEATURES)


def logits_by_hand(recognizer, row: dict) -> torch.Tensor:
    """Returns the logits (S, V) of the middles of the pieces of an utterance."""
    model, processor = recognizer
    samples, _ = soundfile.read(row["audio"]["path"], dtype="float32")
    middles = []
    for piece in cut([samples], 16000, 480):
        features = processor.feature_extractor(piece.samples, sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            middles.append(model(features["input_features"]).logits[0, piece.left : piece.end])
    return torch.cat(middles)


@pytest.mark.parametrize("units", ["characters", "words"])
def test_texts_and_scores_are_those_of_one_search_over_an_utterance(folder, tokenizer, recognizer, dataset, units):
    search = load_search(folder / units, tokenizer, ["de", "sl"], SearchSettings(0.8, beam_size=20))
    found = {each.row: each for each in transcribe(*recognizer, dataset, search=search)}
    decoder = BeamSearchDecoder(tokenizer, folder / units / "sl.arpa", lm_weight=0.8, beam_size=20)
    differing = 0
    for number, row in enumerate(dataset):
        logits, hypothesis = logits_by_hand(recognizer, row), found[number]
        greedy = tokenizer.decode(logits.argmax(-1))
        if row["language"] == "de":  # which has no language model
            assert hypothesis.text == greedy
            continue
        (expected,) = decoder.decode(logits[None])
        differing += expected.text != greedy
        assert hypothesis.text == expected.text and hypothesis.num_frames == len(logits)
        log_probs = logits.double().log_softmax(-1)[torch.arange(len(logits)), expected.labels]
        assert hypothesis.mean_log_prob == pytest.approx(float(log_probs.mean()), abs=1e-4)
        assert hypothesis.blank_ratio == pytest.approx(float((expected.labels == 7).double().mean()))
        if expected.words:
            lowest = min(word["confidence"] for word in expected.words)
            assert hypothesis.lowest_word_confidence == pytest.approx(lowest, rel=1e-3)
    assert differing >= 3 and len(found[5].text) > 50


def test_batches_and_workers_change_nothing(folder, tokenizer, recognizer, dataset):
    search = load_search(folder / "characters", tokenizer, ["de", "sl"])
    alone = [next(transcribe(*recognizer, dataset.select([row]), search=search)) for row in range(len(dataset))]
    for max_batch_seconds, num_workers in ((5.0, 0), (100.0, 2)):
        together = transcribe(*recognizer, dataset, max_batch_seconds, num_workers, search=search)
        for hypothesis in together:
            expected = alone[hypothesis.row]
            assert (hypothesis.text, hypothesis.language) == (expected.text, expected.language)
            assert hypothesis.mean_log_prob == pytest.approx(expected.mean_log_prob, abs=1e-4)


@pytest.mark.parametrize("units", ["characters", "words"])
def test_long_utterances_are_searched_block_by_block(folder, tokenizer, units, monkeypatch):
    """Looks back at 90 frames, of blocks of 40 and 100, and finds what a search of all frames together finds."""
    monkeypatch.setattr(beam_search, "LOOK_BACK", 90)
    search = load_search(folder / units, tokenizer, ["sl"], SearchSettings(blank_penalty=1.5))
    for seed, block in itertools.product(range(6), (40, 100)):
        monkeypatch.setattr(label_search, "BLOCK", block)
        logits = 4 * torch.randn(1, 330 + 10 * seed, 8, generator=torch.Generator().manual_seed(seed))
        log_probs, classes = (tensor[0].numpy() for tensor in likeliest_classes(logits, 7))
        labels = search.path("sl", Candidates(classes, log_probs))
        (expected,) = search.decoders["sl"].decode(logits)
        assert labels.tolist() == expected.labels.tolist() and len(expected.words) > 5
        np.testing.assert_allclose(log_probs_of(labels, Candidates(classes, log_probs)), expected.log_probs, atol=1e-5)


def test_the_shortest_utterances(folder, tokenizer):
    search = load_search(folder / "characters", tokenizer, ["sl"])
    for frames in (0, 1, 2):
        candidates = Candidates(np.tile(np.arange(8), (frames, 1)), np.full((frames, 8), -2.0, np.float32))
        assert len(search.path("sl", candidates)) == frames
    assert search.path("de", candidates) is None and search.path(None, candidates) is None
    assert search.path("sl", Candidates(candidates.classes, candidates.log_probs * np.nan)) is None


def test_candidates_are_the_likeliest_classes_and_the_blank(monkeypatch):
    logits = torch.randn(2, 30, 200, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr("hf_mlpl.inference.candidates.BLOCK_LOGITS", 1000)
    log_probs, classes = likeliest_classes(logits, 150)
    expected = logits.double().log_softmax(-1)
    assert classes.shape == (2, 30, NUM_CANDIDATES)
    torch.testing.assert_close(log_probs.double(), expected.gather(2, classes), atol=1e-5, rtol=0)
    assert (classes == 150).sum(-1).eq(1).all()
    likeliest = expected.argsort(-1, descending=True)[..., : NUM_CANDIDATES - 1]
    assert torch.equal(classes[..., : NUM_CANDIDATES - 1], likeliest)
    candidates = Candidates(classes[0].numpy(), log_probs[0].numpy())
    path = likeliest[0, :, 3].numpy()
    np.testing.assert_allclose(log_probs_of(path, candidates), expected[0].gather(1, likeliest[0, :, 3:4])[:, 0], 1e-5)


def test_the_name_of_a_search_is_that_of_files_and_settings(folder, tokenizer, tmp_path):
    def name(lm, languages=("sl",), **settings) -> str:
        return load_search(lm, tokenizer, languages, SearchSettings(**settings)).name

    characters, words = folder / "characters", folder / "words"
    assert re.fullmatch("lm-[0-9a-f]{12}-w0.5-b50", name(characters))
    assert name(characters) == name(characters / "sl.arpa") == name(characters, ["de", "sl"])
    (tmp_path / "sl.bin").write_bytes((characters / "sl.arpa").read_bytes())  # KenLM looks at the content
    assert name(tmp_path) == name(characters)
    names = {name(characters), name(words), name(characters, lm_weight=0.4), name(characters, beam_size=10)}
    assert len({*names, name(words, word_score=1.0)}) == 5
    assert name(words, word_score=1.0).endswith("-w0.5-s1-b50")
    penalized = load_search(words, tokenizer, ["sl"]).with_blank_penalty(1.5)
    assert penalized.name == name(words, blank_penalty=1.5) and penalized.name.endswith("-w0.5-p1.5-b50")
    assert penalized.description["blank_penalty"] == 1.5
    (tmp_path / "de.arpa").write_bytes((characters / "sl.arpa").read_bytes())
    assert name(tmp_path, ["de", "sl"]) != name(tmp_path) == name(tmp_path, ["sl", "nl"])
    assert load_search(tmp_path, tokenizer, ["sl", "nl"]).greedy == ["nl"]


def test_language_models_that_cannot_be_used(folder, tokenizer, tmp_path):
    file = folder / "characters" / "sl.arpa"
    with pytest.raises(ValueError, match="sl.arpa: is one language model, and the utterances are in de, sl; give a"):
        load_search(file, tokenizer, ["de", "sl"])
    with pytest.raises(ValueError, match=r"has a language model of none of de, nl; it is looked for as de.arpa, as `"):
        load_search(file.parent, tokenizer, ["de", "nl"])
    with pytest.raises(FileNotFoundError, match="none.arpa: no such language model; `hf-mlpl build-lm` writes one"):
        load_search(tmp_path / "none.arpa", tokenizer, ["sl"])
    (tmp_path / "sl.arpa").write_text(re.sub(r"[a-f|]", "x", file.read_text()).replace("\\dxtx\\", "\\data\\"))
    with pytest.raises(ValueError, match="sl.arpa"):
        load_search(tmp_path, tokenizer, ["sl"])
    with pytest.raises(ValueError, match="language models are for CTC models of hf_mlpl; this one has a object"):
        load_search(file, object(), ["sl"])
    with pytest.raises(ValueError, match="word_score is 1.0, but there are no words"):
        load_search(file, tokenizer, ["sl"], SearchSettings(word_score=1.0))
    assert "flashlight.lib.text.decoder" in sys.modules
