"""Compares estimates with counted operations, real parameters and simulated steps, and tests the paper's run.sh."""

import dataclasses
import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCTC, Wav2Vec2BertConfig, Wav2Vec2BertForCTC

from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplForCTC, MlplTokenizer
from hf_mlpl.ctc_models.mlpl import MlplInterface
from hf_mlpl.data.batches import BatchPlan, repetitions
from hf_mlpl.data.utterances import SpeechTotals, read_utterances, speech_totals, write_utterances
from hf_mlpl.interop.mctct import MCTCTConfig
from hf_mlpl.training.estimate import estimate_stages, sum_speech
from hf_mlpl.training.measurement import WARM_UP, measure_updates
from hf_mlpl.training.memory import activation_bytes, recomputes_activations, training_bytes
from hf_mlpl.training.operations import counted_model, forward_flops, num_parameters, slimipl_updates, training_flops
from hf_mlpl.training.optimization import prepare, recomputes_layers
from hf_mlpl.training.problems import TrainingError
from hf_mlpl.training.slimipl import SlimIplPlan
from hf_mlpl.training.times import Machines, Work, stage_times
from hf_mlpl.training_config import SlimIplConfig, TrainingConfig, load_config

from ..commands import PROGRAMS, ROOT, check_command, read_commands, run_command
from ..port_folder import save_port
from ..small_models import save_small_encoder, save_small_model

RECIPE = ROOT / "recipes" / "common_voice_voxpopuli"
ACCELERATE = ROOT / "recipes" / "accelerate"
CPUS = ACCELERATE / "multi_cpu.yaml"


@pytest.mark.parametrize(("length", "checkpointing"), [(30, False), (200, True)])  # within and beyond 64 positions
def test_operations_are_those_that_torch_counts(length, checkpointing, one_thread):
    sizes = {"hidden_size": 32, "attention_head_dim": 24, "num_attention_heads": 2, "intermediate_size": 48}
    config = MlplConfig.tiny(40, 3, **sizes, num_hidden_layers=3, max_position_embeddings=64, layerdrop=0.0)
    model = MlplForCTC._from_config(config, attn_implementation="eager")
    features, speech = torch.randn(1, 3 * length, 80), SpeechTotals(1, 0.03 * length, (0.03 * length) ** 2)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(features)
    assert forward_flops(config, speech) == pytest.approx(counter.get_total_flops(), rel=0.01)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    with FlopCounterMode(display=False) as counter:
        model(features).logits.sum().backward()
    assert training_flops(config, speech, checkpointing, 0.0) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_layerdrop_leaves_out_its_share_of_the_layers():
    config, speech = MlplConfig.tiny(40, 3), SpeechTotals(1, 10.0, 100.0)
    whole, half = (training_flops(config, speech, False, layerdrop) for layerdrop in (0.0, 0.5))
    config.num_hidden_layers *= 2
    assert training_flops(config, speech, False, 0.5) == pytest.approx(whole) and half < whole


@pytest.mark.parametrize(("preset", "published"), [("large", 1_058_849_871), ("base", 274_625_103), ("tiny", None)])
def test_parameters_are_those_of_the_model(preset, published):
    config = getattr(MlplConfig, preset)(8065, 60)
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in MlplForCTC(config).parameters())
    assert num_parameters(config) == parameters and published in (None, parameters)


class OneRowBatches:
    def __getitem__(self, number):
        return [number]


@pytest.mark.parametrize("variant", ["fixed-pre-cache", "cache"])
def test_updates_of_slimipl_are_those_that_it_does(variant):
    slimipl = {"variant": variant, "start_update": 500, "cache_size": 400, "unsupervised_updates": 4}
    values = {"output_dir": "a", "model": "b", "train": ["c"], "unlabelled": ["d"], "max_updates": 5000}
    config = TrainingConfig(**values, slimipl=SlimIplConfig(**slimipl), micro_batches_per_update=4)
    plan = SlimIplPlan(config.slimipl, OneRowBatches(), OneRowBatches(), config.micro_batches_per_update, seed=0)
    steps = [next(plan) for _ in range(config.max_updates)]
    supervised = sum(step.supervised for step in steps)
    unsupervised = sum(bool(step.train) for step in steps) - supervised
    done = (supervised, unsupervised, sum(len(step.label) for step in steps))
    assert slimipl_updates(config) == pytest.approx(done, rel=0.03)


