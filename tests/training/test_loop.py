"""Tests that training learns, and gives the same bits with any interruptions, processes and loader workers."""

import dataclasses
import itertools
import json
import logging
import math
import os
import pickle
import re
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from hf_mlpl import MlplForCTC, MlplProcessor
from hf_mlpl.ctc_models import ctc_interface
from hf_mlpl.data.batches import BatchPlan, SpeechBatches
from hf_mlpl.data.shared_arrays import SharedArrays
from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.folder_lock import InUseError, claimed
from hf_mlpl.training import loop, run_data, silence
from hf_mlpl.training.checkpoint_files import MANIFEST
from hf_mlpl.training.checkpoints import PASSES
from hf_mlpl.training.loop import TrainingError, train, train_step
from hf_mlpl.training.model_setup import build_model
from hf_mlpl.training.optimization import build_optimizer, learning_rate_factor
from hf_mlpl.training.run_data import plan_passes, supervised_updates
from hf_mlpl.training_config import TrainingConfig, load_config

from ..ranks import run_on_two
from ..tones import LETTERS
from ..two_processes import OVERRIDES, slimipl_overrides

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = ["max_updates=6", "dev=[]"]


@pytest.fixture
def run(tone_data, tmp_path):
    """Trains with `tones.yaml` in a folder of `tmp_path`; returns the run's folder."""

    def run(name, *overrides):
        return train(load_config(tone_data / "tones.yaml", [f"output_dir={tmp_path / name}", *overrides])).parent

    return run


