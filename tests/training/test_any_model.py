"""Trains, resumes, labels with, pushes and loads a random small model of every CTC architecture of transformers."""

import copy
import json
import random
import shutil
import subprocess

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import AutoModelForCTC, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING_NAMES

from hf_mlpl.audio.reading import load_audio
from hf_mlpl.ctc_models import ctc_interface
from hf_mlpl.data.batches import SpeechBatches
from hf_mlpl.data.utterances import FEATURES, read_utterances, write_utterances
from hf_mlpl.inference.decoding import transcribe
from hf_mlpl.inference.precision import convert
from hf_mlpl.training.loop import train, train_step
from hf_mlpl.training_config import load_config

from .. import tones
from ..commands import ROOT, run_command
from ..inference.test_unsharded import launch
from ..model.test_remote_code import WITHOUT_PACKAGE
from ..ranks import run_all_on_two
from ..small_models import ARCHITECTURES, missing, model_type, save_small_model
from .test_loop import assert_equal_bits, assert_equal_runs, rows, weights

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

# Updates 1 and 2 learn from labelled speech, 3 fills the cache, and 4 to 6 learn from either; 3 is resumed. Masks,
# dropout and LayerDrop are on, and the teacher is a mean of the weights.
SLIMIPL = "{start_update: 2, cache_size: 2, cache_update_probability: 0.5, unsupervised_updates: 2"
SLIMIPL += ", dynamic_dropout: 0.3, ema_decay: 0.5}"
SETTINGS = {
    "max_updates": 6,
    "save_every": 3,
    "eval_every": 6,
    "log_every": 1,
    "micro_batches_per_update": 2,
    "max_batch_seconds": 2,
    "optimizer": "adamw",
    "learning_rate": 1e-4,  # AdamW moves weights so far whose gradients are rounding errors; tests allow a tenth
    "warmup_updates": 0,
    "max_grad_norm": 1.0,
    "spec_augment": None,
    "num_workers": 0,
    "allow_collapsed": True,  # nothing is learned in six updates
}


def every_architecture():
    """Names those that the installed release has; the others are skipped with a reason."""
    assert set(MODEL_FOR_CTC_MAPPING_NAMES) - {"mlpl"} <= {model_type(name) for name in ARCHITECTURES}
    reasons = {name: missing(name) for name in ARCHITECTURES}
    return [pytest.param(name, marks=pytest.mark.skip(why) if why else ()) for name, why in reasons.items()]


@pytest.fixture(params=every_architecture(), scope="module")
def name(request):
    return request.param


@pytest.fixture(scope="module")
def folder(name, folders):
    return folders(name)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Returns a function that returns the folder of an architecture's model, and writes it first."""
    root, written = tmp_path_factory.mktemp("models"), {}

    def folder_of(name):
        if name not in written:
            written[name] = save_small_model(root / name, name, letters="abcdefgö")
        return written[name]

    return folder_of


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Returns a folder of utterance files of words of two languages, slow enough for frames of 80 ms."""
    root, letters, noise = tmp_path_factory.mktemp("data"), random.Random(0), np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tones, "TONE_SECONDS", 0.24)
        for split, count in {"train": 12, "dev": 4, "unlabelled": 12}.items():
            rows = []
            for i in range(count):
                language, path = list(tones.LETTERS)[i % 2], root / f"{split}-{i}.wav"
                text = tones.random_text(language, letters).replace("ö", "g")
                soundfile.write(path, samples := tones.speak(text, noise), tones.RATE)
                row = dict.fromkeys(FEATURES) | {"id": path.stem, "audio": {"path": str(path)}, "language": language}
                rows.append(row | {"duration_seconds": len(samples) / tones.RATE, "text": text, "source": "human"})
            if split == "train":
                rows.append(rows[0] | {"id": "unknown", "text": "a\u0634"})
                rows.append(rows[0] | {"id": "lost", "audio": {"path": str(root / "lost.wav")}})
            write_utterances(rows, root / f"{split}.parquet")
    return root


@pytest.fixture(scope="module")
def settings(data, tone_corpus, folders, tmp_path_factory):
    """Returns a function that writes a YAML file of a run, and returns its path."""
    root = tmp_path_factory.mktemp("settings")

    def settings_of(name, output_dir, **changes):
        path = root / f"{name}.yaml"
        files = {split: [str(data / f"{split}.parquet")] for split in ("train", "dev", "unlabelled")}
        own = {"model": str(folders(name)), "output_dir": str(output_dir), "slimipl": yaml.safe_load(SLIMIPL)}
        path.write_text(yaml.safe_dump(SETTINGS | files | own | changes))
        return path

    return settings_of


@pytest.fixture(scope="module")
def one(name, settings, tmp_path_factory):
    """Returns the folder of a run of one process."""
    return train(load_config(settings(name, tmp_path_factory.mktemp("one") / name))).parent


@pytest.fixture(scope="module")
def two(settings, tmp_path_factory):
    """Returns a folder with the run of each architecture by two processes, which recompute the layers' activations."""
    root = tmp_path_factory.mktemp("two")
    names = [name for name in ARCHITECTURES if not missing(name)]
    done = run_all_on_two(
        root, [("train.py", settings(name, root / name, gradient_checkpointing=True)) for name in names]
    )
    assert [status for status, _ in done] == [0, 0], done
    return root


