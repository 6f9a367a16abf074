"""Speed of an evaluation: what is counted, on a clock that only known work moves; sums of threads and processes."""

import json
import sys

import pytest
import soundfile
import torch
from accelerate import Accelerator
from datasets import Dataset

from hf_mlpl.ctc_models.mlpl import MlplInterface
from hf_mlpl.data.rows import durations_of
from hf_mlpl.data.utterances import FEATURES, read_utterances
from hf_mlpl.evaluation import speed as speed_module
from hf_mlpl.evaluation.results import read_results
from hf_mlpl.evaluation.speed import measured_speed
from hf_mlpl.evaluation.speed_line import describe_speed, is_speed
from hf_mlpl.hardware import hardware_name, peak_memory
from hf_mlpl.inference import clock as clock_module
from hf_mlpl.inference.clock import Clock, TimedBatch
from hf_mlpl.inference.recognition import load_recognizer, transcriber

from ..random_model import RATE, save_folder, sweep
from ..small_teachers import make_whisper

SECONDS = [0.5, 1.0, 1.5, 2.0, 0.7]
UNREADABLE = 4  # row
READING, EXTRACTING, COMPUTING = 1000, 1, 10  # seconds that a file, its features, and a batch take


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder, empty = tmp_path_factory.mktemp("clips"), {"speaker": None, "source": None, "text": "a"}
    rows = []
    for i, seconds in enumerate(SECONDS):
        soundfile.write(folder / f"{i}.wav", sweep(seconds), RATE)
        rows.append({"id": f"u{i}", "audio": {"path": str(folder / f"{i}.wav")}, "duration_seconds": seconds, **empty})
    (folder / f"{UNREADABLE}.wav").write_bytes(b"no sound")
    return Dataset.from_list([row | {"language": "fi"} for row in rows], features=FEATURES)


def adding(now, seconds, function):
    """Lets a call of `function` take `seconds` on the clock `now`."""

    def takes_time(*arguments, **options):
        now[0] += seconds
        return function(*arguments, **options)

    return takes_time


@pytest.mark.parametrize("kind", ["ctc", "whisper"])
def test_audio_decoding_is_not_counted_and_the_first_batch_warms_up(kind, dataset, tmp_path, monkeypatch, one_thread):
    """Features, model and text of an utterance count, whatever kind of model it is; the wall counts everything."""
    if kind == "ctc":
        save_folder(tmp_path / "model", ["fi"])
    else:
        make_whisper(tmp_path / "model")
    model, processor = load_recognizer(str(tmp_path / "model"), ["fi"])
    decode, clock, now = transcriber(model, processor, dataset), Clock(), [0]
    module = f"hf_mlpl.inference.{'decoding' if kind == 'ctc' else 'generation'}"
    if kind == "ctc":
        monkeypatch.setattr(MlplInterface, "extract", adding(now, EXTRACTING, MlplInterface.extract))
        model.register_forward_pre_hook(adding(now, COMPUTING, lambda *_: None))
    else:
        _ = decode.pads_exactly  # which looks at inputs once
        inputs, request = decode.request.inputs, decode.request
        monkeypatch.setattr(
            request, "inputs", lambda all, *rest: adding(now, EXTRACTING * len(all), inputs)(all, *rest)
        )
        monkeypatch.setattr(request, "generate", adding(now, COMPUTING, request.generate))
    monkeypatch.setattr(f"{module}.stream_audio", adding(now, READING, sys.modules[module].stream_audio))
    monkeypatch.setattr(clock_module, "perf_counter", lambda: now[0])
    with clock.wall:
        assert len(list(decode(dataset, 4.0, 0, None, clock))) == len(SECONDS)

    [batches] = clock.threads.values()
    assert [(batch.size, batch.seconds, batch.forwards) for batch in batches] == 2 * [
        (2, 2 * EXTRACTING + COMPUTING, 1)
    ]
    assert sum(batch.audio_seconds for batch in batches) == pytest.approx(sum(SECONDS[:UNREADABLE]), abs=0.1)
    speed = measured_speed(Accelerator(cpu=True), model, clock)
    last = batches[-1]
    assert speed["rtfx"] == last.audio_seconds / last.seconds and speed["seconds"] == last.seconds
    everything = READING * len(SECONDS) + sum(batch.seconds for batch in batches)
    assert speed["wall_seconds"] == everything
    assert speed["rtfx_wall"] == pytest.approx(sum(batch.audio_seconds for batch in batches) / everything)
    expected = {"batches": 1, "warm_up_batches": 1, "batch_size": 2, "batch_seconds": 4.0, "dtype": "float32"}
    expected |= {"device": "cpu", "hardware": hardware_name(model.device), "processes": 1, "threads": 1}
    assert speed == speed | expected
    assert 0.05 < speed["peak_memory_gb"] == pytest.approx(peak_memory(model.device) / 1e9, rel=0.2)
    assert is_speed(speed) and is_speed(json.loads(json.dumps(speed)))