def test_speech_totals(tone_data, tmp_path):
    expected = {}
    for row in read_utterances([tone_data / "train.parquet"]):
        expected.setdefault(row["language"], []).append(row["duration_seconds"])
    totals = speech_totals([tone_data / "train.parquet"])
    pq.write_table(pq.read_table(tone_data / "train.parquet").replace_schema_metadata(), tmp_path / "a.parquet")
    without_summary = speech_totals([tmp_path / "a.parquet"])
    assert list(totals) == list(without_summary) == ["de", "sv-SE"]
    for language, seconds in expected.items():
        for total in (totals[language], without_summary[language]):
            assert total.utterances == len(seconds) and total.seconds == pytest.approx(sum(seconds))
            assert total.squared_seconds == pytest.approx(sum(s * s for s in seconds))
            assert total.longest == max(seconds)


@pytest.fixture
def stages(tone_data, tmp_path) -> list[str]:
    """Options of `hf-mlpl estimate` for all stages on the tones, in a folder of their own."""
    tones, labels = str(tone_data / "tones.yaml"), str(tmp_path / "labels")
    going_on = [f"model={tmp_path / 'supervised' / 'model'}", "tokens=null"]
    unlabelled = [f"unlabelled=[{tone_data / 'unlabelled.parquet'}]", "slimipl={cache_size: 4, start_update: 10}"]
    folder = f"output_dir={tmp_path / 'finetuned'}/{{language}}"
    both = f"train=[{tone_data / 'train.parquet'}, {labels}/*/labels.parquet]"
    return [
        *("--stage", tones, f"output_dir={tmp_path / 'supervised'}"),
        *("--stage", tones, folder, "language='{language}'", *going_on, *unlabelled),
        *("--stage", tones, f"output_dir={tmp_path / 'mixed'}", both),
        *("--labels", labels),
    ]


@pytest.fixture
def run_estimate(capsys):
    """Runs the command in this process, because starting one takes seconds; its exit status, and what it prints."""

    def run_estimate(*options) -> tuple[int, list[str], list[str]]:
        try:
            status = run_command("estimate.py", *options)
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.splitlines()

    return run_estimate


def test_the_table(stages, run_estimate, tmp_path, tone_data):
    status, out, err = run_estimate(*stages, "--tflops", "1e-6", "--utilisation", "0.5")
    assert (status, err) == (0, [])
    rows = [re.split(r"\s{2,}", line.strip()) for line in out[1:6]]
    assert [row[0] for row in rows] == ["tones", "tones", "pseudo-labels", "tones", "total"]
    labelled = {name: a.seconds / 3600 for name, a in speech_totals([tone_data / "train.parquet"]).items()}
    unlabelled = speech_totals([tone_data / "unlabelled.parquet"])["sv-SE"].seconds / 3600
    hours = [[labelled["de"] + labelled["sv-SE"], None], [labelled["sv-SE"], unlabelled]]
    hours += [[None, unlabelled], [labelled["de"] + labelled["sv-SE"], unlabelled]]
    for row, expected in zip(rows[:4], hours, strict=True):
        assert row[2:4] == ["-" if value is None else f"{value:.2g}" for value in expected]
    assert [row[1] for row in rows] == ["2", "1", "1", "2", "-"] and [row[4] for row in rows[:2]] == ["60", "60"]
    assert "1e-06 TFLOPS x 0.5" in out[6]
    assert not list(tmp_path.iterdir())  # nothing was written
    # 2 checkpoints of 12 bytes per parameter, AdamW, and a model
    estimate = estimate_stages([stages[1:3]], tmp_path / "labels")
    model = MlplForCTC(MlplConfig.tiny(10, ["de", "sv-SE"], **load_config(stages[1]).model_fields))
    assert estimate.stages[0].bytes == (2 * 12 + 4) * model.num_parameters()
    # 60 updates of 2 x 5 s, and 2 evaluations
    speech, dev = (
        sum(speech_totals([tone_data / f"{name}.parquet"]).values(), SpeechTotals()) for name in ("train", "dev")
    )
    training = 60 * 2 * 5 * training_flops(model.config, speech, False, 0.2) / speech.seconds
    assert estimate.stages[0].flops == pytest.approx(training + 2 * forward_flops(model.config, dev))