def test_two_processes_equal_one(name, one, two):
    assert_equal_runs(one, two / name)


def test_interrupted_equals_uninterrupted(name, one, settings, tmp_path):
    shutil.copytree(one, tmp_path / name)
    shutil.rmtree(tmp_path / name / "model")  # as if it had been killed before its end
    run = train(load_config(settings(name, tmp_path / name))).parent
    assert_equal_bits(one, run)


def test_what_is_trained(name, folder, one):
    """The encoder and the head move, also on pseudo-labels; statistics of BatchNorm stay."""
    before, after = load_file(folder / "model.safetensors"), weights(one)
    assert before.keys() == after.keys()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert any("_head." in key for key in moved) and any(".layer" in key for key in moved)
    assert not [key for key in moved if "running_" in key or "num_batches" in key]
    updates = [row for row in rows(one) if "loss" in row]
    assert [row["update"] for row in updates] == [1, 2, 4, 5, 6]
    assert all(np.isfinite(row["loss"]) for row in updates)
    assert "unknown characters" in (one / "dropped.tsv").read_text()
    assert "lost.wav" in (one / "unreadable.txt").read_text()


@pytest.fixture(scope="module")
def trained(one):
    """Returns the trained model and its processor, loaded by transformers."""
    return AutoModelForCTC.from_pretrained(one / "model").eval(), AutoProcessor.from_pretrained(one / "model")


def logits_of(model, processor, audio):
    """Returns (S, V), with classes of transformers alone."""
    inputs = processor(load_audio(audio, 16_000), sampling_rate=16_000, return_tensors="pt")
    logits = model(**inputs).logits[0]
    if hasattr(model, "_get_output_attention_mask") and "attention_mask" in inputs:  # an extractor may add a frame
        logits = logits[: model._get_output_attention_mask(inputs["attention_mask"]).sum()]
    return logits


@torch.no_grad()
def references(model, processor, dataset):
    """Returns (logits, text) of each utterance by itself, as a pipeline makes it without special tokens."""
    outputs = []
    for audio in dataset["audio"]:
        logits = logits_of(model, processor, audio)
        text = processor.decode(logits.argmax(-1))
        for token in processor.tokenizer.all_special_tokens:
            text = text.replace(token, "")
        outputs.append((logits, " ".join(text.split())))
    return outputs


def test_labels(name, one, trained, data, tmp_path):
    """Those of a batch are those of each utterance by itself, and of transformers."""
    unlabelled = data / "unlabelled.parquet"
    options = ["--model", one / "model", "--data", unlabelled, "--output", tmp_path / "labels", "--batch-seconds", 6]
    assert run_command("pseudo_label.py", *options, "--allow-collapsed") == 0
    labels = {row["id"]: row["text"] for row in pq.read_table(tmp_path / "labels" / "labels.parquet").to_pylist()}
    dataset = read_utterances([unlabelled])
    expected = dict(zip(dataset["id"], (text for _, text in references(*trained, dataset)), strict=True))
    assert labels == expected and len(set(labels.values())) > 3
    single = {dataset[hypothesis.row]["id"]: hypothesis.text for hypothesis in transcribe(*trained, dataset, 0.01)}
    assert single == expected