def test_threads_of_later_calls_go_on(dataset, tmp_path, one_thread):
    """Adds the times of threads that work one after the other, which did not pass at the same time."""
    model, processor = load_recognizer(str(save_folder(tmp_path / "model", ["fi"])))
    torch.set_num_threads(2)  # which the fixture ends
    clock = Clock()
    for _ in range(2):
        assert len(list(transcriber(model, processor, dataset)(dataset, 0.1, 0, None, clock))) == len(SECONDS)
    assert set(clock.threads) <= {"decoder_0", "decoder_1"}
    assert sum(map(len, clock.threads.values())) == 2 * (len(SECONDS) - 1) and clock.batch_seconds == 0.1


def test_threads_and_processes_share_the_time_of_the_slowest(tmp_path, monkeypatch):
    """Warms up with 2 of a thread's 25 batches, with 10 of 300, and with a single one."""
    model, _ = load_recognizer(str(save_folder(tmp_path / "model", ["fi"])))
    clocks = [Clock(), Clock()]
    clocks[0].threads = {"a": [TimedBatch(50, 100, 5)] + 24 * [TimedBatch(50, 2, 5)], "b": [TimedBatch(50, 300, 1)]}
    clocks[1].threads = {"a": 10 * [TimedBatch(60, 9, 1)] + 290 * [TimedBatch(10, 0.5, 4, forwards=4)]}
    for clock in clocks:
        clock.wall.seconds, clock.batch_seconds = 400.0, 50.0
    of_processes = []
    monkeypatch.setattr(speed_module, "gather_object", lambda part: of_processes.extend(part) or of_processes)
    measured_speed(Accelerator(cpu=True), model, clocks[1])
    of_processes[0] |= {"hardware": "another one", "peak": 10**15, "wall_seconds": 500.0}
    speed = measured_speed(Accelerator(cpu=True), model, clocks[0])
    assert (speed["audio_seconds"], speed["seconds"]) == (23 * 50 + 290 * 10, max(23 * 2, 290 * 0.5))
    assert (speed["batches"], speed["warm_up_batches"]) == (23 + 290, 2 + 1 + 10)
    assert speed["batch_size"] == (23 * 5 + 290 * 4) / (23 + 290 * 4)
    assert speed["rtfx_wall"] == (25 * 50 + 50 + 10 * 60 + 290 * 10) / 500 and speed["processes"] == 2
    assert (
        speed["hardware"] == f"{hardware_name(model.device)} and another one"
        or "another one and " in speed["hardware"]
    )
    assert describe_speed(speed | {"hardware": "Xeon", "threads": 1, "batch_size": 11.44, "rtfx": 27.93}) == (
        "RTFx 27.9, 9.6 with audio decoding and warm-up; Xeon, float32, batches of 50 s (11.4 utterances), "
        "2 processes of 1 thread, at most 1000000.0 GB of memory in a process"
    )


def test_speed_that_was_not_measured(tmp_path):
    """A test set of one batch warms up alone; a file of a stranger may hold anything."""
    model, _ = load_recognizer(str(save_folder(tmp_path / "model", ["fi"])))
    clock = Clock()
    with clock.wall:
        clock.add(TimedBatch(2.0, 1.0, 4))
    speed = measured_speed(Accelerator(cpu=True), model, clock)
    assert is_speed(speed) and (speed["rtfx"], speed["batch_size"], speed["batches"]) == (None, None, 0)
    assert describe_speed(speed).startswith("RTFx not measured: all batches warmed up, ")
    for name, value in (("rtfx", "151"), ("rtfx", -1), ("seconds", None), ("threads", True), ("dtype", 32)):
        assert not is_speed(speed | {name: value}), name
    assert not is_speed({}) and not is_speed(None) and not is_speed({**speed, "rtfx_wall": float("inf")})


@pytest.mark.slow
def test_two_processes_are_measured_together(tone_data, two_processes):
    """Each has decoded a part of the test set, and the memory is that of one process."""
    speed = read_results(two_processes / "results.json")["speed"]
    seconds = durations_of(read_utterances([tone_data / "dev.parquet"]))
    assert is_speed(speed) and (speed["processes"], speed["device"], speed["batch_seconds"]) == (2, "cpu", 2.0)
    assert speed["rtfx_wall"] * speed["wall_seconds"] == pytest.approx(seconds.sum(), rel=0.01)
    assert speed["warm_up_batches"] == 2 and speed["batches"] > 0 and 0 < speed["audio_seconds"] < seconds.sum()
    assert 0.1 < speed["peak_memory_gb"] < 2