@pytest.fixture(scope="module")
def short(tone_data, tmp_path_factory):
    """Returns the folder of a run with the settings of `SHORT` alone."""
    folder = tmp_path_factory.mktemp("runs") / "short"
    return train(load_config(tone_data / "tones.yaml", [f"output_dir={folder}", *SHORT])).parent


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def rows(folder):
    """Rows of metrics.jsonl without the one number that is a matter of time."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "audio_seconds_per_second"} for line in lines]


def losses(folder):
    return {row["update"]: row["loss"] for row in rows(folder) if "loss" in row}


def assert_equal_bits(folder, other):
    torch.testing.assert_close(weights(folder), weights(other), rtol=0, atol=0)
    assert rows(folder) == rows(other)


class Killed(Exception):
    pass


def kill_at(monkeypatch, update):
    """Makes the update-th call of train_step from now on raise `Killed`."""
    calls = itertools.count(1)
    step = train_step

    def train_step_or_die(*arguments):
        if next(calls) == update:
            raise Killed
        return step(*arguments)

    monkeypatch.setattr(loop, "train_step", train_step_or_die)


def test_it_learns(tone_run):
    loss = losses(tone_run)
    assert list(loss) == list(range(1, 61))
    assert sum(loss[update] for update in range(51, 61)) / 10 < 0.2 * loss[1]
    evaluations = [row for row in rows(tone_run) if "dev" in row]
    assert [row["update"] for row in evaluations] == [30, 60]
    results = evaluations[-1]["dev"]
    assert results["macro"]["cer"] < 0.1 and results["macro"]["language_accuracy"] > 0.9
    assert {language: scores["utterances"] for language, scores in results["languages"].items()} == {
        "de": 8,
        "sv-SE": 8,
    }


def test_what_a_run_leaves(tone_run, tone_data):
    settings = load_config(tone_data / "tones.yaml", [f"output_dir={tone_run}"])
    assert load_config(tone_run / "config.yaml") == settings
    assert (tone_run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in sorted((tone_run / "checkpoints").iterdir())] == [
        "update-00000020",
        "update-00000040",
    ]
    model, processor = (c.from_pretrained(tone_run / "model") for c in (MlplForCTC, MlplProcessor))
    assert model.config.languages == ["de", "sv-SE"]
    assert len(processor.tokenizer) == model.config.vocab_size == 10  # 8 letters, the word boundary, the blank
    assert (tone_run / "model" / "tokens-all.lst").read_bytes() == (tone_data / "tokens-all.lst").read_bytes()
    assert not list(tone_run.rglob(".partial*"))


def test_the_seed_decides_every_bit(run, short, monkeypatch):
    """Loader workers, which decode anew in each pass, change none. No run needs a temporary folder."""
    assert_equal_bits(short, run("again", *SHORT, "num_workers=2", "cache_gigabytes=0"))
    monkeypatch.setattr("tempfile.tempdir", str(short / "config.yaml"))  # in which nothing can be written
    other = run("other", *SHORT, "seed=1")
    assert losses(other)[1] != losses(short)[1]


@pytest.mark.parametrize("optimizer", ["adamw", "adagrad"])
def test_interrupted_equals_uninterrupted(run, tmp_path, monkeypatch, optimizer):
    settings = ["max_updates=10", "eval_every=5", "save_every=3", f"optimizer={optimizer}"]
    settings += ["curriculum={updates: 7, share: 0.5}"]
    uninterrupted = run("uninterrupted", *settings)
    kill_at(monkeypatch, 6)  # after the checkpoint and the evaluation of update 3 and 5
    with pytest.raises(Killed):
        run("interrupted", *settings)
    checkpoints = tmp_path / "interrupted" / "checkpoints"
    shutil.copytree(checkpoints / "update-00000003", checkpoints / ".partial-update-00000006")  # killed while writing
    for name in (PASSES, MANIFEST):  # which checkpoints of the first version lack
        (checkpoints / "update-00000003" / name).unlink()
    kill_at(monkeypatch, 5)  # from 4 on: after the checkpoint of update 6
    with pytest.raises(Killed):
        run("interrupted", *settings)
    assert [row["update"] for row in rows(tmp_path / "interrupted")] == [1, 2, 3, 4, 5, 5, 6, 7]
    with open(tmp_path / "interrupted" / "metrics.jsonl", "a") as file:
        file.write('{"update": 8, "lo')  # killed while writing
    monkeypatch.undo()
    planned, plan = [], BatchPlan._plan
    monkeypatch.setattr(BatchPlan, "_plan", lambda self, epoch: planned.append(epoch) or plan(self, epoch))
    assert_equal_bits(run("interrupted", *settings), uninterrupted)
    before = json.loads((checkpoints / "update-00000006" / PASSES).read_text())["train"]["first_numbers"]
    assert planned[0] == len(before) - 1 > 0  # no pass before that of the checkpoint
    assert [row["update"] for row in rows(uninterrupted)] == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 10]
    for folder in (uninterrupted, tmp_path / "interrupted"):  # the last two are kept
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
            "update-00000006",
            "update-00000009",
        ]


def assert_equal_runs(one, two):
    """Compares runs, but not bit by bit, because two processes add in another order."""
    torch.testing.assert_close(weights(two), weights(one), rtol=1e-5, atol=1e-5)
    assert [row["update"] for row in rows(two)] == [row["update"] for row in rows(one)]
    for name in ("loss", "gradient_norm", "learning_rate"):
        numbers = [[row[name] for row in rows(folder) if name in row] for folder in (one, two)]
        assert numbers[1] == pytest.approx(numbers[0], rel=1e-4), name
    dev = [rows(folder)[-1]["dev"] for folder in (one, two)]
    assert dev[0] == dev[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable. is deprecated:FutureWarning")
def test_gradient_checkpointing_changes_no_bit(run, short):
    """Dropout and LayerDrop are drawn again in the backward pass."""
    assert_equal_bits(short, run("checkpointed", *SHORT, "gradient_checkpointing=true"))


def test_bfloat16_trains_like_float32(run, short):
    """Close to it and not equal, so it was on; the weights stay in fp32."""
    AcceleratorState._reset_state(reset_partial_state=True)  # a process has one precision for good
    other = run("other", *SHORT, "bf16=true")
    AcceleratorState._reset_state(reset_partial_state=True)
    assert losses(other) == pytest.approx(losses(short), rel=0.05) and losses(other) != losses(short)
    assert {tensor.dtype for tensor in weights(other).values()} == {torch.float32}


def test_two_processes_equal_one(run, two_processes):
    """Two micro-batches and one, so LayerDrop drops a layer in some that another one has a gradient of."""
    assert_equal_runs(run("one", *OVERRIDES), two_processes / "run")


@pytest.mark.slow
@pytest.mark.parametrize("is_slimipl", [False, True])
def test_two_processes_that_cannot_share_evenly(run, tone_data, tone_run, tmp_path, is_slimipl):
    """One of them has no micro-batch in an update on labels alone, and one of two in an update of slimIPL."""
    settings = [*OVERRIDES, "micro_batches_per_update=1", "num_workers=1"]
    if is_slimipl:
        settings = slimipl_overrides(tone_run / "model", tone_data / "unlabelled.parquet")
        settings += ["micro_batches_per_update=3", "slimipl.cache_size=6"]
    two = run_on_two(tmp_path, "train.py", tone_data / "tones.yaml", f"output_dir={tmp_path / 'two'}", *settings)
    assert [status for status, _ in two] == [0, 0], two
    assert_equal_runs(run("one", *settings), tmp_path / "two")


@pytest.fixture
def without_dropout(tone_data):
    """Settings, model and processor in which nothing is random."""
    off = {f"model_fields.{name}=0" for name in ("conv_dropout", "attention_dropout", "activation_dropout")}
    config = load_config(
        tone_data / "tones.yaml", [*off, "model_fields.layerdrop=0", "max_grad_norm=1e9", "micro_batches_per_update=3"]
    )
    torch.manual_seed(0)
    return config, *build_model(config, read_utterances(config.train))


def numbered_batches(config, model, processor, plan):
    batches = SpeechBatches(read_utterances(config.train), plan, processor, model.config, with_labels=True)
    return [(number, batches[number]) for number in range(len(plan))]


def test_loader_workers_get_rows_and_no_plan(without_dropout, monkeypatch):
    """Where they are not forked, what they get is pickled for each."""
    config, model, processor = without_dropout
    train_set, loaders = read_utterances(config.train), []
    plan = plan_passes(train_set, None, config, SharedArrays())["train"]

    def load(dataset, **options):
        loaders.append(pickle.dumps(dataset))
        return DataLoader(dataset, **options)

    monkeypatch.setattr(run_data, "DataLoader", load)
    accelerator = Accelerator(cpu=True)
    update = next(supervised_updates(accelerator, model, processor, train_set, plan, config, start=2))
    assert [(number, batch.indices) for number, batch in update] == [(number, plan[number]) for number in (6, 7, 8)]
    assert len(loaders) == 1 and b"BatchPlan" not in loaders[0] and b"SpeechBatches" in loaders[0]


@pytest.mark.parametrize("reduction", ["target_sqrt", "mean", "sum"])
def test_micro_batches_add_up_to_one_batch(without_dropout, reduction):
    """Their gradient is that of plain backpropagation through one batch of all their utterances."""
    config, model, processor = without_dropout
    model.config.ctc_loss_reduction = reduction
    [(_, whole)] = numbered_batches(config, model, processor, [list(range(28, 38))])  # of both languages
    parts = numbered_batches(config, model, processor, [[28, 29, 30, 31, 32], [33], [34, 35, 36, 37]])
    assert_a_step_is_one_batch(model, processor, parts, whole, config)


def assert_a_step_is_one_batch(model, processor, parts, whole, config):
    """Compares the update of `train_step` with `parts` with the gradient of `whole`."""
    expected = model(**whole.inputs(torch.device("cpu"))).loss
    gradients = torch.autograd.grad(expected, list(model.parameters()))

    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)  # the update is the gradient
    ctc = ctc_interface(model.config, processor)
    numbers = train_step(Accelerator(cpu=True), ctc, model, optimizer, parts, config)

    assert numbers["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert numbers["gradient_norm"] == pytest.approx(math.sqrt(sum(g.square().sum() for g in gradients)), rel=1e-4)
    assert numbers["audio_seconds"] == pytest.approx(sum(int(b.attention_mask.sum()) for _, b in parts) / 100)
    atol = 1e-6 * max(gradient.abs().max() for gradient in gradients) + 1e-6
    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(before[name] - parameter.detach(), gradient, rtol=1e-3, atol=float(atol))


def test_gradients_are_clipped_as_a_whole(without_dropout):
    config, model, processor = without_dropout
    config = dataclasses.replace(config, max_grad_norm=0.01)
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    parts = numbered_batches(config, model, processor, [[0, 1], [2], [3]])
    ctc, optimizer = ctc_interface(model.config, processor), torch.optim.SGD(model.parameters(), lr=1.0)
    numbers = train_step(Accelerator(cpu=True), ctc, model, optimizer, parts, config)
    after = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    assert numbers["gradient_norm"] > 0.01
    assert (after - before).norm() == pytest.approx(0.01, rel=1e-2)


def test_a_gradient_that_is_not_finite_names_its_batches(without_dropout):
    config, model, processor = without_dropout
    parts = numbered_batches(config, model, processor, [[0, 1], [2], [3]])
    parts[1][1].input_features[0, 0, 0] = torch.inf
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    renumbered = [(number + 40, batch) for number, batch in parts]
    ctc = ctc_interface(model.config, processor)
    with pytest.raises(TrainingError, match="micro-batches 40, 41, 42 is not finite, its loss is nan; lower learning"):
        train_step(Accelerator(cpu=True), ctc, model, build_optimizer(model, config), renumbered, config)
    torch.testing.assert_close(dict(model.named_parameters()), before, rtol=0, atol=0)


def test_what_is_saved_survives_a_divergence(run, tmp_path):
    """The learning rate grows until fp32 overflows."""
    settings = ["learning_rate=1e38", "warmup_updates=10", "save_every=1", "dev=[]"]
    with pytest.raises(TrainingError, match="is not finite"):
        run("diverged", *settings)
    done = max(losses(tmp_path / "diverged"))
    last = tmp_path / "diverged" / "checkpoints" / f"update-{done:08d}"
    assert load_file(last / "model.safetensors")
    assert not (tmp_path / "diverged" / "model").exists()
    with pytest.raises(TrainingError, match=f"micro-batches {2 * done}, {2 * done + 1} is not finite"):
        run("diverged", *settings)  # it goes on from there, to the same end


def test_a_diverged_run_goes_on_with_other_settings(run, tmp_path, monkeypatch):
    """It goes on from its last checkpoint; with the old settings again, it ends like an undisturbed run."""
    settings = ["max_updates=10", "save_every=5", "dev=[]"]
    kill_at(monkeypatch, 7)
    with pytest.raises(Killed):
        run("a", *settings)
    monkeypatch.undo()
    config = tmp_path / "a" / "config.yaml"
    with pytest.raises(ValueError, match=f"to go on with other settings from its last checkpoint, remove {config}"):
        run("a", *settings, "learning_rate=1e38")
    config.unlink()
    with pytest.raises(
        TrainingError, match="micro-batches 12, 13 is not finite, its loss is nan; lower learning_rate"
    ):
        run("a", *settings, "learning_rate=1e38")
    assert [path.name for path in (tmp_path / "a" / "checkpoints").iterdir()] == ["update-00000005"]
    config.unlink()
    assert_equal_bits(run("a", *settings), run("b", *settings))


def test_learning_rate_follows_its_schedule(run, tone_run):
    settings = {"output_dir": "", "model": "a", "train": ["b"], "max_updates": 10, "warmup_updates": 4}

    def factors(**changes):
        config = TrainingConfig(**{**settings, **changes})
        return [learning_rate_factor(update, config) for update in range(config.max_updates)]

    growth = [1 / 4, 2 / 4, 3 / 4, 1]
    assert factors() == growth + [1] * 6
    assert factors(schedule="linear") == pytest.approx(growth + [n / 6 for n in (6, 5, 4, 3, 2, 1)])
    assert factors(warmup_updates=0, schedule="linear") == pytest.approx([1 - n / 10 for n in range(10)])
    assert factors(warmup_updates=20) == pytest.approx([n / 20 for n in range(1, 11)])
    assert factors(warmup_updates=10, schedule="linear") == pytest.approx([n / 10 for n in range(1, 11)])
    step = {"schedule": "step", "first_decay_update": 6, "decay_every_updates": 2}
    assert factors(**step) == [*growth, 1, 1 / 2, 1 / 2, 1 / 4, 1 / 4, 1 / 8]
    assert factors(**step | {"first_decay_update": 2})[:4] == [1 / 4, 2 / 8, 3 / 8, 4 / 16]  # also while it grows
    # and each update has the rate of its number: 10 of 60 are warm-up, the highest rate is 0.01
    rates = [row["learning_rate"] for row in rows(tone_run) if "loss" in row]
    assert rates == pytest.approx([0.001 * n for n in range(1, 11)] + [0.01 * (50 - n) / 50 for n in range(50)])


def test_optimizers(without_dropout):
    config, model, _ = without_dropout
    adamw = build_optimizer(model, dataclasses.replace(config, weight_decay=0.1))
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.defaults["lr"], adamw.defaults["betas"], adamw.defaults["weight_decay"]) == (0.01, (0.9, 0.98), 0.1)
    adagrad = build_optimizer(model, dataclasses.replace(config, optimizer="adagrad"))
    assert isinstance(adagrad, torch.optim.Adagrad)
    assert (adagrad.defaults["lr"], adagrad.defaults["weight_decay"], adagrad.defaults["lr_decay"]) == (0.01, 0, 0)
    for optimizer in (adamw, adagrad):
        assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == model.num_parameters()


def test_logging_in_windows(run, short):
    """A row of metrics holds means over its window, also if evaluations and saves come in between."""
    coarse = run("coarse", *SHORT, "log_every=3", "eval_every=2", "save_every=2")
    torch.testing.assert_close(weights(short), weights(coarse), rtol=0, atol=0)
    means = [sum(losses(short)[update] for update in window) / 3 for window in ((1, 2, 3), (4, 5, 6))]
    assert losses(coarse) == pytest.approx({3: means[0], 6: means[1]})


def test_spec_augment_begins_after_its_updates(run):
    augmented, plain = run("a", *SHORT, "spec_augment.start_update=3"), run("b", *SHORT, "spec_augment=null")
    same = [losses(augmented)[update] == losses(plain)[update] for update in range(1, 7)]
    assert same == [True, True, True, False, False, False]


def test_a_curriculum_begins_with_short_utterances(run, monkeypatch):
    seconds, batch = {}, SpeechBatches.batch  # of utterances, by the number of their micro-batch

    def spy(self, rows, number):
        seconds[number] = self.dataset[rows]["duration_seconds"]
        return batch(self, rows, number)

    monkeypatch.setattr(SpeechBatches, "batch", spy)
    folder = run("a", *SHORT, "curriculum={updates: 4, share: 0.2}")
    end = 4 * load_config(folder / "config.yaml").micro_batches_per_update
    longest = [max(seconds[number]) for number in sorted(seconds.keys() - {None})]  # None is no training
    assert end < len(longest) and max(longest[:end]) < max(longest[end:])


def test_another_run_does_not_get_into_the_folder(run):
    run("a", *SHORT)
    with pytest.raises(ValueError) as caught:
        run("a", *SHORT, "learning_rate=0.5", "spec_augment=null", "num_workers=1")
    message = str(caught.value)
    assert "belongs to a run with other settings" in message and "Choose another output_dir, or remove it" in message
    assert "learning_rate was 0.01, is 0.5" in message and "spec_augment was {" in message
    assert "num_workers" not in message and "seed" not in message


def test_settings_that_an_earlier_version_lacks_have_their_defaults(run, tmp_path):
    folder = run("a", *SHORT)
    known = [
        line for line in (folder / "config.yaml").read_text().splitlines() if not line.startswith(("bf16", "slim"))
    ]
    (folder / "config.yaml").write_text("\n".join(known))
    assert run("a", *SHORT) == folder
    with pytest.raises(ValueError, match="bf16 was False, is True. Choose"):
        run("a", *SHORT, "bf16=true")


def test_another_job_in_the_folder_is_reported(run, tmp_path):
    """A second start of the same run, for example, changes nothing in the folder."""
    with claimed(tmp_path / "a"):
        before = sorted((tmp_path / "a").rglob("*"))
        with pytest.raises(
            InUseError, match=f"^{tmp_path / 'a'}: another job works there .*process {os.getpid()} on "
        ):
            run("a", *SHORT)
        assert sorted((tmp_path / "a").rglob("*")) == before
    assert list(losses(run("a", "max_updates=1", "dev=[]"))) == [1]
    assert not list((tmp_path / "a").glob(".*"))


def test_a_finished_run_returns_at_once(run, tone_data, tmp_path):
    data = shutil.copy(tone_data / "train.parquet", tmp_path / "moved.parquet")
    folder = run("a", *SHORT, f"train=[{data}]")
    before = weights(folder)
    (tmp_path / "moved.parquet").unlink()  # nothing is even read
    free = ["num_workers=3", "log_every=2", "eval_every=2", "save_every=1", "cache_gigabytes=0"]
    assert run("a", *SHORT, f"train=[{data}]", *free) == folder
    torch.testing.assert_close(weights(folder), before, rtol=0, atol=0)


REFUSED = {
    "languages=[de]": "the model has no class for sv-SE; it knows de",
    "train=[nowhere.parquet]": "nowhere.parquet: no such utterance file",
    "max_batch_seconds=0.01": "none of 64 utterances can be used for training",
    "model_fields.hidden_size=0": "tiny cannot have the model_fields .* hidden_size is 0; it must be at least 1",
    "dev=[UNLABELLED]": "unlabelled.parquet: 24 of 24 utterances have no text to compare with",
    "train=[UNLABELLED]": "unlabelled.parquet: no utterance has a text, so `train` cannot use it; slimIPL learns from",
    "train=[EMPTY] unlabelled=[EMPTY] slimipl={}": "empty.parquet: is in `train` and in `unlabelled`; slimIPL needs",
    "dev=[EMPTY]": "empty.parquet: all 64 utterances have an empty text to compare with",
    "train=[EMPTY]": "none of 64 utterances can be used for training: {'no text': 64}",
    "train=[COLLAPSED]": "train: sv-SE: 94% of 32 pseudo-labels are empty: .* allow_collapsed=true trains on them",
    "train=[SHORT]": "train: sv-SE: 32 pseudo-labels have \\d% of the letters that transcripts have: ",
    "dev=[LOST]": "none of 10 utterances of dev could be used, for example: .*lost0.wav.*; see whether the disk",
    "unlabelled=[nowhere.parquet] slimipl={}": "nowhere.parquet: no such utterance file",
    "language=fr": "fr",
    "tokens=nowhere.lst": "nowhere.lst",
    "model=./nowhere": "nowhere: no such folder",  # a name without a slash is looked for on the Hub, for 23 s
}


def test_a_run_that_could_not_start_starts_when_its_settings_are_mended(run, tone_data, tmp_path):
    """Whatever it was refused for: it leaves nothing to which the next one, with other settings, could belong."""
    table = pq.read_table(tone_data / "train.parquet").to_pylist()  # 32 utterances of each language
    files = {"UNLABELLED": tone_data / "unlabelled.parquet", "EMPTY": tmp_path / "empty.parquet"}
    files |= {name: tmp_path / f"{name.lower()}.parquet" for name in ("COLLAPSED", "SHORT")}
    write_utterances([row | {"text": ""} for row in table], files["EMPTY"])
    labels = [row | {"id": f"label/{row['id']}", "source": "me/t@1"} for row in table[32:]]
    empty = [row | {"text": ""} for row in labels]
    write_utterances([*table, *labels[:2], *empty[2:]], files["COLLAPSED"])
    letters = [row | {"text": letter} for row, letter in zip(labels, "defgd", strict=False)]
    write_utterances([*table, *letters, *empty[5:]], files["SHORT"])
    files["LOST"] = with_lost_clips(tone_data, tmp_path, "dev", lambda i: True)
    for wrong, message in REFUSED.items():
        overrides = re.sub("[A-Z]{4,}", lambda name: str(files[name[0]]), wrong).split()
        with pytest.raises((ValueError, OSError), match=message):
            run("a", *SHORT, *overrides)
        assert list((tmp_path / "a").iterdir()) == []
    (tmp_path / "a" / "config.yaml").write_bytes((tone_data / "tones.yaml").read_bytes())  # of earlier versions
    for name in ("metrics.jsonl", "run.json", "results.json"):  # of a run that was killed before it saved anything
        (tmp_path / "a" / name).write_text('{"sessions": [{"first_update": 1, "hours": 99}], "update": 1}\n')
    folder = run("a", "max_updates=1", "dev=[]")
    assert list(losses(folder)) == [1] and not (folder / "results.json").exists()
    assert [session["hours"] < 1 for session in json.loads((folder / "run.json").read_text())["sessions"]] == [True]


def test_a_bad_clip_costs_one_line(run, tone_data, tmp_path, caplog):
    """So does a file without utterances."""
    table = pq.read_table(tone_data / "train.parquet").to_pylist()
    table[5]["audio"]["path"] = str(tmp_path / "lost.wav")
    (tmp_path / "noise.mp3").write_bytes(b"nothing that can be decoded" * 40)
    table[50]["audio"]["path"] = str(tmp_path / "noise.mp3")
    write_utterances(table, tmp_path / "train.parquet")
    write_utterances([], tmp_path / "none.parquet")
    train = f"train=[{tmp_path / 'train.parquet'}, {tmp_path / 'none.parquet'}]"
    with caplog.at_level(logging.WARNING, logger="hf_mlpl"):
        folder = run("a", "max_updates=20", "dev=[]", train)  # several passes
    assert list(losses(folder)) == list(range(1, 21)) and all(map(math.isfinite, losses(folder).values()))
    for row, file in ((5, "lost.wav"), (50, "noise.mp3")):
        [line] = [record.getMessage() for record in caplog.records if table[row]["id"] in record.getMessage()]
        assert file in line and "\n" not in line and line.endswith("; skipped")
    assert caplog.messages[0] == f"{tmp_path / 'none.parquet'}: no utterances" and len(caplog.records) == 3


@pytest.mark.parametrize("languages", [["de"], []])
def test_a_language_without_dev_speech_costs_one_line(run, tone_data, tmp_path, caplog, languages):
    """Some languages of Common Voice have none; a file may also be empty."""
    table = pq.read_table(tone_data / "dev.parquet").to_pylist()
    write_utterances([row for row in table if row["language"] in languages], tmp_path / "dev.parquet")
    with caplog.at_level(logging.WARNING, logger="hf_mlpl"):
        folder = run("a", "max_updates=2", f"dev=[{tmp_path / 'dev.parquet'}]", "language=sv-SE")
    message = f"{tmp_path / 'dev.parquet'}: no utterances of sv-SE, so the model is not evaluated during training"
    assert [record.getMessage() for record in caplog.records] == [message]
    assert [row["update"] for row in rows(folder)] == [1, 2] and weights(folder)


def with_lost_clips(tone_data, folder, name, is_lost):
    """Writes an utterance file in which the audio of rows with `is_lost(row number)` does not exist."""
    table = pq.read_table(tone_data / f"{name}.parquet").to_pylist()
    for i, row in enumerate(table):
        if is_lost(i):
            row["audio"] |= {"path": str(folder / f"lost{i}.wav")}
    write_utterances(table, folder / f"lost-{name}.parquet")
    return folder / f"lost-{name}.parquet"


def test_an_update_without_any_readable_clip_goes_on(run, tone_data, tmp_path, capsys):
    lost = with_lost_clips(tone_data, tmp_path, "train", lambda i: i % 5 < 2)
    batches_of_one = ["max_batch_seconds=0.6", "micro_batches_per_update=1"]
    folder = run("a", *SHORT, *batches_of_one, "log_every=3", f"train=[{lost}]")
    assert [row["update"] for row in rows(folder)] == [3, 6] and all(map(math.isfinite, losses(folder).values()))
    unusable = sum(row.get("unusable", 0) for row in rows(folder))
    message = rf"^{unusable} of \d+ utterances that training met could not be used"
    assert unusable > 0 and re.search(message, capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("slimipl", [False, True])
def test_training_without_its_audio_stops(run, tone_run, tone_data, tmp_path, slimipl):
    """A disk may not be mounted; with slimIPL, the one with the audio to label."""
    name = "unlabelled" if slimipl else "train"
    settings = [f"{name}=[{with_lost_clips(tone_data, tmp_path, name, lambda i: i % 5 < 3)}]", "max_updates=200"]
    if slimipl:
        settings += [f"model={tone_run / 'model'}", "tokens=null", "language=sv-SE"]
        settings += ["slimipl={start_update: 1, cache_size: 20, supervised_updates: 0}"]
    message = r"^\d+ of the last \d+ utterances could not be used, for example: utterance .*lost\d+.wav.*; see whether"
    with pytest.raises(TrainingError, match=message):
        run("a", *settings, "dev=[]")
    assert max(losses(tmp_path / "a"), default=0) < 20 and not (tmp_path / "a" / "model").exists()
    lines = (tmp_path / "a" / "unreadable.txt").read_text().splitlines()
    assert len(lines) == len(set(lines)) > 5 and all("lost" in line for line in lines)


@pytest.mark.slow
def test_slimipl_without_its_unlabelled_audio_stops(run, tone_run, tone_data, tmp_path):
    """Even where most updates learn from the labelled speech, which can be read."""
    lost = with_lost_clips(tone_data, tmp_path, "unlabelled", lambda i: True)
    settings = [f"unlabelled=[{lost}]", f"model={tone_run / 'model'}", "tokens=null", "language=sv-SE", "dev=[]"]
    settings += ["slimipl={start_update: 1, cache_size: 8, supervised_updates: 4, unsupervised_updates: 1}"]
    with pytest.raises(TrainingError, match=r"^(\d+) of the last \1 utterances could not be used, for example: "):
        run("a", *settings, "max_updates=200", "micro_batches_per_update=1", "max_batch_seconds=10")


@pytest.mark.slow
def test_a_disk_that_is_lost_near_the_end_is_told(run, tone_data, tmp_path):
    """The whole pass of 64 utterances was fine, the rest of the updates read none; the saved updates stay."""
    lost = with_lost_clips(tone_data, tmp_path, "train", lambda i: False)
    table, folder = pq.read_table(lost).to_pylist(), tmp_path / "clips"
    folder.mkdir()
    for row in table:
        row["audio"]["path"] = shutil.copy(row["audio"]["path"], folder)
    write_utterances(table, lost)
    settings = [f"train=[{lost}]", "dev=[]", "cache_gigabytes=0", "max_updates=12", "save_every=10"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 11)
        run("a", *settings)
    folder.rename(tmp_path / "away")
    with pytest.raises(TrainingError, match=r"^(\d+) of the last \1 utterances could not be used"):
        run("a", *settings)
    (tmp_path / "away").rename(folder)
    assert_equal_bits(run("a", *settings), run("b", *settings))


@pytest.mark.slow
def test_a_model_that_says_nothing_is_told(run, tone_run, tone_data, tmp_path, monkeypatch, caplog):
    """The model is written, and the same command again says the same, until the settings accept it."""
    model = MlplForCTC.from_pretrained(tone_run / "model")
    with torch.no_grad():
        model.ctc_head.bias[model.config.blank_token_id] += 1000
    model.save_pretrained(tmp_path / "silent")
    MlplProcessor.from_pretrained(tone_run / "model").save_pretrained(tmp_path / "silent")
    settings = [f"model={tmp_path / 'silent'}", "tokens=null", "learning_rate=1e-6", "max_updates=4", "eval_every=1"]
    folder = run("a", *settings)  # a trial of a few updates
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in lines] == [f"update {update}" for update in (1, 2, 3, 4)]
    assert "16 of 16 transcripts of dev are empty: train longer (max_updates), raise learning_rate" in lines[0]
    assert json.loads((folder / "results.json").read_text())["empty"] == 16
    monkeypatch.setattr(silence, "FEWEST_UPDATES", 4)
    message = "b/model is written, but all 16 transcripts of dev are empty, .*; allow_collapsed=true accepts the model"
    for _ in range(2):
        with pytest.raises(TrainingError, match=message):
            run("b", *settings)
    assert_equal_bits(folder, tmp_path / "b")
    assert run("b", *settings, "allow_collapsed=true") == tmp_path / "b"
    caplog.clear()
    run("c", *settings, "dev=[]", "save_every=2")  # where training utterances are transcribed
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(" transcripts")[0] for line in lines] == ["update 2: 4 of 4", "update 4: 4 of 4"]
    assert_equal_bits(tmp_path / "c", run("d", *settings, "dev=[]", "save_every=2"))


def test_dropped_utterances_are_listed(run, tone_data, tmp_path, caplog):
    table = pq.read_table(tone_data / "train.parquet").to_pylist()
    for row in table[:7]:
        row["text"] += "?"
    write_utterances(table, tmp_path / "train.parquet")
    settings = [f"train=[{tmp_path / 'train.parquet'}]", "max_updates=1", "dev=[]"]
    folder = run("a", *settings)
    listed = [line.split("\t") for line in (folder / "dropped.tsv").read_text().splitlines()]
    assert listed[0] == ["id", "reason", "duration_seconds", "text"]
    assert [line[:2] for line in listed[1:]] == [[row["id"], "unknown characters"] for row in table[:7]]
    lines = [record.getMessage() for record in caplog.records if "dropped" in record.getMessage()]
    assert len(lines) == 6 and lines[-1].endswith(f"7 unknown characters; all are listed in {folder / 'dropped.tsv'}")


def test_misheard_speakers_are_dropped_where_the_settings_say_so(run, tone_data, tmp_path):
    """The labels of one of three speakers are all the same; texts of people stay, whoever speaks."""
    table = pq.read_table(tone_data / "train.parquet").to_pylist()
    labels = [
        row | {"id": f"{row['id']}-{speaker}", "speaker": speaker} for row in table for speaker in ("a", "b", "c")
    ]
    shortest = min((row["text"] for row in table), key=len)  # which fits into the frames of all
    for row in labels:
        row |= {"source": "teacher", "text": shortest if row["speaker"] == "c" else row["text"]}
    write_utterances([*(row | {"speaker": "c"} for row in table), *labels], tmp_path / "mixed.parquet")
    settings = [f"train=[{tmp_path / 'mixed.parquet'}]", "max_updates=1", "dev=[]"]
    lost = []
    for name, is_on in (("on", "true"), ("off", "false")):
        folder = run(name, *settings, f"drop_misheard_speakers={is_on}")
        lost.append(json.loads((folder / "run.json").read_text())["dropped"])
        assert (folder / "dropped.tsv").exists() == (is_on == "true")
    assert lost == [{"misheard speaker": len(table)}, {}]


def test_training_goes_on_from_a_trained_model(run, tone_run, tone_data):
    """It keeps its tokens and languages; the settings' model fields replace its own."""
    fields = "model_fields={layerdrop: 0, attention_dropout: 0, activation_dropout: 0, conv_dropout: 0}"
    settings = ["max_updates=2", "warmup_updates=2", "learning_rate=1e-4", "tokens=null", "spec_augment=null"]
    folder = run("a", *settings, fields, f"model={tone_run / 'model'}")
    assert losses(folder)[1] < 0.5 * losses(tone_run)[1]
    assert rows(folder)[-1]["dev"]["macro"]["cer"] < 0.1
    model = MlplForCTC.from_pretrained(folder / "model")
    assert (model.config.layerdrop, model.config.hidden_size) == (0, 32)
    assert model.config.languages == ["de", "sv-SE"]
    assert (folder / "model" / "tokens-all.lst").read_bytes() == (tone_data / "tokens-all.lst").read_bytes()
    largest_change = max((weights(folder)[name] - old).abs().max() for name, old in weights(tone_run).items())
    assert 0 < largest_change < 1e-3


