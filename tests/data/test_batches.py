"""Selection of utterances for training, plans of batches by seconds, and the tensors of a batch."""

import itertools
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoProcessor

from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplForCTC, MlplProcessor, MlplTokenizer
from hf_mlpl.data.batches import (
    BatchPlan,
    SpeechBatches,
    micro_batch_seed,
    plan_batches,
    repetitions,
    short_utterances,
)
from hf_mlpl.data.drops import DropFile
from hf_mlpl.data.selection import DROPPED, min_ctc_frames, select_for_training
from hf_mlpl.data.utterances import FEATURES, read_utterances, write_utterances
from hf_mlpl.training_config import SpecAugmentConfig, WaveformAugmentConfig

from ..small_models import save_small_model

TOKENS = "|abcde"
CLASSES = {entry: number for number, entry in enumerate(TOKENS)} | {" ": 0}
SECONDS = [0.31, 1.2, 0.02, 0.8, 0.44, 0.6]
TEXTS = ["ab", "a bad cab", "e", "dada", "", "bee"]
LANGUAGES = ["sl", "sv-SE", "sl", "xx", "sv-SE", "sl"]  # the model does not know xx


def rows_of(paths, texts=TEXTS, seconds=SECONDS, languages=LANGUAGES) -> Dataset:
    rows = [
        {
            "id": f"u{i}",
            "audio": {"path": str(path), "start": None, "end": None},
            "duration_seconds": duration,
            "language": language,
            "text": text,
            "speaker": None,
            "source": None,
        }
        for i, (path, text, duration, language) in enumerate(zip(paths, texts, seconds, languages, strict=True))
    ]
    return Dataset.from_list(rows, features=FEATURES)


@pytest.fixture(scope="module")
def processor(tmp_path_factory) -> MlplProcessor:
    path = tmp_path_factory.mktemp("tokens") / "tokens.lst"
    path.write_text("".join(f"{entry}\n" for entry in TOKENS))
    return MlplProcessor(MlplFeatureExtractor(), MlplTokenizer(path))


@pytest.fixture(scope="module")
def config() -> MlplConfig:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "attention_head_dim": 8, "intermediate_size": 32}
    return MlplConfig.tiny(len(TOKENS) + 1, ["sl", "sv-SE"], num_hidden_layers=1, **sizes)


@pytest.fixture
def clips(tmp_path) -> list[Path]:
    paths = [tmp_path / f"{i}.wav" for i in range(len(SECONDS))]
    for i, (path, seconds) in enumerate(zip(paths, SECONDS, strict=True)):
        noise = np.random.default_rng(i).normal(scale=0.1, size=round(16000 * seconds)).astype(np.float32)
        soundfile.write(path, noise, 16000, subtype="FLOAT")
    return paths


@pytest.fixture
def make(clips, processor, config):
    """Returns a function that makes batches of the clips, among them an unknown language and an empty text."""

    def make(plan=([0, 1, 2], [5, 3], [4], [1, 0]), with_labels=True, dataset=None, **settings) -> SpeechBatches:
        return SpeechBatches(dataset or rows_of(clips), list(plan), processor, config, with_labels, **settings)

    return make


def assert_equal(one, other):
    for name, value in vars(one).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(other, name)), name
        else:
            assert value == getattr(other, name), name


# ---- plans


@settings(max_examples=200, deadline=None)
@given(
    durations=st.lists(st.floats(0.01, 40), max_size=60),
    max_batch_seconds=st.floats(0.01, 120),
    seed=st.none() | st.integers(0, 2**32),
)
def test_plans_hold_every_row_once_within_the_budget(durations, max_batch_seconds, seed):
    rng = None if seed is None else np.random.default_rng(seed)
    batches = plan_batches(np.array(durations), max_batch_seconds, rng)
    assert sorted(itertools.chain(*batches)) == list(range(len(durations)))
    for batch in batches:
        assert len(batch) == 1 or max(durations[row] for row in batch) * len(batch) <= max_batch_seconds
    if rng is None:
        in_order = [durations[row] for row in itertools.chain(*batches)]
        assert in_order == sorted(durations, reverse=True)
        for batch, following in itertools.pairwise(batches):  # no batch is smaller than it must be
            assert durations[batch[0]] * (len(batch) + 1) > max_batch_seconds, following