def test_times_of_this_machine_are_measured(stages, run_estimate, tmp_path, tone_data, one_thread, monkeypatch):
    num_updates = 2
    monkeypatch.setattr("hf_mlpl.training.measurement.UPDATES", num_updates)
    measurement = measure_updates(config := load_config(stages[1]))
    speech = sum_speech(speech_totals([tone_data / "train.parquet"]))
    model = MlplConfig.tiny(10, ["de", "sv-SE"], **config.model_fields)
    operations = 2 * 5 * training_flops(model, speech, False, 0.2) / speech.seconds
    assert measurement.flops_per_second * measurement.seconds == pytest.approx(operations)
    train_set = read_utterances(config.train)
    durations = np.array(train_set["duration_seconds"])
    plan = BatchPlan(durations, 5, config.seed, repetitions(train_set, config.language_alpha))
    seconds = np.floor((durations * 16000 - 400) / 160 + 1) / 100  # of whole frames
    spoken = (
        sum(seconds[plan[number]].sum() for number in range(2 * WARM_UP, 2 * (WARM_UP + num_updates))) / num_updates
    )
    assert measurement.audio_seconds == pytest.approx(spoken, rel=0.01)
    status, out, err = run_estimate(*stages, "--measure")
    assert status == 0 and not [line for line in err if "error" in line]
    assert out[0].endswith("  hours") and f"{num_updates} updates with 1 process: " in out[6]
    assert not list(tmp_path.iterdir())  # nothing was written
    rows = pq.read_table(tone_data / "train.parquet").to_pylist()
    lost = [row | {"audio": row["audio"] | {"path": "/nowhere/a.wav"}} for row in rows]
    write_utterances(lost, tmp_path / "lost.parquet")
    with pytest.raises(TrainingError, match="utterances could not be used, for example: .*nowhere/a.wav"):
        measure_updates(load_config(stages[1], [f"train=[{tmp_path / 'lost.parquet'}]"]))


def test_a_first_stage_of_each_language_is_measured_in_the_first_one(tone_data, tmp_path):
    settings = [
        f"output_dir={tmp_path}/{{language}}",
        "slimipl={}",
        f"unlabelled=[{tone_data / 'unlabelled.parquet'}]",
    ]
    estimate = estimate_stages([[tone_data / "tones.yaml", *settings]], tmp_path / "labels")
    assert load_config(*estimate.first_run[:1], estimate.first_run[1:]).language == "sv-SE"
    rows = pq.read_table(tone_data / "train.parquet").to_pylist()
    write_utterances([row for row in rows if row["language"] == "de"], tmp_path / "de.parquet")
    train = f"train=[{tmp_path / 'de.parquet'}]"
    estimate = estimate_stages([[tone_data / "tones.yaml", *settings, train]], tmp_path / "labels")
    assert estimate.problems == [f"{tmp_path / 'de.parquet'}: no labelled speech in sv-SE; there is some in de"]


def test_a_trained_model_has_the_heads_of_the_settings(stages, run_estimate, tmp_path, tone_data):
    """Also a model of the old port, which has no languages."""
    port = save_port(tmp_path / "port")
    [stage] = estimate_stages([[stages[1], f"model={port}", f"output_dir={tmp_path / 'a'}"]], tmp_path / "l").stages
    sizes = MCTCTConfig.from_pretrained(port).to_mlpl()
    sizes.vocab_size = len(MlplTokenizer(tone_data / "tokens-all.lst"))
    sizes.languages = ["de", "sv-SE"]
    for name, value in load_config(stages[1]).model_fields.items():
        setattr(sizes, name, value)
    assert stage.bytes == (2 * 12 + 4) * num_parameters(sizes)


