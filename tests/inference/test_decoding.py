"""Greedy decoding of data sets, compared with a computation of one utterance at a time, step by step."""

import io
import itertools
import math
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import AutoModelForCTC, AutoProcessor

from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplForCTC, MlplProcessor, MlplTokenizer
from hf_mlpl.ctc_models.interface import DecodedText
from hf_mlpl.data.utterances import FEATURES
from hf_mlpl.inference import paths
from hf_mlpl.inference.decoding import Hypothesis, _log_once, _make_hypothesis, transcribe
from hf_mlpl.inference.paths import GreedyPath, best_classes, collapsed_length

from ..small_models import save_small_model

LETTERS = "|abcdefghijklmno"
LANGUAGES = ["de", "sl", "sv-SE"]
SECONDS = [0.5, 1.31, 0.02, 2.03, 0.9, 1.0, 0.33, 1.32]
UNREADABLE = 4  # row


@pytest.fixture(scope="module")
def processor(tmp_path_factory) -> MlplProcessor:
    path = tmp_path_factory.mktemp("tokens") / "tokens.lst"
    path.write_text("".join(f"{letter}\n" for letter in LETTERS))
    return MlplProcessor(MlplFeatureExtractor(), MlplTokenizer(path))


def make_model(languages=LANGUAGES) -> MlplForCTC:
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "attention_head_dim": 16, "intermediate_size": 64}
    dropout = {"conv_dropout": 0.3, "attention_dropout": 0.3, "activation_dropout": 0.3, "layerdrop": 0.3}
    torch.manual_seed(0)
    model = MlplForCTC(MlplConfig.tiny(len(LETTERS) + 1, languages, num_hidden_layers=2, **sizes, **dropout))
    with torch.no_grad():  # random weights alone give one letter all the time
        model.ctc_head.weight *= 20
        model.ctc_head.bias[LETTERS.index("|")] += 1
        if model.lid_head is not None:
            model.lid_head.weight *= 20
    return model


@pytest.fixture(scope="module")
def model() -> MlplForCTC:
    return make_model()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    """Writes noise whose loudness and colour change; one clip is not audio."""
    folder, rows = tmp_path_factory.mktemp("clips"), []
    for i, seconds in enumerate(SECONDS):
        rng = np.random.default_rng(i)
        noise = rng.normal(size=round(16000 * seconds))
        time = np.arange(len(noise)) / 16000
        tone = np.sin(2 * np.pi * (200 + 200 * i + 700 * np.sin(3 * time)) * time)
        clip = 0.1 * (noise * np.sin((5 + i) * time) ** 2 + tone)
        path = folder / f"{i}.wav"
        soundfile.write(path, clip.astype(np.float32), 16000)
        if i == UNREADABLE:
            path.write_bytes(b"no sound")
        audio = {"path": str(path), "start": None, "end": None}
        rows.append({"id": f"u{i}", "audio": audio, "duration_seconds": seconds, "language": "sl"})
    empty = dict.fromkeys(["text", "speaker", "source"])
    return Dataset.from_list([{**row, **empty} for row in rows], features=FEATURES)


def by_hand(model, row) -> Hypothesis:
    """Decodes one utterance alone: probabilities, the best path, its collapse."""
    samples, rate = soundfile.read(row["audio"]["path"], dtype="float32")
    features = MlplFeatureExtractor()(samples, sampling_rate=rate, return_tensors="pt")["input_features"]
    model.eval()
    with torch.no_grad():
        output = model(features)
    probabilities = output.logits[0].double().softmax(dim=-1).numpy()
    best = probabilities.argmax(axis=1)
    letters = "".join((*LETTERS, "")[number] for number, _ in itertools.groupby(best))
    mean_log_prob = float(np.log(probabilities.max(axis=1)).mean())
    language = None
    if output.language_log_probs is not None:
        language = LANGUAGES[int(output.language_log_probs[0].argmax())]
    return Hypothesis(
        row=int(row["id"][1:]),
        text=" ".join(word for word in letters.split("|") if word),
        language=language,
        num_frames=len(best),
        mean_log_prob=mean_log_prob,
        letter_log_prob=mean_log_prob * len(best) / max(len(letters), 1),
        length_ratio=len(letters) / expected_length(probabilities, len(LETTERS)),
        expected_labels=expected_length(probabilities, len(LETTERS)),
        blank_ratio=float(np.mean(best == len(LETTERS))),
    )


def expected_length(probabilities, blank: int) -> float:
    """Returns the expected number of labels of a path (S,), given probabilities (S, V), by the formula."""
    expected, before = 0.0, [0.0] * len(probabilities[0])
    for frame in probabilities.tolist():
        expected += sum(p * (1 - q) for c, (p, q) in enumerate(zip(frame, before, strict=True)) if c != blank)
        before = frame
    return expected