def test_outputs_of_a_padded_batch(name, trained, data):
    """They are those of transformers for each utterance by itself, or the interface says that they are not."""
    model, processor = trained
    dataset = read_utterances([data / "dev.parquet"]).select(range(4))
    ctc = ctc_interface(model.config, processor)
    inputs = [ctc.extract(load_audio(audio, 16_000)) for audio in dataset["audio"]]
    batch = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True)
    lengths = torch.tensor([len(each) for each in inputs])
    assert len(set(lengths.tolist())) > 1
    with torch.no_grad():
        output = ctc.forward(model, batch, (torch.arange(batch.shape[1]) < lengths[:, None]).long())
    close = True
    for i, (logits, _) in enumerate(references(*trained, dataset)):
        assert output.num_frames[i] == len(logits) == ctc.num_output_frames(int(lengths[i]))
        close &= torch.allclose(output.logits[i, : len(logits)], logits, rtol=1e-3, atol=1e-3)
    assert close == ctc.pads_exactly


@torch.no_grad()
def test_precisions(name, trained, data):
    """The logits of models in 16 and 8 bits are nearly those of the model."""
    model, processor = trained
    audio = read_utterances([data / "dev.parquet"])[0]["audio"]
    ctc, expected = ctc_interface(model.config, processor), logits_of(model, processor, audio)
    inputs = ctc.extract(load_audio(audio, 16_000))[None]
    for dtype in ("bfloat16", "int8"):
        converted = convert(copy.deepcopy(model), dtype)
        actual = ctc.forward(converted, inputs, torch.ones(inputs.shape[:2], dtype=torch.long)).logits[0].float()
        correlation = torch.corrcoef(torch.stack([expected.flatten(), actual[: len(expected)].flatten()]))[0, 1]
        assert correlation > 0.99 and not torch.equal(actual, expected), dtype


