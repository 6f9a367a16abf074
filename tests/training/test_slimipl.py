"""Compares slimIPL with a plain re-statement of its published pseudo-code, and tests its invariants."""

import copy
import dataclasses
import functools
import itertools
import json
import logging
import math
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from hf_mlpl import MlplFeatureExtractor, MlplForCTC, MlplProcessor
from hf_mlpl.audio.reading import load_audio
from hf_mlpl.ctc_models import ctc_interface
from hf_mlpl.data.batches import BatchPlan, SpeechBatches
from hf_mlpl.data.collapse import describe_collapse
from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.inference.decoding import Hypothesis
from hf_mlpl.training.label_health import LabelHealth
from hf_mlpl.training.loop import TrainingError, train
from hf_mlpl.training.slimipl import SlimIpl, SlimIplPlan
from hf_mlpl.training_config import VARIANTS, SlimIplConfig, load_config

from ..two_processes import slimipl_overrides
from .test_loop import (
    Killed,
    assert_a_step_is_one_batch,
    assert_equal_bits,
    assert_equal_runs,
    kill_at,
    losses,
    rows,
    weights,
)

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 40
SEED = 3
BATCH_SECONDS = 2.0  # batches of several utterances, and several passes over 24 of them


@pytest.fixture(scope="module")
def data(tone_data):
    """Labelled and unlabelled utterances of the language that has both."""
    return tuple(read_utterances([tone_data / f"{name}.parquet"], ["sv-SE"]) for name in ("train", "unlabelled"))


@pytest.fixture(scope="module")
def trained(tone_run):
    return MlplForCTC.from_pretrained(tone_run / "model"), MlplProcessor.from_pretrained(tone_run / "model")


def plans(data):
    return [BatchPlan(np.array(dataset["duration_seconds"]), BATCH_SECONDS, SEED) for dataset in data]


def slimipl(config, data, model, processor, micro_batches=1, num_workers=0) -> SlimIpl:
    batches = [
        SpeechBatches(dataset, plan, processor, model.config, with_labels=with_labels, cache_bytes=10**9)
        for dataset, plan, with_labels in zip(data, plans(data), (True, False), strict=True)
    ]
    plan = SlimIplPlan(config, *plans(data), micro_batches, SEED)
    return SlimIpl(Accelerator(cpu=True), model, processor, plan, *batches, num_workers, STEPS, 100.0)