def test_a_too_long_utterance_is_alone():
    durations = np.array([1.0, 2.0, 30.0, 1.5, 21.0])
    for rng in (None, np.random.default_rng(0)):
        batches = plan_batches(durations, 20, rng)
        assert sorted(sorted(batch) for batch in batches) == [[0, 1, 3], [2], [4]]


@pytest.mark.parametrize("max_batch_seconds", [60, 300])
def test_nearly_all_frames_of_a_batch_are_useful(max_batch_seconds):
    rng = np.random.default_rng(0)
    durations = np.clip(rng.lognormal(np.log(4.9), 0.33, size=50_000), 1, 20)  # mean 5.2 s, as in Common Voice
    for generator in (rng, rng, None):
        batches = plan_batches(durations, max_batch_seconds, generator)
        padded = np.array([len(batch) * durations[batch].max() for batch in batches])
        assert durations.sum() / padded.sum() > 0.95
        # the budget is used, and kept by batches of many utterances too
        assert padded.mean() > 0.85 * max_batch_seconds
        assert padded.max() <= max_batch_seconds


@pytest.fixture(scope="module")
def durations():
    return np.random.default_rng(1).uniform(1, 10, size=101)


@pytest.mark.parametrize("num_short", [0, 50])
def test_a_plan_is_a_function_of_seed_and_number(durations, num_short):
    numbers = range(200)
    short = {"is_short": durations < 4, "num_short": num_short}
    plan = BatchPlan(durations, 30, seed=5, **short)
    expected = [plan[number] for number in numbers]
    epochs = [plan.epoch(number) for number in numbers]
    assert epochs == sorted(epochs) and epochs[-1] > 3
    backwards = BatchPlan(durations, 30, seed=5, **short)
    assert [backwards[number] for number in reversed(numbers)] == expected[::-1]
    jumping = BatchPlan(durations, 30, seed=5, **short)
    for number in np.random.default_rng(0).permutation(200).tolist():
        assert jumping[number] == expected[number]
        assert jumping.epoch(number) == epochs[number]
    assert BatchPlan(durations, 30, seed=5, **short)[199] == expected[199]  # as after resuming
    other = BatchPlan(durations, 30, seed=6, **short)
    assert [other[number] for number in numbers] != expected


def test_each_pass_is_a_permutation_and_differs_from_the_others(durations):
    plan = BatchPlan(durations, 30, seed=0)
    passes = [[plan[number] for number in numbers] for _, numbers in itertools.groupby(range(200), key=plan.epoch)][
        :-1
    ]
    assert len(passes) >= 4
    for batches in passes:
        assert sorted(itertools.chain(*batches)) == list(range(len(durations)))
    for one, other in itertools.combinations(passes, 2):
        # not only in another order: other utterances meet
        assert len({frozenset(batch) for batch in one} & {frozenset(batch) for batch in other}) < len(one) / 2


def test_a_curriculum_begins_with_passes_over_short_utterances(durations):
    """The last of them ends where the curriculum does, and the next pass has all utterances."""
    is_short = durations < 4
    plan = BatchPlan(durations, 30, seed=0, is_short=is_short, num_short=10)
    groups = itertools.groupby(range(100), key=plan.epoch)
    passes = [[row for number in numbers for row in plan[number]] for _, numbers in groups][:-1]
    whole = [plan.first_numbers.index(10), len(passes)]
    assert whole[0] >= 2 and whole[1] >= whole[0] + 2
    short = np.flatnonzero(is_short).tolist()
    assert all(sorted(rows) == short for rows in passes[: whole[0] - 1])
    assert set(passes[whole[0] - 1]) < set(short)  # is cut
    assert all(sorted(rows) == list(range(len(durations))) for rows in passes[whole[0] :])
    twice = BatchPlan(durations, 30, 0, 2.0, is_short=is_short, num_short=99)
    first = [row for number in itertools.takewhile(lambda n: twice.epoch(n) == 0, range(99)) for row in twice[number]]
    assert sorted(first) == sorted(2 * short)