def test_all_problems_at_once(stages, run_estimate, tone_data, tmp_path, monkeypatch):
    rows = pq.read_table(tone_data / "dev.parquet").to_pylist()
    write_utterances([row | {"language": "vot"} for row in rows if row["language"] == "de"], tmp_path / "dev.parquet")
    (tmp_path / "wrong.yaml").write_text("output_dir: a\nlearning_rat: 1\n")
    monkeypatch.setattr("shutil.disk_usage", lambda path: FreeBytes(1000))
    stages[3:3] = [f"dev=[{tmp_path / 'dev.parquet'}]", "languages=[de, fi, sv-SE, vot]"]
    status, out, err = run_estimate(*stages, "--languages", "de", "sv-SE")
    assert status == 1 and all(line.startswith("error: ") for line in err)
    problems = [line.removeprefix("error: ") for line in err]
    assert [line.partition(": ")[2] for line in problems] == [
        "no locale fi, neither for training nor for development",
        "the training split of vot is empty; leave it out of `languages`",
        "no unlabelled speech in de; there is some in sv-SE",
        problems[3].partition(": ")[2],
    ]
    assert re.fullmatch(rf"{tmp_path}: 0\.0 GB are needed and 0\.0 GB are free; make room, .*", problems[3])
    [warning] = [line for line in out if line.startswith("warning: ")]
    assert "dev.parquet: nothing in de, sv-SE, so training goes on without its error rates" in warning
    lost = ["--stage", tmp_path / "wrong.yaml", "--stage", tone_data / "tones.yaml", "train=[a.parquet]", "tokens=b"]
    lost += ["--stage", tone_data / "tones.yaml", "model=nowhere", "model_fields={size: 1}"]
    lost += ["--stage", tone_data / "tones.yaml", "model=nowhere", "output_dir=c"]
    status, out, err = run_estimate(*lost, "--labels", "labels")
    for problem in ("no setting is called learning_rat", "a.parquet: no such", "b: no such", "model_fields has size"):
        assert len([line for line in err if problem in line]) == 1, problem
    assert err[-1].startswith("error: nowhere: no such model, and no earlier stage writes it; accepted are tiny, ba")
    assert status == 1 and len(err) == 5 and len(out) == 7


class FreeBytes(int):
    """Replaces the result of `shutil.disk_usage`."""

    @property
    def free(self) -> int:
        return int(self)


def test_labels_in_object_storage_take_no_disk(stages, run_estimate, tmp_path):
    """Also where settings of a later stage name them, whose URLs the command leaves as they are."""
    at = stages.index("--labels") + 1
    local, remote = str(tmp_path / "labels"), "memory://bucket/labels"
    rows = {}
    for labels in (local, remote):
        stages = [str(word).replace(local, labels) for word in stages]
        status, out, err = run_estimate(*stages)
        assert (err, status, stages[at]) == ([], 0, labels)
        rows[labels] = [re.split(r"\s{2,}", line) for line in out[1:6]]
    assert rows[remote][2][5] == "0" != rows[local][2][5]
    assert [row[:5] for row in rows[remote]] == [row[:5] for row in rows[local]]  # so they are found in later stages
    status, _, err = run_estimate(*stages[:at], "s3:/bucket/labels")
    assert status == 2 and "--labels: s3:/bucket/labels: a URL has two slashes" in err[-1]


def test_what_is_there_is_not_needed_again(stages, monkeypatch, tmp_path):
    needed = estimate_stages([stages[1:3]], tmp_path / "labels")
    room = int(needed.stages[0].bytes + needed.largest_checkpoint)
    monkeypatch.setattr("shutil.disk_usage", lambda path: FreeBytes(room - 1000))
    assert len(estimate_stages([stages[1:3]], tmp_path / "labels").problems) == 1
    (tmp_path / "supervised" / "model").mkdir(parents=True)
    (tmp_path / "supervised" / "model" / "model.safetensors").write_bytes(bytes(1000))
    assert estimate_stages([stages[1:3]], tmp_path / "labels").problems == []


# ------------------------------------------------------------------------------------------- the paper's recipe


@pytest.fixture
def commands_of(commands_of_script):
    return partial(commands_of_script, "recipes/common_voice_voxpopuli/run.sh")


def test_run_sh_starts_every_stage_in_order(commands_of):
    done, commands = commands_of("corpora", "model=base", "start=supervised", "accelerate=fsdp")
    assert done.returncode == 0, done.stderr
    scripts = [next(word for word in words if word.endswith(".py")) for words in commands]
    names = "prepare_data build_tokenizer estimate train language_finetune train train".split()
    assert scripts == [f"recipes/{name}.py" for name in (*names, *["evaluate_model"] * 3, "compare", "report")]
    assert all("recipes/accelerate/fsdp.yaml" in " ".join(words) for words in commands if "launch" in words)
    last = {}
    for words in commands:
        check_command(words)
        if "recipes/train.py" in words:
            settings = words[words.index("recipes/train.py") + 1 :]
            config = load_config(ROOT / settings[0], settings[1:])
            assert config.model in ("base", *last) and not config.gradient_checkpointing
            last[f"{config.output_dir}/model"] = config
    folders = [path.removeprefix("runs/common_voice_voxpopuli/base/") for path in last]
    assert folders == ["supervised/model", "supervised/mixed/model", "supervised/final/model"]