def test_micro_batches_add_up(name, trained, settings, data, tmp_path):
    """Without dropout, the update of `train_step` is the gradient of transformers' own loss of each utterance."""
    model, processor = copy.deepcopy(trained[0]), trained[1]
    model.train = lambda mode=True: model
    ctc = ctc_interface(model.config, processor)
    dataset = read_utterances([data / "train.parquet"])
    plan = [[0, 2, 3], [5], [6, 7]] if ctc.pads_exactly else [[0], [5], [6]]
    config = load_config(settings(name, tmp_path, max_grad_norm=1e9))
    batches = SpeechBatches(dataset, plan, processor, model.config, with_labels=True)
    parts = [(number, batches[number]) for number in range(len(plan))]
    expected = torch.stack([own_loss(model, processor, dataset[row]) for rows in plan for row in rows]).mean()
    parameters = {key: each for key, each in model.named_parameters() if each.requires_grad}
    gradients = torch.autograd.grad(expected, list(parameters.values()), allow_unused=True)
    before = {key: parameter.detach().clone() for key, parameter in parameters.items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    numbers = train_step(Accelerator(cpu=True), ctc, model, optimizer, parts, config)
    assert numbers["loss"] == pytest.approx(expected.item(), rel=1e-4)
    # Rounding of fp32: Lasr's differs by up to 7e-5 of the largest gradient; in fp64, a batch differs by 4e-15.
    share = 2e-4 if name == "lasr_ctc" else 1e-5
    atol = share * max(float(gradient.abs().max()) for gradient in gradients if gradient is not None) + 1e-6
    for (key, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        update = before[key] - parameter.detach()
        expected = torch.zeros_like(update) if gradient is None else gradient
        torch.testing.assert_close(update, expected, rtol=1e-3, atol=atol, msg=lambda text, key=key: f"{key}: {text}")


def own_loss(model, processor, utterance):
    labels = torch.tensor([processor.tokenizer(utterance["text"], add_special_tokens=False)["input_ids"]])
    logits = logits_of(model, processor, utterance["audio"])[:, None].log_softmax(-1)
    blank = getattr(model.config, "blank_token_id", model.config.pad_token_id)
    return torch.nn.functional.ctc_loss(logits, labels, [len(logits)], [labels.shape[1]], blank=blank)


def test_poor_utterances(name, trained, settings, data, tmp_path):
    """A batch without readable audio adds nothing, and 10 ms of speech have an output frame."""
    model, processor = copy.deepcopy(trained[0]), trained[1]
    soundfile.write(tmp_path / "short.wav", np.random.default_rng(0).normal(scale=0.1, size=160), 16_000)
    first = read_utterances([data / "dev.parquet"])[0]
    rows = [
        first | {"id": path.stem, "audio": {"path": str(path)}, "text": "a"}
        for path in (tmp_path / "lost.wav", tmp_path / "short.wav")
    ]
    write_utterances([row | {"duration_seconds": 0.01} for row in rows], tmp_path / "poor.parquet")
    dataset = read_utterances([tmp_path / "poor.parquet"])
    batches = SpeechBatches(dataset, [[0], [1]], processor, model.config, with_labels=True)
    config, ctc = load_config(settings(name, tmp_path)), ctc_interface(model.config, processor)
    before, values = copy.deepcopy(model.state_dict()), []
    for batch in ([(0, batches[0])], [(1, batches[1])]):
        numbers = train_step(Accelerator(cpu=True), ctc, model, torch.optim.SGD(model.parameters()), batch, config)
        values.append(numbers["loss"])
        if len(values) == 1:
            torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert values[0] == 0 and np.isfinite(values[1]) and (values[1] > 0) == (not batches[1].problems)
    lost, short = sorted(transcribe(*trained, dataset), key=lambda hypothesis: hypothesis.row)
    assert "lost.wav" in lost.error and short.error is None and short.num_frames in (1, 2)


def test_bfloat16(name, trained, settings, data, tmp_path):
    """The loss of an update is near that of float32, and not the same; the weights stay in float32."""
    dataset, config = read_utterances([data / "train.parquet"]), load_config(settings(name, tmp_path))
    found = {}
    for precision in ("bf16", "no"):
        AcceleratorState._reset_state(reset_partial_state=True)  # a process has one precision for good
        model, processor = copy.deepcopy(trained[0]), trained[1]
        accelerator, ctc = Accelerator(cpu=True, mixed_precision=precision), ctc_interface(model.config, processor)
        model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters()))
        batches = SpeechBatches(dataset, [[0, 2]], processor, model.config, with_labels=True)
        found[precision] = train_step(accelerator, ctc, model, optimizer, [(0, batches[0])], config)["loss"]
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    AcceleratorState._reset_state(reset_partial_state=True)
    assert found["bf16"] == pytest.approx(found["no"], rel=0.6) and found["bf16"] != found["no"]


def test_pushed_models_load_without_this_package(
    two, local_hub, settings, data, plain_python, tmp_path, quick_retries
):
    """Plain transformers makes the same transcripts of what a finished run pushes."""
    names = [name for name in ARCHITECTURES if not missing(name)]
    for name in names:
        pushing = {"push_to_hub": f"me/{name}", "license": "cc0-1.0", "gradient_checkpointing": True}
        train(load_config(settings(name, two / name, **pushing)))
    audio = load_audio(read_utterances([data / "dev.parquet"])[0]["audio"], 16_000)
    np.save(tmp_path / "audio.npy", audio)
    command = [plain_python, "-c", WITHOUT_PACKAGE + TRANSCRIBE, tmp_path / "audio.npy", *names]
    environment = local_hub.env | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    dataset = read_utterances([data / "dev.parquet"]).select([0])
    expected = {}
    for name in names:
        loaded = [auto.from_pretrained(two / name / "model") for auto in (AutoModelForCTC, AutoProcessor)]
        [(_, expected[name])] = references(loaded[0].eval(), loaded[1], dataset)
    assert {name: " ".join(text.split()) for name, text in json.loads(done.stdout).items()} == expected