def move(model, step) -> None:
    """Replaces an update: it changes the model's outputs."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        model.ctc_head.bias += 1.5 * torch.randn(model.ctc_head.bias.shape, generator=generator)


@functools.cache
def features(**audio) -> dict[str, torch.Tensor]:
    samples = load_audio(audio)
    return MlplFeatureExtractor()(samples, sampling_rate=16000, return_tensors="pt")


def label(model, processor, utterance) -> str:
    """Returns the greedy label of one utterance, alone."""
    model.eval()
    with torch.no_grad():
        logits = model(**features(**utterance["audio"])).logits[0]
    return processor.tokenizer.decode(logits.argmax(-1))


def published(config: SlimIplConfig, data, model, processor):
    """Runs the pseudo-code, one batch an update; yields each step's (id, label) pairs, None without update.

    `sup`, `unsup`, `cache`, `labels`, `slot` and `relabel` are its own names. The random numbers are drawn in its
    order, from the generator that the plan uses.
    """
    rng = np.random.default_rng([SEED, 0x511])
    sup, unsup = (map(plan.__getitem__, itertools.count()) for plan in plans(data))
    labelled, unlabelled = data
    ema = copy.deepcopy(model) if config.ema_decay is not None else None
    pattern, cache, labels, position = [], [], {}, 0

    def relabel_now(batch):
        teacher = model if ema is None else ema
        return {unlabelled[row]["id"]: label(teacher, processor, unlabelled[row]) for row in batch}

    def old_labels(batch):
        pairs = [(unlabelled[row]["id"], labels.get(unlabelled[row]["id"])) for row in batch]
        return [pair for pair in pairs if pair[1] is not None] or None

    for step in range(1, STEPS + 1):
        trained_on = None
        is_sup = step <= config.start_update
        if not is_sup:
            if not pattern:
                pattern = [True] * config.supervised_updates + [False] * config.unsupervised_updates
                rng.shuffle(pattern)
            is_sup = pattern.pop()
        after = {}
        if is_sup:
            trained_on = [(labelled[row]["id"], labelled[row]["text"]) for row in next(sup)]
        elif config.variant == "naive":
            batch = next(unsup)
            labels = relabel_now(batch)
            trained_on = old_labels(batch)
        elif config.variant in ("cache", "pre-cache"):
            batch = next(unsup)
            trained_on = old_labels(batch)
            if config.variant == "pre-cache":
                labels |= relabel_now(batch)
            else:
                after = {"batch": batch}
        else:
            relabel = len(cache) < config.cache_size or rng.random() < config.cache_update_probability
            new = next(unsup) if relabel else None
            if len(cache) < config.cache_size:
                cache.append(new)
                position = len(cache)
            else:
                if position == len(cache):
                    rng.shuffle(cache)
                    position = 0
                slot = position
                position += 1
                trained_on = old_labels(cache[slot])
                if relabel:
                    cache[slot] = new
            if relabel:
                labels |= relabel_now(new)
        yield trained_on
        if trained_on is not None:
            move(model, step)
        if ema is not None:
            for mean, weight in zip(ema.parameters(), model.parameters(), strict=True):
                mean.data = config.ema_decay * mean.data + (1 - config.ema_decay) * weight.data
        if after:
            labels |= relabel_now(after["batch"])


CONFIGS = {
    "naive": {"variant": "naive", "start_update": 2},
    "cache": {"variant": "cache"},
    "pre-cache": {"variant": "pre-cache", "supervised_updates": 2},
    "fixed-pre-cache": {"variant": "fixed-pre-cache", "cache_size": 5, "cache_update_probability": 0.4},
    "always replaced": {"variant": "fixed-pre-cache", "cache_size": 3, "cache_update_probability": 1.0},
    "EMA": {"variant": "fixed-pre-cache", "cache_size": 4, "cache_update_probability": 0.5, "ema_decay": 0.7},
    "EMA, cache": {"variant": "cache", "ema_decay": 0.5},
}
SELECTED = {"selected": CONFIGS["EMA"] | {"first_label_share": 0.5, "prior_strength": 1.0}}  # which the paper has not


def settings(name) -> SlimIplConfig:
    return SlimIplConfig(
        **{"start_update": 0, "unsupervised_updates": 3, "dynamic_dropout": None} | (CONFIGS | SELECTED)[name]
    )


def trained_on(processor, data, supervised, micro_batches):
    """Returns (id, label) pairs of an update's batches, read from their tensors."""
    ids = data[0 if supervised else 1]["id"]
    pairs = []
    for _, batch in micro_batches:
        texts = processor.batch_decode(batch.labels, group_tokens=False)
        pairs += [(ids[row], text) for row, text in zip(batch.indices, texts, strict=True)]
    return pairs or None


@pytest.mark.parametrize(("name", "num_workers"), [*((name, 0) for name in CONFIGS), ("fixed-pre-cache", 1)])
def test_it_does_what_the_published_pseudo_code_does(name, num_workers, data, trained):
    """Loader workers that run ahead change nothing."""
    config = settings(name)
    model, processor = copy.deepcopy(trained[0]).train(), trained[1]
    expected = list(published(config, data, copy.deepcopy(trained[0]), processor))
    assert sum(pairs is None for pairs in expected) < STEPS / 2 and len({str(pairs) for pairs in expected}) > 20
    algorithm = slimipl(config, data, model, processor, num_workers=num_workers)
    for step, (micro_batches, pairs) in enumerate(zip(algorithm, expected, strict=False), start=1):
        assert trained_on(processor, data, algorithm.step.supervised, micro_batches) == pairs, f"step {step}"
        assert model.training
        if micro_batches:
            move(model, step)
        algorithm.after_update()
    assert step == STEPS