@pytest.mark.parametrize(("share", "short"), [(0.01, "ae"), (0.3, "abe"), (0.5, "abef"), (1.0, "abcdefg")])
def test_the_shortest_utterances_of_each_language(share, short):
    """At least one, and all that are as short as the last."""
    rows = {"a": 1.0, "b": 2.0, "c": 9.0, "d": 8.0, "e": 5.0, "f": 7.0, "g": 7.5}
    dataset = Dataset.from_dict(
        {"language": ["sl"] * 4 + ["de"] * 3, "duration_seconds": list(rows.values()), "source": ["human"] * 7}
    )
    assert "".join(np.array(list(rows))[short_utterances(dataset, share)]) == short
    alike = Dataset.from_dict({"language": ["sl"] * 3, "duration_seconds": [1.0] * 3})
    assert short_utterances(alike, share).all()


# ---- selection


def collapse(path, blank):
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def test_min_ctc_frames_is_the_shortest_path():
    num_labels, blank = 2, 2
    shortest = {}
    for frames in range(8):
        for path in itertools.product(range(num_labels + 1), repeat=frames):
            shortest.setdefault(collapse(path, blank), frames)
    sequences = [s for length in range(5) for s in itertools.product(range(num_labels), repeat=length)]
    assert len(sequences) == 31
    for labels in sequences:
        assert min_ctc_frames(list(labels)) == shortest[labels]


def numbered(count):
    """Returns a text of `count` labels that needs as many frames."""
    return ("ab" * count)[:count]


def select(rows, processor, config, max_seconds=20.0):
    dataset = rows_of(*zip(*[("x.wav", *row) for row in rows], strict=True))
    return select_for_training(dataset, processor, config, max_seconds)


def test_selection_counts_and_logs_what_it_drops(processor, config, caplog):
    rows = [
        ("a bad cab", 1.0, "sl"),
        (None, 1.0, "sl"),
        ("", 1.0, "sv-SE"),
        ("a ba\u00df", 1.0, "sl"),
        ("Bad", 1.0, "sl"),
        ("a bad cab", 20.5, "sl"),
        ("dada", 20.0, "sv-SE"),
        (numbered(35), 1.0, "sl"),  # 98 frames of 10 ms, 33 of 30 ms
        ("a" * 18, 1.0, "sl"),  # 17 blanks between them: 35 frames
        ("a" * 17, 1.0, "sl"),
    ]
    with caplog.at_level(logging.INFO):
        selected, dropped = select(rows, processor, config)
    assert list(selected["id"]) == ["u0", "u6", "u9"]
    assert dropped == {
        "no text": 2,
        "unknown characters": 2,
        "longer than 20 s": 1,
        "more labels than frames": 2,
    }
    *lines, characters = [record.getMessage() for record in caplog.records]
    assert [line.partition(" (")[0] for line in lines] == [
        "utterance u1 dropped: no text",
        "utterance u2 dropped: no text",
        "utterance u3 dropped: unknown characters",
        "utterance u4 dropped: unknown characters",
        "utterance u5 dropped: longer than 20 s",
        "utterance u7 dropped: more labels than frames",
        "utterance u8 dropped: more labels than frames",
    ]
    assert "'a ba\u00df'" in lines[2]
    assert characters.startswith("characters that the tokenizer lacks: ")
    assert "U+00DF LATIN SMALL LETTER SHARP S) x 1" in characters and "'B' (U+0042" in characters