TRANSCRIBE = """
import json
import numpy as np
from transformers import AutoModelForCTC, AutoProcessor, pipeline

def transcribe(name):
    try:
        return pipeline("automatic-speech-recognition", model=name)(samples.copy())["text"]
    except TypeError:  # of OmniASR's model, to which transformers 5.24's pipeline gives an argument that it lacks
        model, processor = AutoModelForCTC.from_pretrained(name), AutoProcessor.from_pretrained(name)
        return processor.decode(model.generate(**processor(samples, sampling_rate=16_000))[0]).replace("<s>", "")

samples = np.load(sys.argv[1])
print(json.dumps({name: transcribe(f"me/{name}") for name in sys.argv[2:]}))
assert sys.modules["hf_mlpl"] is None and not [name for name in sys.modules if name.startswith("hf_mlpl.")]
"""


def test_commands(local_hub, settings, data, tmp_path, quick_python, quick_retries, capfd):
    """Training that resumes from the Hub, labelling in 8 bits, scoring and comparing take such a model too."""
    name = "wav2vec2-bert"
    pushing = {"push_to_hub": "me/w2v-bert", "license": "cc0-1.0"}
    run = train(load_config(settings(name, tmp_path / "run", **pushing))).parent
    commits = local_hub.commits("me/w2v-bert")
    assert [commit.title.split(": ")[1] for commit in commits[:2]] == ["the result, update 6", "update 3"]
    local_hub.repos["model", "me/w2v-bert"].branches["main"] = commits[1]
    elsewhere = settings(name, tmp_path / "elsewhere", **pushing)
    assert run_command("train.py", elsewhere, "--resume-from-hub", "me/w2v-bert") == 0
    assert_equal_bits(run, tmp_path / "elsewhere")

    dev, model = data / "dev.parquet", ["--model", "me/w2v-bert"]
    for dtype in ("float32", "int8", "bfloat16"):
        output = ["--output", tmp_path / f"{dtype}.json", "--dtype", dtype]
        assert run_command("evaluate_model.py", *model, "--data", dev, *output) == 0
    scores = {d: json.loads((tmp_path / f"{d}.json").read_text()) for d in ("float32", "int8", "bfloat16")}
    assert {results["macro"]["language_accuracy"] for results in scores.values()} == {None}
    assert scores["int8"]["macro"]["cer"] == pytest.approx(scores["float32"]["macro"]["cer"], rel=0.2)
    columns = [f"{dtype}={tmp_path / dtype}.json" for dtype in scores]
    assert run_command("compare.py", *columns) == 0

    labels = ["--output", tmp_path / "labels", "--dtype", "int8", "--allow-collapsed"]
    assert run_command("pseudo_label.py", *model, "--data", data / "unlabelled.parquet", *labels) == 0
    summary = json.loads((tmp_path / "labels" / "complete.json").read_text())
    assert summary["errors"] == 0 and summary["utterances"] == 12

    slimipl = {"variant": "cache", "start_update": 1, "unsupervised_updates": 2, "dynamic_dropout": None}
    each = settings(name, tmp_path / "each" / "{language}", max_updates=5, slimipl=slimipl)
    launch = ["--launch", quick_python, "--labels", tmp_path / "each-labels", "--allow-collapsed"]
    assert run_command("language_finetune.py", each, *launch) == 0, capfd.readouterr().err
    assert pq.read_metadata(tmp_path / "each-labels" / "sv-SE" / "labels.parquet").num_rows == 6


def test_sharded_weights(settings, tmp_path, quick_python):
    """FSDP gives what one process gives, also from a checkpoint before which the encoder had no gradient."""
    slimipl = yaml.safe_load(SLIMIPL) | {"dynamic_dropout": None, "ema_decay": None}
    changes = {"slimipl": slimipl, "model_fields": {"layerdrop": 0.0}, "freeze_encoder_updates": 4}
    train(load_config(settings("wav2vec2", tmp_path / "one", **changes)))
    command = ROOT / "tests" / "fsdp_on_cpu.py", settings("wav2vec2", tmp_path / "fsdp", **changes)
    for _ in range(2):
        launch(quick_python, "fsdp", *command, folder=tmp_path)
        torch.testing.assert_close(weights(tmp_path / "fsdp"), weights(tmp_path / "one"), rtol=1e-4, atol=1e-5)
        shutil.rmtree(tmp_path / "fsdp" / "model")  # update 3 is resumed