def test_a_model_knows_the_characters_of_its_languages(tone_data, tmp_path):
    """New or loaded, from human transcripts alone; they are saved with it."""
    rows = pq.read_table(tone_data / "train.parquet").to_pylist()
    spoken = {language: [row["text"] for row in rows if row["language"] == language] for language in LETTERS}
    characters = {language: "".join(sorted(set("".join(texts)) - {" "})) for language, texts in spoken.items()}
    changes = [
        {"id": "pseudo-label", "text": "xyz", "source": "user/teacher@0123456", "language": "de"},
        {"id": "nobody", "text": None, "source": None, "language": "de"},
        {"id": "other", "text": "E\u0301 a", "source": "human", "language": "fr"},
    ]
    write_utterances([{**rows[0], **change} for change in changes], tmp_path / "others.parquet")

    new = load_config(tone_data / "tones.yaml", [f"output_dir={tmp_path}"])
    model, processor = build_model(new, read_utterances(new.train))
    assert processor.tokenizer.language_characters == characters == {"de": "abcde", "sv-SE": "defgö"}
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")

    loaded = dataclasses.replace(new, model=str(tmp_path / "model"), train=[str(tmp_path / "others.parquet")])
    _, processor = build_model(loaded, read_utterances(loaded.train))
    assert processor.tokenizer.language_characters == {**characters, "fr": "aÉ"}
    processor.save_pretrained(tmp_path / "again")
    tokenizer = MlplProcessor.from_pretrained(tmp_path / "again").tokenizer
    assert tokenizer.convert_ids_to_tokens(tokenizer.allowed_ids("sv-SE")) == ["|", *"defgö", "<blank>"]
    assert tokenizer.convert_ids_to_tokens(tokenizer.allowed_ids("fr")) == ["|", "a", "<blank>"]