@pytest.mark.parametrize("surround", ["", "|"])
def test_bounds_on_frames_select_the_same_as_tokenizing_every_text(tmp_path, config, surround):
    """Tests entries of several characters, of which one is no entry itself, and entries that share a line."""
    (tmp_path / "tokens.lst").write_text("|\na\nb B\nch\naa\n")  # no c or h alone
    processor = MlplProcessor(MlplFeatureExtractor(), MlplTokenizer(tmp_path / "tokens.lst", surround=surround))
    rng = np.random.default_rng(0)
    pieces = ["a", "a", "b", "B", "ch", " ", "aa"]
    texts = ["".join(rng.choice(pieces, rng.integers(1, 40))) for _ in range(400)]
    texts += ["c", "h", "hc", "ach h", "x", "  ", "a\u00a0b"]
    seconds = rng.uniform(0.05, 2.5, len(texts)).round(2).tolist()
    fits = []
    for text, duration in zip(texts, seconds, strict=True):
        frames = config.num_output_frames(processor.feature_extractor.num_frames(round(16_000 * duration)))
        ids = processor.tokenizer(text)["input_ids"]
        known = text.strip() and not processor.tokenizer.unknown_characters(text)
        fits.append(bool(known and min_ctc_frames(ids) <= frames))
    assert 50 < sum(fits) < len(fits) - 50
    selected, _ = select([(*row, "sl") for row in zip(texts, seconds, strict=True)], processor, config)
    assert list(selected["id"]) == [f"u{row}" for row, fit in enumerate(fits) if fit]


def test_selection_drops_texts_that_become_empty(tmp_path):
    """A text that is the word boundary of another vocabulary has no label, and would be learned as silence."""
    folder = save_small_model(tmp_path / "model", "wav2vec2", letters="ab")
    config, processor = AutoConfig.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    selected, dropped = select([(text, 1.0, "sl") for text in ("|", "| |", "a | b")], processor, config)
    assert list(selected["id"]) == ["u2"] and dropped == {"no text": 2}