def test_run_sh_plans_what_it_would_run(commands_of, run_estimate, tmp_path, monkeypatch):
    done, [words] = commands_of("--plan")
    assert (done.returncode, words[:2]) == (0, ["python", "recipes/estimate.py"])
    monkeypatch.chdir(tmp_path)
    status, out, err = run_estimate(*words[2:])
    rows = [line.split()[0] for line in out[1:6]]
    assert status == 1 and rows == ["supervised", "language_finetune", "pseudo-labels", "mixed", "final"]
    missing = [line.removeprefix("error: ").partition(":")[0] for line in err]  # and nothing else is wrong
    files = ("train.parquet", "dev.parquet", "tokens-all.lst", "unlabelled.parquet")
    assert missing == [f"runs/common_voice_voxpopuli/data/{name}" for name in files]


def test_run_sh_says_what_it_takes(commands_of):
    done, commands = commands_of("--help")
    assert done.returncode == 0 and commands == [] and "--plan" in done.stdout and "set -e" not in done.stdout
    for arguments, message in (
        (["model=huge"], "model=huge is not understood; there are --plan"),
        ([], "name the folder"),
    ):
        done, commands = commands_of(*arguments)
        assert done.returncode == 1 and commands == [] and message in done.stderr


def test_the_stages_are_the_papers():
    stages = {path.stem: path for path in RECIPE.glob("*.yaml")}
    assert set(stages) == {"supervised", "language_finetune", "mixed", "final"}
    configs = {name: load_config(path, ["language=sl"]) for name, path in stages.items()}
    for config in configs.values():  # the flags that are stored in the released checkpoint
        assert (config.optimizer, config.max_grad_norm, config.max_batch_seconds) == ("adagrad", 0.1, 35)
        masks = config.spec_augment
        assert (masks.num_frequency_masks, masks.max_frequency_width, masks.num_time_masks) == (2, 30, 2)
        assert (masks.max_time_width, masks.max_time_fraction) == (50, 0.1)
    assert configs["final"].learning_rate == 0.01 and configs["final"].micro_batches_per_update == 64
    assert configs["supervised"].languages == configs["mixed"].languages == sorted(configs["mixed"].languages)
    assert len(configs["supervised"].languages) == 60
    text = (RECIPE / "run.sh").read_text()
    both = re.search('^languages="(.*)"', text, re.MULTILINE).group(1).split()
    assert len(both) == 19 and set(both) < set(configs["supervised"].languages)
    commands = [words for words in read_commands(text) if words[0] in PROGRAMS]
    assert len(commands) >= 6
    for path in stages.values():  # every number says where it is from
        for line in path.read_text().splitlines():
            if re.match(r"(max_|micro_|learning|warmup|language_alpha|pseudo)\w*: ", line):
                assert re.search(r"# .*\[(flags|slimIPL|ours)\]", line), line