def by_row(hypotheses) -> list[Hypothesis]:
    hypotheses = list(hypotheses)
    assert sorted(hypothesis.row for hypothesis in hypotheses) == list(range(len(hypotheses)))
    return sorted(hypotheses, key=lambda hypothesis: hypothesis.row)


def assert_same(hypotheses, expected):
    for one, other in zip(hypotheses, expected, strict=True):
        assert (one.row, one.text, one.language, one.error) == (other.row, other.text, other.language, other.error)
        assert one.num_frames == other.num_frames
        for name in ("mean_log_prob", "letter_log_prob", "length_ratio", "expected_labels", "blank_ratio"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("max_batch_seconds, num_workers", [(0.01, 0), (3.0, 0), (100.0, 0), (3.0, 2)])
def test_transcripts_equal_those_of_each_utterance_alone(model, processor, dataset, max_batch_seconds, num_workers):
    hypotheses = by_row(transcribe(model, processor, dataset, max_batch_seconds, num_workers))
    assert len(hypotheses) == len(SECONDS)
    bad = hypotheses.pop(UNREADABLE)
    assert (bad.text, bad.num_frames, bad.language) == ("", 0, None)
    assert bad.error.startswith(f"utterance u{UNREADABLE}: ") and "is not audio" in bad.error
    assert "\n" not in bad.error
    expected = [by_hand(model, row) for i, row in enumerate(dataset) if i != UNREADABLE]
    assert_same(hypotheses, expected)
    # texts and languages differ
    assert len({hypothesis.text for hypothesis in expected}) >= 6
    assert len({hypothesis.language for hypothesis in expected}) >= 2
    assert any(" " in hypothesis.text for hypothesis in expected)
    assert max(hypothesis.mean_log_prob for hypothesis in expected) < -0.01


def test_the_longest_come_first(model, processor, dataset):
    rows = [hypothesis.row for hypothesis in transcribe(model, processor, dataset, 0.01)]
    assert [SECONDS[row] for row in rows] == sorted(SECONDS, reverse=True)


def test_a_model_without_languages(processor, dataset):
    model = make_model(languages=[])
    good = dataset.select(range(UNREADABLE))
    assert_same(by_row(transcribe(model, processor, good, 3.0)), [by_hand(model, row) for row in good])


def test_a_model_that_reads_padding_decodes_one_by_one(dataset, tmp_path, caplog):
    """Its transcripts are those of each utterance alone, and the log says so once, however often it transcribes."""
    folder = save_small_model(tmp_path, "wav2vec2-group")
    model, processor = AutoModelForCTC.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    good = dataset.select(range(UNREADABLE))
    _log_once.cache_clear()  # other tests may have made it say so
    for _ in range(2):
        hypotheses = by_row(transcribe(model, processor, good, 100.0))
    with torch.no_grad():
        for hypothesis, row in zip(hypotheses, good, strict=True):
            samples, rate = soundfile.read(row["audio"]["path"], dtype="float32")
            logits = model.eval()(**processor(samples, sampling_rate=rate, return_tensors="pt")).logits[0]
            best = logits.log_softmax(-1).max(-1)
            assert hypothesis.text == " ".join(processor.decode(best.indices).split())
            assert hypothesis.mean_log_prob == pytest.approx(float(best.values.mean()), abs=1e-5)
            assert hypothesis.num_frames == len(logits) and hypothesis.seconds == len(samples) / rate
            assert (hypothesis.language, hypothesis.language_probability) == (None, None)
    assert len({hypothesis.text for hypothesis in hypotheses}) > 2
    assert [record.message.count("one by one") for record in caplog.records] == [1]


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_restored(model, processor, dataset, training):
    good = dataset.select(range(UNREADABLE))
    expected = [by_hand(model, row) for row in good]
    model.train(training)
    assert_same(by_row(transcribe(model, processor, good, 3.0)), expected)  # no dropout while it lasts
    assert all(module.training == training for module in model.modules())
    interrupted = transcribe(model, processor, good, 0.01)
    next(interrupted)
    interrupted.close()
    assert all(module.training == training for module in model.modules())


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("max_batch_seconds, threads_of_each", [(0.01, {1}), (3.0, {1}), (7.0, {2}), (100.0, {4})])
def test_threads_share_the_batches(model, processor, dataset, four_threads, max_batch_seconds, threads_of_each):
    seen = []
    hook = model.register_forward_pre_hook(lambda *_: seen.append((threading.get_ident(), torch.get_num_threads())))
    hypotheses = by_row(transcribe(model, processor, dataset, max_batch_seconds))
    hook.remove()
    assert {threads for _, threads in seen} == threads_of_each
    assert threading.get_ident() not in {ident for ident, _ in seen}
    assert torch.get_num_threads() == 4
    hypotheses.pop(UNREADABLE)
    assert_same(hypotheses, [by_hand(model, row) for i, row in enumerate(dataset) if i != UNREADABLE])


def test_threads_end_with_the_transcripts(model, processor, dataset, four_threads):
    before = threading.active_count()
    interrupted = transcribe(model, processor, dataset, 0.01)
    next(interrupted)
    interrupted.close()
    assert threading.active_count() == before and torch.get_num_threads() == 4

    def fail(*_):
        raise RuntimeError("no memory")

    hook = model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no memory"):
        list(transcribe(model, processor, dataset, 0.01))
    hook.remove()
    assert threading.active_count() == before and torch.get_num_threads() == 4


@pytest.mark.parametrize("num_classes", [17, 2**20, 2**20 + 1])
def test_best_classes_are_those_of_all_frames_at_once(num_classes):
    logits = torch.randn(2, 3, num_classes, generator=torch.Generator().manual_seed(0))
    log_probs, best, _ = best_classes(logits, num_classes - 1)
    assert torch.equal(best, logits.argmax(-1))
    expected = logits.double().log_softmax(-1).gather(-1, best[:, :, None])[:, :, 0]
    torch.testing.assert_close(log_probs.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("blank", [0, 1, 2])
@pytest.mark.parametrize("block", [3, 6, 2**20])  # one frame, two, all
def test_expected_labels_are_those_of_all_paths(blank, block, monkeypatch):
    """Their number is the mean length of the texts of all 3^5 paths, each with its probability."""
    monkeypatch.setattr(paths, "BLOCK_LOGITS", block)
    logits = 2 * torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(blank))
    _, best, begins = best_classes(logits, blank)
    for of_one, path, found in zip(logits.double().softmax(-1).tolist(), best.tolist(), begins, strict=True):
        expected = total = 0.0
        for classes in itertools.product(range(3), repeat=5):
            probability = math.prod(frame[each] for frame, each in zip(of_one, classes, strict=True))
            expected += probability * sum(label != blank for label, _ in itertools.groupby(classes))
            total += probability
        assert total == pytest.approx(1)
        assert float(found.sum()) == pytest.approx(expected, rel=1e-5)
        assert expected == pytest.approx(expected_length(np.array(of_one), blank))
        labels = [label for label, _ in itertools.groupby(path) if label != blank]
        assert collapsed_length(np.array(path), blank) == len(labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_expected_labels_of_a_padded_batch_are_those_of_one_by_one(dtype, monkeypatch):
    """Blocks end anywhere; what a padded row has after its end changes nothing before it."""
    monkeypatch.setattr(paths, "BLOCK_LOGITS", 7 * 40)
    logits = 4 * torch.randn(3, 20, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    together, alone = best_classes(logits, 39), [best_classes(logits[i : i + 1, : 5 + 7 * i], 39) for i in range(3)]
    for i, own in enumerate(alone):
        for one, other in zip(together, own, strict=True):
            torch.testing.assert_close(one[i, : 5 + 7 * i], other[0], rtol=0, atol=2e-6)
    exact = [expected_length(each.double().softmax(-1).numpy(), 39) for each in logits]
    assert together[2].sum(1).tolist() == pytest.approx(exact, rel=1e-5)


def test_certain_blanks_give_finite_scores():
    """A certain model expects no label at all: a ratio to nothing would be infinite."""
    logits = torch.full((1, 9, 4), -1e4)
    logits[..., 0] = 0
    path = [tensor[0].numpy() for tensor in best_classes(logits, 0)]
    ctc = SimpleNamespace(blank_id=0, languages=(), decode=lambda labels: DecodedText("", []))
    hypothesis = _make_hypothesis(ctc, 0, -1, [GreedyPath(*path, None, 1.0)])
    assert hypothesis.length_ratio == hypothesis.letter_log_prob == hypothesis.mean_log_prob == 0


def test_gradients_are_off_only_inside(model, processor, dataset):
    for _ in transcribe(model, processor, dataset.select([0, 1]), 0.01):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_progress_counts_utterances(model, processor, dataset):
    with tqdm(total=len(dataset), file=io.StringIO()) as progress:
        list(transcribe(model, processor, dataset, 3.0, progress=progress))
        assert progress.n == len(dataset)  # unreadable ones too


def test_nothing_to_transcribe(model, processor, dataset):
    assert list(transcribe(model, processor, dataset.select([]), 3.0)) == []
    (bad,) = transcribe(model, processor, dataset.select([UNREADABLE]), 3.0)
    assert bad.error