def test_selection_counts_frames_exactly(processor, config):
    """Tests also 16,240 samples, where seconds times the rate is not quite the number of samples."""
    for num_samples in [*range(15_900, 16_400, 20), 16_240, 64_240]:
        frames = -(-(1 + (num_samples - 400) // 160) // 3)
        rows = [(numbered(frames), num_samples / 16000, "sl"), (numbered(frames + 1), num_samples / 16000, "sl")]
        selected, dropped = select(rows, processor, config)
        assert list(selected["id"]) == ["u0"]
        assert dropped == {"more labels than frames": 1}


def test_selection_refuses_unknown_languages_and_an_empty_result(processor, config):
    with pytest.raises(ValueError, match="the model has no class for de, fr; it knows sl, sv-SE"):
        select([("a", 1.0, "fr"), ("a", 1.0, "sl"), ("a", 1.0, "de")], processor, config)
    with pytest.raises(ValueError, match="none of 2 utterances can be used for training: .*'no text': 1"):
        select([("xyz", 1.0, "sl"), (None, 1.0, "sl")], processor, config)


# ---- tensors


def test_tensors_of_a_batch(make, clips, processor):
    batches = make()
    for number, rows in enumerate(batches.plan):
        batch = batches[number]
        assert (batch.indices, batch.problems) == (rows, {})
        for i, row in enumerate(rows):
            samples, rate = soundfile.read(clips[row], dtype="float32")
            frames = processor.feature_extractor(samples, sampling_rate=rate)["input_features"][0]
            length = 1 + max(len(samples) - 400, 0) // 160
            assert batch.attention_mask[i].tolist() == [1] * length + [0] * (batch.input_features.shape[1] - length)
            np.testing.assert_array_equal(batch.input_features[i, :length], frames)
            assert not batch.input_features[i, length:].any()
            labels = [CLASSES[character] for character in TEXTS[row]]
            assert batch.labels[i].tolist() == labels + [-100] * (batch.labels.shape[1] - len(labels))
            assert batch.language_ids[i] == {"sl": 0, "sv-SE": 1, "xx": -100}[LANGUAGES[row]]
        assert batch.labels.shape[1] == max(len(TEXTS[row]) for row in rows)
        assert {name: tensor.dtype for name, tensor in batch.inputs(torch.device("cpu")).items()} == {
            "input_features": torch.float32,
            "attention_mask": torch.int64,
            "labels": torch.int64,
            "language_ids": torch.int64,
        }


def test_without_labels_texts_do_not_matter(make, clips):
    batch = make(with_labels=False, dataset=rows_of(clips, texts=[None] * len(clips)))[0]
    assert batch.labels is None
    assert set(batch.inputs(torch.device("cpu"))) == {"input_features", "attention_mask"}
    assert torch.equal(batch.input_features, make()[0].input_features)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_workers_make_the_same_batches(make, clips, num_workers):
    clips[3].write_bytes(b"")
    batches = make(augment=SpecAugmentConfig(), seed=3)
    numbers = [2, 0, 1, 3]
    loader = DataLoader(batches, batch_size=None, sampler=numbers, num_workers=num_workers)
    for number, batch in zip(numbers, loader, strict=True):
        assert_equal(batch, make(augment=SpecAugmentConfig(), seed=3)[number])


def test_augmentation_is_a_function_of_seed_and_number(make):
    plan = [[0, 1, 3]] * 6
    plain = make(plan)[0].input_features
    expected = [make(plan, augment=SpecAugmentConfig(), seed=7)[number] for number in range(6)]
    batches = make(plan, augment=SpecAugmentConfig(), seed=7)
    for number in (4, 1, 5, 0, 4):
        assert_equal(batches[number], expected[number])
    for one, other in itertools.combinations(expected, 2):
        assert not torch.equal(one.input_features, other.input_features)
    for batch in expected:
        masked = batch.input_features != plain
        assert masked.any() and torch.equal(batch.input_features, plain.masked_fill(masked, 0.0))
    other_seed = make(plan, augment=SpecAugmentConfig(), seed=8)
    assert not torch.equal(other_seed[0].input_features, expected[0].input_features)


def test_augmentation_starts_at_its_number(make):
    plan = [[0, 1, 3]] * 6
    late = make(plan, augment=SpecAugmentConfig(), augment_from=3, seed=7)
    always, never = make(plan, augment=SpecAugmentConfig(), seed=7), make(plan)
    for number in range(6):
        assert_equal(late[number], (always if number >= 3 else never)[number])


def test_changed_waveforms_are_a_function_of_seed_and_number(make, clips):
    """Also with a cache, where SpecAugment's masks come after them; and labels that no longer fit keep the audio."""
    plan, waveform = [[0, 1, 3]] * 4, WaveformAugmentConfig(max_speed_change=0.3)
    late = make(plan, waveform_augment=waveform, waveform_augment_from=2, seed=7, cache_bytes=10**7)
    expected = [make(plan, waveform_augment=waveform, seed=7)[number] for number in range(4)]
    for number in (3, 0, 2, 1, 3):
        assert_equal(late[number], expected[number] if number >= 2 else make(plan)[0])
    lengths = {tuple(batch.attention_mask.sum(dim=1).tolist()) for batch in expected}
    assert len(lengths) == 4 and all(torch.equal(batch.labels, expected[0].labels) for batch in expected)
    assert not torch.equal(make(plan, waveform_augment=waveform, seed=8)[0].input_features, expected[0].input_features)

    frames = make([[0]])[0].attention_mask.sum() + 2
    full = rows_of(clips, texts=["ab" * (int(frames) // 6), *TEXTS[1:]])  # as many labels as output frames
    unchanged, batches = make([[0]] * 20, dataset=full), make([[0]] * 20, dataset=full, waveform_augment=waveform)
    kept = [torch.equal(batches[n].input_features, unchanged[n].input_features) for n in range(20)]
    assert 5 < sum(kept) < 15  # those that would be too fast
    for batch in map(batches.__getitem__, range(20)):
        assert not batch.problems and batch.input_features.shape[1] > 3 * (batch.labels.shape[1] - 1)


@pytest.mark.parametrize("waveform", [None, WaveformAugmentConfig(max_speed_change=0.3)])
def test_the_cache_changes_nothing(waveform, make, clips):
    """Neither one of features, nor one of samples."""
    plan = [[0, 1], [1, 3], [3, 0], [1]]
    settings = {"augment": SpecAugmentConfig(), "waveform_augment": waveform, "waveform_augment_from": 1, "seed": 1}
    expected = [make(plan, **settings)[number] for number in range(4)]
    cached = make(plan, **settings, cache_bytes=10**7)
    for _ in range(2):
        for number in (1, 0, 3, 2):
            assert_equal(cached[number], expected[number])
        for clip in clips:  # the second time nothing is read
            clip.unlink(missing_ok=True)


def test_the_cache_keeps_to_its_bytes(make, clips):
    frames = 1 + (16000 * 31 // 100 - 400) // 160  # of the clip of 0.31 s
    batches = make([[1], [0], [1]], cache_bytes=frames * 80 * 4)
    expected = [batches[number] for number in range(3)]
    assert_equal(expected[0], expected[2])
    for clip in clips:
        clip.unlink()
    assert_equal(batches[1], expected[1])
    assert batches[0].problems  # was too large


def test_a_bad_clip_is_left_out_with_its_line(make, clips):
    expected = make([[0, 2]])[0]
    clips[1].write_bytes(b"no sound")
    too_much = rows_of(clips, texts=[*TEXTS[:5], numbered(50)])
    batch = make([[0, 1, 5, 2]], dataset=too_much)[0]
    assert batch.problems.keys() == {1, 5}
    assert batch.problems[1].startswith(f"utterance u1: {clips[1]}: is not audio")
    assert batch.problems[5].startswith("utterance u5: 50 labels do not fit into 20 output frames: 'abab")
    assert not any("\n" in line for line in batch.problems.values())
    batch.problems = {}
    assert_equal(batch, expected)


def test_a_clip_that_is_far_longer_than_its_stated_duration_is_left_out(make, clips):
    expected = make([[0, 2]])[0]
    soundfile.write(clips[1], np.zeros(round(16000 * (2 * SECONDS[1] + 1.1)), np.float32), 16000)
    batch = make([[0, 1, 2]])[0]
    assert list(batch.problems) == [1] and batch.indices == [0, 2]
    assert batch.problems[1].startswith("utterance u1: its audio goes on after ")
    assert f"its duration_seconds is {SECONDS[1]:.2f}; correct that" in batch.problems[1]
    batch.problems = {}
    assert_equal(batch, expected)
    soundfile.write(clips[1], np.zeros(round(16000 * 2 * SECONDS[1]), np.float32), 16000)
    assert make([[0, 1, 2]])[0].problems == {}  # an estimate


@pytest.mark.parametrize("with_labels", [True, False])
def test_a_batch_of_bad_clips_can_be_trained_on(make, clips, config, with_labels):
    for clip in clips:
        clip.unlink()
    batch = make([[1, 0]], with_labels=with_labels, augment=SpecAugmentConfig())[0]
    assert (batch.indices, list(batch.problems)) == ([], [1, 0])
    torch.manual_seed(0)
    model = MlplForCTC(config).train()
    output = model(**batch.inputs(torch.device("cpu")))
    assert torch.isfinite(output.logits).all()
    if with_labels:
        assert torch.isfinite(output.loss)
        output.loss.backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)
        assert model.lid_head.weight.grad is None or not model.lid_head.weight.grad.any()  # no language is known


def test_seeds_of_micro_batches():
    seeds = {micro_batch_seed(seed, number) for seed in range(20) for number in range(100)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
    torch.Generator().manual_seed(max(seeds))


def test_repetitions_balance_languages_and_sources():
    """Compares the shares of seconds of each language and kind of label with hours^alpha."""
    rows = [("de", "human", 4.0)] * 16 + [("sl", "human", 4.0)] + [("sl", "teacher@1", 2.0)] * 8
    dataset = Dataset.from_dict(
        {"language": [r[0] for r in rows], "source": [r[1] for r in rows], "duration_seconds": [r[2] for r in rows]}
    )
    seconds = np.array([r[2] for r in rows])
    groups = {"de": slice(0, 16), "sl human": slice(16, 17), "sl pseudo": slice(17, 25)}
    hours = {"de": 64.0, "sl human": 4.0, "sl pseudo": 16.0}
    for alpha in (0.0, 0.5, 1.0):
        times = repetitions(dataset, alpha)
        share = {name: (times * seconds)[part].sum() for name, part in groups.items()}
        for name in groups:
            assert share[name] / share["de"] == pytest.approx((hours[name] / 64) ** alpha)
        assert times.min() == times[0] == 1
        weighted = repetitions(dataset, alpha, 0.25)  # pseudo-labels a quarter as often, all else as it was
        assert weighted[:17] / weighted[0] == pytest.approx(times[:17])
        assert weighted[17:] / weighted[0] == pytest.approx(times[17:] / 4)
        assert weighted.min() == 1

    plan = BatchPlan(seconds, 40, seed=0, repetitions=repetitions(dataset, 0.5))
    numbers = range(600)
    passes = plan.epoch(599)  # the last one is not whole
    seen = Counter(row for number in numbers if plan.epoch(number) < passes for row in plan[number])
    for row, times in enumerate(repetitions(dataset, 0.5)):
        assert seen[row] / passes == pytest.approx(times, abs=0.1)


def test_characters_that_the_tokenizer_lacks_are_counted_for_each_teacher(processor, config, caplog):
    texts = ["a bad cab", "A bad cab", "Bad!", "a b!", "cab", "ß"]
    dataset = rows_of(["x.wav"] * 6, texts, [1.0] * 6, ["sl"] * 6)
    sources = ["human", None, "me/whisper@1", "me/whisper@1", "me/other@2", "reference"]
    dataset = dataset.remove_columns("source").add_column("source", sources)
    select_for_training(dataset, processor, config, 20.0)
    people, whisper = [line for line in caplog.messages if line.startswith("characters that the tokenizer lacks")]
    assert people.startswith("characters that the tokenizer lacks: 'A' (") and "SHARP S) x 1; to learn them" in people
    assert whisper.startswith("characters that the tokenizer lacks, in 2 labels of me/whisper@1: '!' (U+0021 ")
    assert " x 2, 'B' (" in whisper and whisper.endswith(
        "; `hf-mlpl filter-labels --normalize` writes labels without them"
    )


def test_a_later_run_looks_again_at_what_may_be_dropped_alone(processor, config, caplog, tmp_path, monkeypatch):
    """Says the same about it; other settings, and another file, are looked at as a whole."""
    monkeypatch.setattr("hf_mlpl.data.remembered.FEWEST_ROWS", 1)
    texts = ["a bad cab", None, "Bad", "cab", numbered(35), "dada"]
    rows = [
        {"id": f"u{i}", "audio": {"path": "x.wav"}, "duration_seconds": 1.0 + i / 10, "language": "sl", "text": text}
        for i, text in enumerate(texts)
    ]
    path = tmp_path / "train.parquet"

    def select(max_seconds: float = 20.0) -> tuple:
        caplog.clear()
        with DropFile(tmp_path / "dropped.tsv", DROPPED) as drops:
            selected, counts = select_for_training(read_utterances([path]), processor, config, max_seconds, drops)
        return list(selected["id"]), dict(counts), caplog.messages.copy(), (tmp_path / "dropped.tsv").read_text()

    def refuse(*_):
        raise AssertionError("all rows were looked at")

    write_utterances(rows, path)
    first = select()
    assert first[0] == ["u0", "u3", "u4", "u5"] and len(first[3].splitlines()) == 3
    with monkeypatch.context() as patch:
        patch.setattr("hf_mlpl.data.selection._Judge._doubtful", refuse)
        assert select() == first
        with pytest.raises(AssertionError, match="all rows were looked at"):
            select(1.45)
    assert select(1.45)[0] == ["u0", "u3", "u4"]
    write_utterances([*rows[:3], rows[3] | {"text": "Cab"}, *rows[4:]], path)
    assert select()[0] == ["u0", "u4", "u5"]