def test_a_launch_that_does_not_fit_is_told_before_the_first_stage(tone_data, tmp_path):
    """Its file is that of `accelerate launch`, and its options go over the file's."""
    output = [f"output_dir={tmp_path}/{{language}}", f"unlabelled=[{tone_data / 'unlabelled.parquet'}]"]
    stages = [[tone_data / "tones.yaml"], [tone_data / "tones.yaml", *output, "slimipl={ema_decay: 0.9}"]]
    stages = [list(map(str, stage)) for stage in stages]

    def told(launch):
        estimate = estimate_stages(stages, tmp_path / "labels", launch=launch)
        warnings = [line for line in estimate.warnings if "nothing to do" in line]
        return estimate.problems, warnings

    for launch in (
        None,
        "python",
        "torchrun --nproc-per-node gpu",
        "accelerate launch --num_processes 2",
        f"accelerate launch --config_file {CPUS}",
    ):
        assert told(launch) == ([], [])
    idle = "tones: micro_batches_per_update is 2, so 62 of 64 processes have nothing to do; start at most 2, or take"
    problems, warnings = told(f"accelerate launch --config_file {ACCELERATE / 'multi_node.yaml'}")
    assert problems == [] and [line[: len(idle)] for line in warnings] == [idle, idle]
    problems, warnings = told("torchrun --nnodes 1:8 --nproc-per-node=8 --rdzv-backend c10d")
    assert problems == [] and [line[: len(idle)] for line in warnings] == [idle, idle]
    problems, warnings = told(f"accelerate launch --config_file {ACCELERATE / 'fsdp.yaml'} --num_processes 2")
    [line] = problems
    assert warnings == [] and line.startswith("tones: slimipl.ema_decay is 0.9, whose second model cannot be sharded")
    (tmp_path / "full.yaml").write_text(
        (ACCELERATE / "fsdp.yaml").read_text().replace("SHARDED_STATE_DICT", "FULL_STATE_DICT")
    )
    problems, _ = told(f"accelerate launch --config_file {tmp_path / 'full.yaml'}")
    assert problems[0].startswith("tones: fsdp_state_dict_type is FULL_STATE_DICT; set it to SHARDED_STATE_DICT, as ")
    (tmp_path / "bad.yaml").write_text("num_procs: 3\n")
    for path in (tmp_path / "bad.yaml", tmp_path / "none.yaml"):
        [line], _ = told(command := f"accelerate launch --config_file {path}")
        assert line.startswith(f"{command}: {path}: ") and "\n" not in line
    for command, reason in {
        "accelerate launch --num_processes x": "argument --num_processes",
        "accelerate launch --num_processes 0": "starts 0 processes on 1 machines; there must be 1 or more",
        "accelerate-launch --num_machines 2 --num_processes 3": "starts 3 processes on 2 machines; there must be",
        "accelerate launch --config_file": "the following arguments are required",
        "accelerate launch 'a": "No closing quotation",
        "/usr/bin/torchrun --nnodes=a": "--nnodes is a; it must be a number, or two of the form 1:8",
        "python -m torch.distributed.run --nproc_per_node 0": "starts 0 processes on 1 machines",
    }.items():
        [line], _ = told(command)
        assert line.startswith(f"{command}: {reason}") and "\n" not in line


# ------------------------------------------------------------------------------------- times and memory of a launch


def test_the_exchange_of_gradients_takes_what_a_ring_takes():
    """Each link carries 2 (n - 1) / n of the bytes, as a simulated ring does; the last backward pass hides some."""
    n, sent = 8, [0.0] * 8
    for _ in ("sums of parts", "their results"):
        for _ in range(n - 1):
            sent = [link + 1 / n for link in sent]
    work = Work(flops=0.0, audio_seconds=0.0, workers=1, micro_batches=n, updates=10, gradient_bytes=4e9)
    times = stage_times(work, Machines(n, flops_per_second=1e12, bandwidth=1e9))
    assert times.seconds == times.parts["gradients"] == pytest.approx(10 * 4 * sent[0]) and times.bound == "gradients"
    assert stage_times(work, Machines(1, 1e12, 1e9)).seconds == 0
    # 10 updates of 2 micro-batches of 3 s in each process: of each update the backward pass of the last hides 2 s.
    work = dataclasses.replace(work, flops=10 * 2 * 3 * n * 1e12, micro_batches=2 * n)
    assert stage_times(work, Machines(n, 1e12, 1e9)).seconds == pytest.approx(10 * (6 + 7 - 2))
    # With a micro-batch more, all wait for the process that has 3.
    more = dataclasses.replace(work, flops=work.flops * 17 / 16, micro_batches=17)
    assert stage_times(more, Machines(n, 1e12, 1e9)).parts["products"] == pytest.approx(10 * 9)
    # Two workers decode 1000 s of speech a second each, beside all this.
    slow = dataclasses.replace(work, audio_seconds=n * 2 * 1000 * 500.0, workers=2)
    assert stage_times(slow, Machines(n, 1e12, 1e9)).seconds == pytest.approx(500)
    assert stage_times(slow, Machines(n, 1e12, 1e9)).bound == "audio"
    # 12 GB are copied in 2 s, and written and read in 24 s; in the half of 110 s between saves there is time for it.
    saved = dataclasses.replace(work, checkpoint_bytes=12e9, checkpoints=1)
    assert stage_times(saved, Machines(n, 1e12, 1e9)).seconds == pytest.approx(110 + 2)
    often = dataclasses.replace(saved, checkpoints=10)
    assert stage_times(often, Machines(n, 1e12, 1e9)).seconds == pytest.approx(110 + 10 * (2 + 24 - 110 / 11))