@pytest.mark.parametrize("name", CONFIGS | SELECTED)
def test_it_goes_on_from_what_it_saved(name, data, trained, tmp_path):
    def run(algorithm, batches, steps):
        seen = []
        for step, micro_batches in zip(steps, batches, strict=False):
            numbers = [number for number, _ in micro_batches]
            pairs = trained_on(algorithm.processor, data, algorithm.step.supervised, micro_batches)
            seen.append((numbers, pairs))
            move(algorithm.model, step)
            algorithm.after_update()
        return seen

    config, processor = settings(name), trained[1]
    whole = slimipl(config, data, copy.deepcopy(trained[0]), processor, micro_batches=1)
    run(whole, batches := iter(whole), range(13))
    whole.copy_state()(tmp_path)
    assert json.loads((tmp_path / "slimipl.json").read_text())["update"] == 13
    resumed = slimipl(config, data, copy.deepcopy(whole.model), processor, micro_batches=1)
    resumed.load(tmp_path)
    assert run(resumed, resumed, range(13, 26)) == run(whole, batches, range(13, 26))


def test_an_updates_micro_batches_use_each_slot_once_a_pass(data):
    config = SlimIplConfig(start_update=0, cache_size=6, unsupervised_updates=1, supervised_updates=0)
    plan = SlimIplPlan(config, *plans(data), micro_batches=2, seed=0)
    filling = [next(plan) for _ in range(3)]
    assert not any(step.train for step in filling)
    cache = [batch for step in filling for batch in step.label]
    for _ in range(20):
        steps = [next(plan) for _ in range(3)]
        assert sorted(batch for step in steps for batch in step.train) == sorted(cache)
        assert all(batch in plan.cache for step in steps for batch in step.label)
        cache = copy.deepcopy(plan.cache)


@pytest.mark.parametrize("share", [0.99, 1.0])
def test_an_update_is_made_without_the_batches_that_have_no_label(share, data, trained):
    """Otherwise few updates would be left where a batch has few utterances, of which a share is learned."""
    config = dataclasses.replace(settings("selected"), supervised_updates=0, cache_size=4, first_label_share=share)
    algorithm = slimipl(config, data, copy.deepcopy(trained[0]), trained[1], micro_batches=2)
    shares = iter(algorithm)
    for _ in range(2):  # which fill the cache
        assert next(shares) == []
        algorithm.after_update()
    without = algorithm.plan.cache[0]
    for row in without:
        algorithm.labels.pop(algorithm.ids[row], None)
    found = []
    for _ in range(2):  # a pass over the cache
        found.append((next(shares), algorithm.step.train))
        algorithm.after_update()
    [batches] = [batches for batches, train in found if without in train]
    assert sorted(len(batch.indices) > 0 for _, batch in batches) == ([False, True] if share < 1 else [])


def test_labels_of_a_fixed_cache_do_not_grow_without_end(data, trained):
    config = settings("always replaced")
    algorithm = slimipl(config, data, copy.deepcopy(trained[0]), trained[1])
    sizes = []
    for _, _ in zip(range(40), algorithm, strict=False):
        algorithm.after_update()
        in_cache = {algorithm.ids[row] for batch in algorithm.plan.cache for row in batch}
        assert in_cache <= algorithm.labels.keys()
        sizes.append(len(algorithm.labels) / max(1, len(in_cache)))
    assert max(sizes) < 3


def test_an_old_label_is_forgotten_where_the_new_one_is_not_learned(data, trained):
    """In a fixed cache it would depend on the number of processes how long the old one is kept."""
    algorithm = slimipl(settings("selected"), data, copy.deepcopy(trained[0]), trained[1])
    batch = algorithm.loader.unlabelled.batch([0, 1, 2], None)
    algorithm.confident.first_share = 1.0
    algorithm._store(algorithm._label([batch]))
    assert set(algorithm.labels) == set(data[1][:3]["id"])
    algorithm.confident.first_share = 0.5
    algorithm.confident.scores["sv-SE"].extend([0.0] * 300)  # surer than any other label
    assert not algorithm._label([batch]) and not algorithm.labels