@pytest.mark.parametrize(("layers", "seconds"), [(4, 20)])
def test_activations_are_what_torch_allocates(layers, seconds, one_thread):
    """The profiler counts the bytes that a forward pass has allocated and not freed."""
    config = MlplConfig.tiny(40, 2, num_hidden_layers=layers, layerdrop=0.0)
    model = MlplForCTC._from_config(config, attn_implementation="eager").train()
    features = torch.randn(-(-seconds // 15), 100 * seconds // -(-seconds // 15), 80)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        logits = model(features).logits
    allocated = sum(event.self_cpu_memory_usage for event in profile.events()) - logits.nbytes
    values = {"output_dir": "a", "model": "tiny", "tokens": "b", "train": ["c"], "max_updates": 1}
    run = TrainingConfig(**values, max_batch_seconds=seconds)
    losses = 3 * 4 * 100 * seconds / 3 * 40
    random_state = torch.get_rng_state()
    assert activation_bytes(run, config) - losses == pytest.approx(allocated, rel=0.01)
    assert torch.equal(torch.get_rng_state(), random_state)  # of the run that decides by it
    copies = training_bytes(run, config, 2) - activation_bytes(run, config)
    assert copies == (4 + 4 + 4 + 4) * model.num_parameters()  # weights, gradients twice, Adagrad's sums
    checkpointed = dataclasses.replace(run, gradient_checkpointing=True)
    assert activation_bytes(checkpointed, config) < activation_bytes(run, config)


def test_activations_are_recomputed_where_memory_is_short(monkeypatch, one_thread):
    config = MlplConfig.tiny(40, 2)
    values = {"output_dir": "a", "model": "tiny", "tokens": "b", "train": ["c"], "max_updates": 1}
    run = TrainingConfig(**values, max_batch_seconds=20, gradient_checkpointing=None)
    kept = dataclasses.replace(run, gradient_checkpointing=False)
    needed = training_bytes(kept, config, 1, longest=20.0)
    assert needed > training_bytes(kept, config, 1, longest=10.0)  # two of them, with half the scores of attention
    processor = SimpleNamespace(feature_extractor=MlplFeatureExtractor(), tokenizer=None)
    for memory, recomputes in ((needed, True), (needed / 0.8, False)):
        monkeypatch.setattr("hf_mlpl.training.optimization.total_memory", lambda device, memory=memory: memory)
        model = MlplForCTC(config)
        prepare(Accelerator(cpu=True), model, MlplInterface(config, processor), run, longest=20.0)
        assert model.is_gradient_checkpointing is recomputes
    monkeypatch.setattr(MlplForCTC, "supports_gradient_checkpointing", False)
    assert not recomputes_layers(Accelerator(cpu=True), model, dataclasses.replace(run, max_batch_seconds=1e5), 20)
    is_decided = partial(recomputes_activations, processes=1, memory=1e12, is_sharded=False)
    assert is_decided(run, None) and not is_decided(run, config)  # of other models the memory is not known
    assert recomputes_activations(run, config, 1, 1e12, is_sharded=True)


def test_a_launch_has_hours_and_what_bounds_them(stages, run_estimate, tmp_path):
    launch = f"accelerate launch --config_file {ACCELERATE / 'multi_node.yaml'} --num_machines 2 --num_processes 2"
    status, out, err = run_estimate(*stages, "--launch", launch, "--network", "1e-3", "--memory", "0.1")
    assert (status, err) == (0, [])
    start = next(i for i, line in enumerate(out) if "bound by" in line)
    header = re.split(r"\s{2,}", out[start].strip())
    assert header == ["stage", "GB each", "hours", "products", "gradients", "audio", "checkpoints", "bound by"]
    assert max(map(len, out[start : start + 5])) <= 88
    rows = [re.split(r"\s{2,}", line.strip()) for line in out[start + 1 : start + 5]]
    assert [row[-1] for row in rows] == ["gradients", "gradients", "audio", "gradients"]
    told = [line for line in out if line.startswith("faster: ")]
    assert any("bf16_gradients=true takes" in line for line in told)
    assert any("one machine with 1 processes takes" in line for line in told)
    config = load_config(stages[1])
    model = MlplConfig.tiny(10, ["de", "sv-SE"], **config.model_fields)
    seconds = 60 * 4 * num_parameters(model) / (1e-3 * 1e9 / 8)  # 2 (n - 1) / n is 1
    assert float(rows[0][4].replace(",", "")) == pytest.approx(seconds / 3600, rel=0.06)
    longest = sum_speech(speech_totals(config.train)).longest
    assert float(rows[0][1]) == pytest.approx(training_bytes(config, model, 2, longest) / 1e9, rel=0.06)
    status, out, _ = run_estimate(*stages[:3], *stages[-2:], "--launch", launch, "--memory", "1e-3")
    assert not any(line.startswith("faster: ") for line in out)  # one machine would be slower here, and all fits
    warnings = [line for line in out if line.startswith("warning: tones: a process may need ")]
    assert len(warnings) == 1 and "and a GPU has 0.001; take a smaller max_batch_seconds, or FSDP" in warnings[0]


# ------------------------------------------------------------------------------------------- other architectures


def test_other_architectures(tone_data, tmp_path, one_thread):
    """Parameters are the model's; operations those that torch counts in it; adapters make small checkpoints."""
    folder = save_small_model(tmp_path / "wav2vec2", "wav2vec2", letters="abcdefgö", layerdrop=0.0)
    encoder = save_small_encoder(tmp_path / "bert", "wav2vec2-bert")
    sew = save_small_model(tmp_path / "sew", "sew-d", letters="abcdefgö")
    first = [tone_data / "tones.yaml", f"model={folder}", "model_fields={}", "tokens=null", f"output_dir={tmp_path}/a"]
    lora = [*first, "lora={r: 4}", f"output_dir={tmp_path}/b"]
    second = [tone_data / "tones.yaml", f"model={tmp_path}/b/model", "tokens=null", "model_fields={layerdrop: 0.5}"]
    others = [[tone_data / "tones.yaml", f"model={path}", "model_fields={}"] for path in (encoder, sew)]
    runs = [list(map(str, run)) for run in (first, lora, second, *others)]
    estimate = estimate_stages(runs, tmp_path / "labels")
    assert not estimate.problems
    whole, adapted, next_, with_head, uncounted = estimate.stages
    model = AutoModelForCTC.from_pretrained(folder, attn_implementation="eager")
    parameters = model.num_parameters()
    assert whole.bytes == next_.bytes == (2 * 12 + 4) * parameters
    trained = 13 * 17 + 2 * 4 * 4 * (16 + 16)  # the head, and four projections of two layers
    assert adapted.bytes == (2 * 12 + 4) * trained
    speech, dev = (sum_speech(speech_totals([tone_data / f"{name}.parquet"])) for name in ("train", "dev"))
    with FlopCounterMode(display=False) as counter:
        model.freeze_feature_encoder()
        model.train()(torch.randn(1, 16000 * 4)).logits.sum().backward()
    counted = counted_model(model.config, str(folder))
    found = training_flops(counted, SpeechTotals(1, 4.0, 16.0), False, 0.0, freezes_encoder=True)
    assert found == pytest.approx(counter.get_total_flops(), rel=0.02)
    expected = 60 * 2 * 5 * training_flops(counted, speech, False, 0.0, True) / speech.seconds
    assert whole.flops == pytest.approx(expected + 2 * forward_flops(counted, dev))
    assert next_.flops < adapted.flops < whole.flops and with_head.flops > 0
    with_tokens = Wav2Vec2BertForCTC(Wav2Vec2BertConfig.from_pretrained(encoder, vocab_size=11))
    assert with_head.bytes == (2 * 12 + 4) * with_tokens.num_parameters()
    assert uncounted.flops is None and uncounted.bytes > 0
    [warning] = [line for line in estimate.warnings if "sew" in line]
    assert "its operations cannot be counted (" in warning and "\n" not in warning


@pytest.mark.slow
def test_adapters_are_measured(tone_data, tmp_path, one_thread):
    folder = save_small_model(tmp_path / "wav2vec2", "wav2vec2", letters="abcdefgö")
    settings = [f"model={folder}", "model_fields={}", "tokens=null", "lora={r: 4}", f"output_dir={tmp_path / 'a'}"]
    measurement = measure_updates(load_config(tone_data / "tones.yaml", settings))
    speech = sum_speech(speech_totals([tone_data / "train.parquet"]))
    counted = counted_model(AutoConfig.from_pretrained(folder), str(folder))
    operations = 2 * 5 * training_flops(counted, speech, False, counted.layerdrop, True, True) / speech.seconds
    assert measurement.flops_per_second * measurement.seconds == pytest.approx(operations)