def test_dynamic_dropout_is_that_of_the_layers_alone(data, trained):
    model = copy.deepcopy(trained[0])
    config = dataclasses.replace(settings("naive"), dynamic_dropout=0.25, start_update=2)
    before = model.model.front_end.dropout.p
    seen = []
    for _, _ in zip(range(4), slimipl(config, data, model, trained[1]), strict=False):
        layers = model.model.layers
        seen.append({(y.layerdrop, y.activation_dropout.p, y.attention.attention_dropout) for y in layers})
    own = {(0.2, 0.1, 0.1)}
    assert seen == [own, own, {(0.25,) * 3}, {(0.25,) * 3}]
    assert model.model.front_end.dropout.p == before != 0.25
    assert model.config.layerdrop == 0.2  # what is saved is the model's own
    ctc_interface(model.config, trained[1]).set_dropout(model, 0.0)
    model.train()
    model.model.front_end.dropout.p = 0.0
    features = torch.randn(1, 90, 80)
    assert torch.equal(model(features).logits, model(features).logits)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"variant": "fixed"}, "variant is 'fixed'; accepted are " + ", ".join(VARIANTS)),
        ({"start_update": -1}, "start_update is -1; it must be at least 0"),
        ({"cache_size": 0}, "cache_size is 0"),
        ({"cache_update_probability": 0}, "cache_update_probability is 0; it must be above 0 and at most 1"),
        ({"dynamic_dropout": 1}, "dynamic_dropout is 1; it must be at least 0 and below 1, or null"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"unsupervised_updates": 0}, "unsupervised_updates is 0; it must be at least 1"),
        ({"first_label_share": 0.0}, "first_label_share is 0.0; it must be above 0 and at most 1"),
        ({"prior_strength": 1.5}, "prior_strength is 1.5; it must be at least 0 and at most 1"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        SlimIplConfig(**wrong)


# ---- health of the labels


def test_the_report_by_hand(data):
    labelled = data[0].select(range(4))
    rate = sum(map(len, labelled["text"])) / sum(labelled["duration_seconds"])
    columns = ("language", "duration_seconds", "text")
    made = [
        (("sv-SE", 2.0, "abc d"), Hypothesis(0, "abd", "sv-SE", 60, blank_ratio=0.8)),
        (("sv-SE", 1.0, None), Hypothesis(1, "", "de", 30, blank_ratio=1.0)),
        (("fi", 1.0, "ab"), Hypothesis(2, "ab", None, 30, blank_ratio=0.5)),
    ]
    health = LabelHealth(labelled)
    assert health.report() is None
    health.add((dict(zip(columns, row, strict=True)), label) for row, label in made)
    assert health.report() == {
        "labels": 3,
        "length_ratio": pytest.approx(5 / (rate * 4)),
        "blank_ratio": pytest.approx((48 + 30 + 15) / 120),
        "empty": pytest.approx(1 / 3),
        "commonest": pytest.approx(1 / 3),
        "language_agreement": 0.5,
        "cer": pytest.approx(2 / 7),  # "abc d" -> "abd": two deletions
    }
    assert health.report() is None  # each label is reported once


def test_collapse_is_described():
    report = {"labels": 20, "empty": 0.95, "commonest": 0.95}
    assert "95% of 20 pseudo-labels are empty" in describe_collapse(report)
    assert "90% of 20 pseudo-labels are the same text" in describe_collapse(report | {"empty": 0.0, "commonest": 0.9})
    assert describe_collapse(report | {"empty": 0.5, "commonest": 0.5}) is None
    assert describe_collapse(report | {"labels": 5}) is None  # a few equal labels are no collapse


def labels_of(language, *texts, seconds=2.0):
    return [
        ({"language": language, "duration_seconds": seconds, "text": None}, Hypothesis(0, text, language, 60))
        for text in texts
    ]


def test_collapse_is_noticed_however_few_labels_come_at_a_time(data):
    """Each language is judged alone; labels also collapse that differ but have next to no letters."""
    health, fine = LabelHealth(data[0]), ["abc de", "de fgö", "fgö", "def", "ed g", "fö de", "gf", "dög", "e fg", "öf"]
    for _ in range(3):  # windows of three labels
        health.add(labels_of("sv-SE", *[""] * 3))
        health.report()
        assert health.detect_collapse() is None
    health.add(labels_of("de", *fine) + labels_of("sv-SE", ""))
    message = health.detect_collapse()
    assert message.startswith("100% of 10 pseudo-labels are empty (sv-SE): training on them") and "\n" not in message
    health.add(labels_of("de", *fine) + labels_of("fi", *"abcdefghij", seconds=9.0))
    assert health.detect_collapse().startswith("10 pseudo-labels have 1% of the letters that transcripts have (fi): ")
    assert health.detect_collapse() is None  # each label is judged once


def test_labels_that_are_too_long_are_counted(data):
    health = LabelHealth(data[0])
    health.unfit = 2
    assert health.report() is None
    health.add(labels_of("sv-SE", "def"))
    assert health.report()["unfit"] == 2


# ---- in training

SLIMIPL = {
    "start_update": 4,
    "cache_size": 4,
    "unsupervised_updates": 2,
    "cache_update_probability": 0.5,
    "dynamic_dropout": 0.05,
}


def train_on(tone_data, tone_run, folder, *overrides, unlabelled=None):
    """Trains on from the model of the tones with slimIPL; returns the run's folder."""
    given = [f"output_dir={folder}", f"model={tone_run / 'model'}", "tokens=null", "learning_rate=0.002"]
    given += ["language=sv-SE", f"unlabelled=[{unlabelled or tone_data / 'unlabelled.parquet'}]", "eval_every=20"]
    given += ["max_updates=20", "save_every=8", f"slimipl={json.dumps(SLIMIPL)}"]
    return train(load_config(tone_data / "tones.yaml", [*given, *overrides])).parent


@pytest.fixture
def run(tone_data, tone_run, tmp_path):
    """Returns a function that calls `train_on` for a folder of a name."""

    def run(name, *overrides, unlabelled=None):
        return train_on(tone_data, tone_run, tmp_path / name, *overrides, unlabelled=unlabelled)

    return run


@pytest.fixture(scope="module")
def uninterrupted(tone_data, tone_run, tmp_path_factory):
    """Returns the folder of a run with the settings of `train_on` alone."""
    return train_on(tone_data, tone_run, tmp_path_factory.mktemp("slimipl") / "uninterrupted")


def test_training_with_it(run, uninterrupted, references):
    folder = run("with references", unlabelled=references)
    assert len(losses(folder)) == 20 - 2  # two updates fill the cache of four batches
    reports = {row["update"]: row["labels"] for row in rows(folder) if "labels" in row}
    assert reports and min(reports) > 4
    assert all(report["cer"] < 0.3 and report["empty"] < 0.5 for report in reports.values())
    assert {row["labels"]["cer"] for row in rows(uninterrupted) if "labels" in row} == {None}
    assert losses(uninterrupted) == losses(folder)  # references are looked at and not learned


@pytest.mark.parametrize(
    "extra", [[], ["slimipl.variant=cache", "slimipl.ema_decay=0.9"], ["slimipl.choose_hearing=true"]]
)
def test_interrupted_equals_uninterrupted(run, uninterrupted, tmp_path, monkeypatch, extra):
    expected = run("uninterrupted", *extra) if extra else uninterrupted
    kill_at(monkeypatch, 14)
    with pytest.raises(Killed):
        run("interrupted", *extra)
    monkeypatch.undo()
    assert (tmp_path / "interrupted" / "checkpoints" / "update-00000008" / "slimipl.json").is_file()
    assert_equal_bits(run("interrupted", *extra), expected)


def saved(checkpoint) -> tuple[list[dict], list[dict]]:
    """Reads the plan with its passes, and each process's labels."""
    shards = sorted(checkpoint.glob("slimipl-labels-*.json"))
    plan = [json.loads((checkpoint / name).read_text()) for name in ("slimipl.json", "passes.json")]
    return plan, [json.loads(shard.read_text()) for shard in shards]


def test_two_processes_equal_one_and_either_goes_on_from_the_other(tone_data, tone_run, two_processes, tmp_path):
    """The labels, of which each of two processes keeps a part, and the cache are equal too."""
    two, settings = two_processes / "slimipl", slimipl_overrides(tone_run / "model", tone_data / "unlabelled.parquet")
    config = load_config(tone_data / "tones.yaml", [f"output_dir={tmp_path / 'one'}", *settings])
    one = train(config).parent
    assert_equal_runs(one, two)
    assert "unused parameters" not in (two_processes / "stderr.txt").read_text()  # DDP's warning
    reports = [[row["labels"] for row in rows(folder) if "labels" in row] for folder in (one, two)]
    assert len(reports[0]) > 4
    assert [report["labels"] for report in reports[0]] == [report["labels"] for report in reports[1]]
    probes = [[row["probe"] for row in rows(folder) if "probe" in row] for folder in (one, two)]
    assert [probe["update"] for probe in probes[0]] == [2, 5, 8, 11, 12] and "dev_change_low" in probes[0][-1]
    for each in (*probes[0], *probes[1]):
        each["mean_log_prob"] = round(each["mean_log_prob"], 4)
    assert probes[0] == probes[1]
    plans, shards = zip(*(saved(folder / "checkpoints" / "update-00000006") for folder in (one, two)), strict=True)
    assert plans[0] == plans[1] and plans[0][1].keys() == {"train", "unlabelled"}
    assert [len(each) for each in shards] == [1, 2] and all(shards[1])
    assert not shards[1][0].keys() & shards[1][1].keys() and shards[1][0] | shards[1][1] == shards[0][0]

    resumed = tmp_path / "resumed"
    shutil.copytree(two / "checkpoints", resumed / "checkpoints")  # of two processes, after update 6
    train(dataclasses.replace(config, output_dir=str(resumed)))
    torch.testing.assert_close(weights(resumed), weights(one), rtol=1e-5, atol=1e-5)


def test_pseudo_labelled_micro_batches_add_up_to_one_batch(data, trained, tone_data):
    """One of them has an utterance without a label, another one has only such utterances."""
    model, processor = copy.deepcopy(trained[0]), trained[1]
    config = SlimIplConfig(start_update=0, supervised_updates=0, variant="naive", dynamic_dropout=0.0)
    model.model.front_end.dropout.p = 0.0
    algorithm = slimipl(config, data, model, processor, micro_batches=4)
    parts = next(iter(algorithm))
    rows = [batch.indices for _, batch in parts]
    lost = {rows[1][0], *rows[2]}
    assert min(map(len, rows[:2])) > 1
    labels = dict(trained_on(processor, data, False, parts))
    for row in lost:
        del labels[algorithm.ids[row]]
    parts = [(number, algorithm._with_labels(batch, labels)) for number, batch in parts]
    together = algorithm.loader.unlabelled.batch([row for share in rows for row in share], None)
    whole = algorithm._with_labels(together, labels)
    assert [len(batch.indices) for _, batch in parts] == [len(share) - len(lost & set(share)) for share in rows]
    training = load_config(tone_data / "tones.yaml", ["max_grad_norm=1e9"])
    assert_a_step_is_one_batch(model.train(), processor, parts, whole, training)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable. is deprecated:FutureWarning")
def test_gradient_checkpointing_and_bfloat16(run):
    """Checkpointing changes no bit; bfloat16 is close to fp32, in training and in labelling."""
    plain = run("plain", "max_updates=12")
    assert_equal_bits(run("checkpointed", "max_updates=12", "gradient_checkpointing=true"), plain)
    AcceleratorState._reset_state(reset_partial_state=True)  # a process has one precision for good
    bfloat16 = run("bf16", "max_updates=12", "bf16=true")
    AcceleratorState._reset_state(reset_partial_state=True)
    assert losses(bfloat16) == pytest.approx(losses(plain), rel=0.1) and losses(bfloat16) != losses(plain)
    assert {tensor.dtype for tensor in weights(bfloat16).values()} == {torch.float32}


def test_loader_workers_change_nothing(run, uninterrupted):
    assert_equal_bits(uninterrupted, run("two", "num_workers=2"))


def test_collapse_warns_or_stops(run, monkeypatch, caplog, tone_run, tmp_path):
    """The model outputs only blanks."""
    model = MlplForCTC.from_pretrained(tone_run / "model")
    with torch.no_grad():
        model.ctc_head.bias[model.config.blank_token_id] += 1000
    model.save_pretrained(tmp_path / "silent")
    MlplProcessor.from_pretrained(tone_run / "model").save_pretrained(tmp_path / "silent")
    settings = [f"model={tmp_path / 'silent'}", "learning_rate=1e-6", "log_every=10", "max_updates=10", "dev=[]"]
    settings += ["slimipl.start_update=0"]
    with caplog.at_level(logging.WARNING, logger="hf_mlpl"):
        folder = run("warned", *settings)
    assert all(map(math.isfinite, losses(folder).values()))
    line, *others = [record.getMessage() for record in caplog.records if "pseudo-labels" in record.getMessage()]
    assert line.startswith("update 10: 100% of") and "pseudo-labels are empty" in line and "\n" not in line
    assert not others
    with pytest.raises(TrainingError, match="stopped at update 10: 100% of .* are empty"):
        run("stopped", *settings, "slimipl.stop_on_collapse=true")


def test_settings_that_belong_together(run, tone_data, tmp_path):
    with pytest.raises(ValueError, match="unlabelled is set and slimipl is not"):
        run("a", "slimipl=null")
    with pytest.raises(ValueError, match="slimipl is set and unlabelled is not"):
        run("a", "unlabelled=null")
    with pytest.raises(ValueError, match="unlabelled.parquet: no utterances of de; there are sv-SE"):
        run("a", "language=de")
    with pytest.raises(ValueError, match="no setting is called cache; there are start_update"):
        run("a", "slimipl.cache=3")
    table = pq.read_table(tone_data / "unlabelled.parquet").to_pylist()
    long_ones = tmp_path / "long.parquet"
    write_utterances([row | {"duration_seconds": 9.0} for row in table], long_ones)
    with pytest.raises(ValueError, match="none of 24 unlabelled utterances is at most 0.6 s long .*--segment vad"):
        run("a", "max_batch_seconds=0.6", unlabelled=long_ones)


def test_a_lost_unlabelled_clip_costs_one_line(run, tone_data, tmp_path, caplog):
    table = pq.read_table(tone_data / "unlabelled.parquet").to_pylist()
    for row in table[:4]:
        row["audio"] = {"path": str(tmp_path / "lost.ogg"), "start": None, "end": None}
    write_utterances(table, tmp_path / "lost.parquet")
    with caplog.at_level(logging.WARNING, logger="hf_mlpl"):
        folder = run("a", unlabelled=tmp_path / "lost.parquet")
    assert all(map(math.isfinite, losses(folder).values()))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(set(lines)) and lines and all("lost.ogg: no such file" in line for line in lines)


def test_clips_that_are_lost_when_the_cache_is_filled_are_reported(run, tone_data, tmp_path, caplog):
    """No update trains on them, so nothing else would show it."""
    table = pq.read_table(tone_data / "unlabelled.parquet").to_pylist()
    for row in table[:4]:
        row["audio"] = {"path": str(tmp_path / "lost.ogg"), "start": None, "end": None}
    write_utterances(table, tmp_path / "lost.parquet")
    settings = ["slimipl.start_update=0", "slimipl.supervised_updates=0", "slimipl.cache_size=24", "log_every=4"]
    settings += ["max_updates=12", "max_batch_seconds=0.6", "dev=[]"]
    with caplog.at_level(logging.WARNING, logger="hf_mlpl"):
        folder = run("a", *settings, unlabelled=tmp_path / "lost.parquet")
    lines = sorted(record.getMessage() for record in caplog.records)
    assert [line.split(":")[0] for line in lines] == sorted(f"utterance {row['id']}" for row in table[:4])
    assert not losses(folder) and sum(row.get("unusable", 0) for row in rows(folder)) >= 4
