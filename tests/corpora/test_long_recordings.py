"""Long recordings become utterances: pauses, detectors, preparation, and the files that training reads."""

import csv
import json
import multiprocessing
import os
import shutil
import signal
import time
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from hf_mlpl import MlplFeatureExtractor, MlplForCTC, MlplProcessor
from hf_mlpl.audio.reading import load_audio
from hf_mlpl.cli.main import main
from hf_mlpl.corpora.preparation import pauses, voice_activity
from hf_mlpl.corpora.preparation.jobs import run_jobs
from hf_mlpl.corpora.preparation.long_recordings import Segmentation, _detect, _read_detected
from hf_mlpl.corpora.preparation.parts import Part
from hf_mlpl.corpora.preparation.pauses import cut_at_pauses
from hf_mlpl.corpora.preparation.prepare import prepare, read_quarantine
from hf_mlpl.corpora.preparation.report import PlottedRecording, plot_recording
from hf_mlpl.data.selection import select_unlabelled
from hf_mlpl.data.utterances import read_utterances
from hf_mlpl.inference.blank_detector import NEIGHBOURS, BlankDetector, _load
from hf_mlpl.installation import install_command
from hf_mlpl.training.loop import train
from hf_mlpl.training_config import load_config

from ..commands import run_command
from ..random_model import LANGUAGES, save_folder, sweep
from ..two_processes import slimipl_overrides
from .talks import Loudness, read_rows, read_talks, tell_and_wait

RATE, FRAME = 16_000, 0.032


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets-cache")


# ---- pauses


def speech_frames(probabilities: list[float]) -> list[bool]:
    """Marks the frames of speech and what belongs to them, one frame after another."""
    marked = [False] * len(probabilities)
    start = None
    for i, probability in enumerate([*probabilities, 0.0]):
        if probability >= pauses.STILL_SPEECH:
            start = i if start is None else start
        elif start is not None:
            if sum(p >= pauses.SPEECH for p in probabilities[start:i]) >= 3:  # 0.09 s
                for j in range(max(0, start - 5), min(len(probabilities), i + 3)):  # 0.15 s before, 0.1 s after
                    marked[j] = True
            start = None
    return marked


def fewest_groups(regions: list[tuple[int, int]], longest: int, longest_pause: int) -> int:
    """Counts the utterances of the best of all ways to join neighbours, by dynamic programming."""
    fewest = [0] + [len(regions)] * len(regions)
    for last in range(len(regions)):
        for first in range(last + 1):
            gaps = [regions[i + 1][0] - regions[i][1] for i in range(first, last)]
            if regions[last][1] - regions[first][0] <= longest and all(gap <= longest_pause for gap in gaps):
                fewest[last + 1] = min(fewest[last + 1], fewest[first] + 1)
    return fewest[-1]


runs = st.tuples(st.sampled_from([0.0, 0.2, 0.4, 0.6, 1.0]), st.integers(1, 60))


@settings(max_examples=60, deadline=None)
@given(st.lists(runs, max_size=12), st.floats(0.4, 6.0), st.integers(0, 10**6))
@example([(1.0, 60)] * 9, 1.024, 0)  # 32 frames, exactly
def test_utterances_hold_all_speech_and_are_few_and_short(runs, max_seconds, seed):
    probabilities = np.repeat([p for p, _ in runs], [n for _, n in runs]).astype(float)
    probabilities *= np.random.default_rng(seed).uniform(0.9, 1, len(probabilities))
    seconds = len(probabilities) * FRAME
    cuts = cut_at_pauses(probabilities, FRAME, seconds, max_seconds)
    assert all(end - start <= max_seconds for start, end in cuts.utterances.tolist())
    frames = np.rint(cuts.utterances / FRAME).astype(int)
    np.testing.assert_allclose(cuts.utterances, frames * FRAME, atol=1e-6)
    assert (np.diff(frames.reshape(-1)) >= 0).all() and (frames[:, 0] < frames[:, 1]).all()

    is_speech = speech_frames(probabilities.tolist())
    covered = np.zeros(len(probabilities), int)
    for start, end in frames:
        covered[start:end] += 1
    assert (covered[is_speech] == 1).all() and covered.max(initial=0) <= 1
    changes = np.flatnonzero(np.diff(is_speech, prepend=False, append=False))
    regions = list(zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True))
    assert {start for start, _ in regions} >= set(frames[:1, 0].tolist())  # nothing but speech at both ends
    assert {end for _, end in regions} >= set(frames[-1:, 1].tolist())

    longest = int((max_seconds - 0.001) / FRAME)
    if all(end - start <= longest for start, end in regions):
        assert len(frames) == fewest_groups(regions, longest, int(3.0 / FRAME))


def test_speech_without_a_pause_is_cut_where_it_is_least_likely():
    probabilities = np.ones(2000)  # 64 s
    probabilities[[400, 600, 1100]] = 0.7, 0.6, 0.65
    probabilities[100] = 0.5  # too early
    frames = np.rint(cut_at_pauses(probabilities, FRAME, 64.0, 25.0).utterances / FRAME).astype(int)
    (first, second, third, *_), ends = frames[:, 0], frames[:, 1]
    assert first == 0 and abs(second - 600) <= 2 and abs(third - 1100) <= 2
    assert list(ends) == [*frames[1:, 0], 2000]  # nothing between them is lost
    sizes = np.diff(frames).ravel()
    assert sizes.min() >= 780 // 4 and sizes.max() <= 780


def test_limits_of_utterances():
    with pytest.raises(ValueError, match=r"utterances of 1 s: 2 s or more is accepted; .* up to 35 s"):
        Segmentation(Loudness(), 1.0)


# ---- detectors


def test_silero_in_blocks_is_silero():
    """Compares with the package's own functions, for many frames and for one at a time."""
    silero_vad = pytest.importorskip("silero_vad", reason="needs the extra vad")
    from hf_mlpl.corpora.preparation.voice_activity import SileroDetector

    threads, rng = torch.get_num_threads(), np.random.default_rng(0)
    samples = np.concatenate([sweep(3), np.zeros(RATE, np.float32), sweep(2.345)])
    samples += rng.normal(scale=1e-3, size=len(samples)).astype(np.float32)
    blocks = np.split(samples, np.sort(rng.integers(0, len(samples), 40)))
    found = np.concatenate(list(SileroDetector()(iter(blocks))))
    expected = silero_vad.load_silero_vad(sequence=True).audio_forward(samples)
    np.testing.assert_array_equal(found, expected)
    one_by_one = silero_vad.load_silero_vad(onnx=True).audio_forward(torch.from_numpy(samples), RATE)[0]
    np.testing.assert_allclose(found, one_by_one, atol=1e-5)
    torch.set_num_threads(threads)  # which the package changes


def clips(folder: Path, rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Returns clips of people without silence at their ends, some loud and some soft."""
    with open(folder / "manifest.tsv", encoding="utf-8", newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    trimmed = []
    for path in rng.choice(paths, count, replace=False):
        samples = load_audio(folder / path)
        power = np.convolve(samples**2, np.ones(800), "same")  # of 50 ms
        loud = np.flatnonzero(power > 0.03 * power.max())
        samples = samples[loud[0] : loud[-1] + 1]
        trimmed.append(samples * (rng.uniform(0.1, 0.9) / np.abs(samples).max()))
    return trimmed


def test_boundaries_of_human_speech(shared):
    """Finds numbers of six digits that people say, with silence of known places between them."""
    pytest.importorskip("silero_vad", reason="needs the extra vad")
    from hf_mlpl.corpora.preparation.voice_activity import SileroDetector

    if not (shared / "speech").is_dir():
        pytest.skip("the folder ../shared/speech (recordings of people) is missing")
    rng, samples, truth = np.random.default_rng(0), [], []
    digits = clips(shared / "speech" / "en-fsdd", rng, 120)
    for number in range(0, 120, 6):
        samples.append(np.zeros(round(RATE * rng.uniform(4, 6)), np.float32))
        start = sum(map(len, samples))
        samples += digits[number : number + 6]
        truth.append((start / RATE, sum(map(len, samples)) / RATE))
    samples = np.concatenate(samples)
    samples = samples + rng.normal(scale=3e-4, size=len(samples)).astype(np.float32)
    found = np.concatenate(list(SileroDetector()([samples])))
    utterances = cut_at_pauses(found, FRAME, len(samples) / RATE, 25.0).utterances
    assert len(utterances) == len(truth)
    assert np.abs(utterances - truth).max() < 0.25 and np.quantile(np.abs(utterances - truth), 0.9) < 0.2
    later, earlier = (utterances - truth).clip(0)[:, 0], (truth - utterances).clip(0)[:, 1]
    assert (later + earlier).sum() < 0.001 * np.diff(truth).sum()  # speech that is lost


def model_of_sweeps(folder: Path) -> Path:
    """Writes a model whose head is fitted to say a letter in sweeps, and blank in noise."""
    save_folder(folder, LANGUAGES)
    model, processor = (kind.from_pretrained(folder) for kind in (MlplForCTC, MlplProcessor))
    samples, is_sweep = with_sweeps([(1, 4), (7, 8), (10, 16), (20, 22)], 34)
    inputs, hidden = processor(samples, sampling_rate=RATE, return_tensors="pt"), []
    model.ctc_head.register_forward_pre_hook(lambda _, arguments: hidden.append(arguments[0]))
    with torch.no_grad():
        model.eval()(**inputs)
        states = torch.cat([hidden[-1], torch.ones(len(hidden[-1]), 1)], dim=1)
        targets = 1.0 - 2 * torch.from_numpy(is_sweep[:: model.config.inputs_to_logits_ratio])[: len(states), None]
        weights = 6 * torch.linalg.lstsq(states.double(), targets.double()).solution[:, 0].float()
        model.ctc_head.weight.zero_()
        model.ctc_head.bias.fill_(-20)
        model.ctc_head.weight[model.config.blank_token_id] = weights[:-1]
        model.ctc_head.bias[[0, model.config.blank_token_id]] = torch.stack([torch.tensor(0.0), weights[-1] + 3])
    model.save_pretrained(folder)
    return folder


def with_sweeps(places: list[tuple[float, float]], seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns noise with sweeps at places, in seconds, and whether each sample is one of a sweep."""
    samples = np.random.default_rng(0).normal(scale=0.01, size=round(seconds * RATE)).astype(np.float32)
    is_sweep = np.zeros(len(samples), bool)
    for start, end in places:
        is_sweep[round(start * RATE) : round(end * RATE)] = True
        samples[is_sweep & (np.arange(len(samples)) >= round(start * RATE))] += sweep(end - start)
    return samples, is_sweep


def test_blanks_of_a_model(tmp_path):
    """Finds sweeps of known places, and compares the pieces of a recording with one forward pass."""
    folder = model_of_sweeps(tmp_path / "model")
    truth = [(2, 5), (10, 16), (20, 24), (29, 35), (40, 52), (58, 60)]
    samples, _ = with_sweeps(truth, 65)
    detector = BlankDetector(str(folder))
    found = np.concatenate(list(detector(np.array_split(samples, 7))))
    utterances = cut_at_pauses(found, detector.frame_seconds, 65.0, 25.0).utterances
    np.testing.assert_allclose(utterances, np.array(truth) + (-0.2, 0.1), atol=0.25)

    model, processor = (kind.from_pretrained(folder) for kind in (MlplForCTC, MlplProcessor))
    short = samples[: 20 * RATE]
    with torch.inference_mode():
        logits = model.eval()(**processor(short, sampling_rate=RATE, return_tensors="pt")).logits[0]
    letters = 1 - logits.softmax(-1)[:, model.config.blank_token_id].numpy()
    expected = [letters[max(0, i - NEIGHBOURS) : i + NEIGHBOURS + 1].max() for i in range(len(letters))]
    np.testing.assert_allclose(np.concatenate(list(detector([short]))), expected, atol=1e-5)
    assert {path.name for path in detector.files} >= {"config.json", "model.safetensors"}

    # A model of another sampling rate gets samples of that rate.
    MlplProcessor(MlplFeatureExtractor(sampling_rate=8000), processor.tokenizer).save_pretrained(folder)
    _load.cache_clear()
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    audio = {"path": str(tmp_path / "a.wav")}
    _detect("a", audio, BlankDetector(str(folder)), tmp_path / "a.npz", lambda _: None)
    detected = _read_detected(tmp_path / "a.npz")
    assert detected.seconds == 65.0 and abs(len(detected.probabilities) * 480 / 8000 - 65) < 0.06


# ---- preparation


WORDS = {  # seconds of speech in recordings, from and to
    "a": [(1, 3), (4, 9), (9.5, 20), (21, 30), (36, 40), (60, 61)],
    "b": [(0, 50)],  # no pause
    "silent": [],
}
SECONDS = 62


@pytest.fixture(scope="module")
def talks(tmp_path_factory) -> Path:
    """Writes long recordings of `WORDS`, one at another rate; a short and a damaged one; one with a text."""
    folder = tmp_path_factory.mktemp("talks")
    (folder / "sl").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, words in WORDS.items():
        samples = rng.uniform(-0.01, 0.01, SECONDS * RATE)
        for start, end in words:
            samples[round(start * RATE) : round(end * RATE)] += sweep(end - start) + 0.1
        rate = 8000 if name == "a" else RATE
        soundfile.write(folder / "sl" / f"{name}.flac", samples[:: RATE // rate] / 2, rate)
    soundfile.write(folder / "sl" / "short.wav", sweep(20), RATE)
    soundfile.write(folder / "sl" / "told.flac", sweep(40), RATE)
    (folder / "sl" / "told.txt").write_text("Povest.\n")
    broken = bytearray((folder / "sl" / "b.flac").read_bytes())
    (folder / "sl" / "broken.flac").write_bytes(broken[:200] + bytes(len(broken) - 200))
    return folder


def prepare_talks(folder: Path, output: Path, workers: int = 1, detector=Loudness(), **settings):  # noqa: B008
    parts = [Part("talks", partial(read_talks, folder), inputs=(folder,))]
    return prepare(parts, output, workers=workers, segmentation=Segmentation(detector, **settings))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_long_recordings_become_utterances(talks, tmp_path):
    report = prepare_talks(talks, tmp_path / "data")
    rows = list(read_utterances([tmp_path / "data" / "unlabelled.parquet"]))
    by_name = {row["id"]: row for row in rows}
    of_a = [row for row in rows if row["id"].startswith("sl/a.flac-")]
    assert [row["id"] for row in of_a] == [f"sl/a.flac-{n:04d}" for n in range(1, 5)]
    expected = [(1, 20), (21, 30), (36, 40), (60, 61)]  # (21, 30) does not fit, and two pauses are long
    places = np.array([(row["audio"]["start"], row["audio"]["end"]) for row in of_a])
    np.testing.assert_allclose(places, np.array(expected) + (-0.15, 0.1), atol=0.03)
    of_b = [row for row in rows if row["id"].startswith("sl/b.flac-")]
    assert len(of_b) == 3 and of_b[0]["audio"]["start"] == 0
    assert all(row["audio"]["end"] == after["audio"]["start"] for row, after in zip(of_b, of_b[1:], strict=False))
    assert abs(of_b[-1]["audio"]["end"] - 50.1) < 0.03
    assert all(row["duration_seconds"] <= 25 for row in rows)
    for row in of_a + of_b:
        assert abs(len(load_audio(row["audio"])) / RATE - row["duration_seconds"]) < 0.001
        assert (row["language"], row["text"], row["source"]) == ("sl", None, None)
    assert by_name["sl/short.wav"]["audio"]["start"] is None  # as it was

    told = read_utterances([tmp_path / "data" / "train.parquet"])
    assert [(row["id"], row["audio"]["end"]) for row in told] == [("sl/told.flac", None)]
    assert report.dropped == {"unreadable audio": 1, "no speech": 1}
    assert list(read_quarantine(tmp_path / "data" / "quarantine.tsv")) == [str(talks / "sl/broken.flac")]
    (speech,) = json.loads((tmp_path / "data" / "report.json").read_text())["speech"]
    counts = {"part": "talks", "recordings": 3, "utterances": 7}
    assert speech.items() >= counts.items() and speech["seconds"] == 3 * SECONDS
    spoken = sum(end - start for words in WORDS.values() for start, end in words)
    assert abs(speech["speech_seconds"] - spoken) < 0.5
    text = (tmp_path / "data" / "report.txt").read_text()
    assert "talks: long recordings: 3, 0.05 hours, are cut into 7 utterances; 0.02 hours (44%) are speech" in text
    assert "sl/told.flac: longer than 35 s: 40.0 s: " in text
    note = "recordings longer than 35 s with a text: 1, 0.01 hours (sl/told.flac); `hf-mlpl align --model MODEL "
    assert len(report.notes) == 1 and report.notes[0].startswith(note)
    assert report.plotted.name == str(talks / "sl/a.flac") and len(report.plotted.utterances) == 4


def test_parts_of_recordings_are_cut_and_keep_their_place(talks, tmp_path):
    audio = {"path": str(talks / "sl" / "a.flac"), "start": 3.5, "end": 41.0}
    row = {"id": "x", "audio": audio, "duration_seconds": 37.5, "language": "sl", "text": None}
    parts = [Part("rows", partial(read_rows, [row | {"speaker": "ana", "source": None}]), "unlabelled")]
    prepare(parts, tmp_path / "data", segmentation=Segmentation(Loudness(), 30.0))
    rows = list(read_utterances([tmp_path / "data" / "unlabelled.parquet"]))
    places = [(row["audio"]["start"], row["audio"]["end"]) for row in rows]
    np.testing.assert_allclose(places, [(3.85, 30.1), (35.85, 40.1)], atol=0.03)
    assert [(row["id"], row["speaker"]) for row in rows] == [("x-0001", "ana"), ("x-0002", "ana")]


def test_a_recording_of_two_parts_is_cut_once(talks, tmp_path):
    """Counts it as one row that is dropped, and keeps two parts apart whose starts differ little in six digits."""
    audio = {"path": str(talks / "sl" / "a.flac"), "start": None, "end": None}
    near = [audio | {"start": start, "end": 41.0} for start in (3.1234561, 3.1234564)]
    row = {"audio": audio, "duration_seconds": 62.0, "language": "sl", "text": None, "speaker": None, "source": None}
    rows = [row | {"id": "x"}, *(row | {"id": f"y{i}", "audio": each} for i, each in enumerate(near))]
    parts = [Part(f"rows {i}", partial(read_rows, rows[: 3 - 2 * i]), "unlabelled") for i in range(2)]
    report = prepare(parts, tmp_path / "data", segmentation=Segmentation(Loudness(tmp_path / "log"), 40.0))
    assert len((tmp_path / "log").read_text().split()) == 3 and report.dropped == {"id is there already": 1}
    assert report.lines()[0] == "4 rows read, 3 kept; dropped: 1 id is there already"
    ids = read_utterances([tmp_path / "data" / "unlabelled.parquet"])["id"]
    assert list(ids) == ["x-0001", "x-0002", "x-0003", "y0-0001", "y0-0002", "y1-0001", "y1-0002"]
    assert report.speech[0]["utterances"] == 7 and report.speech[1] == {"part": "rows 1"}
    place = "37.88 s, not 62.00 s as its header says"
    assert f"y0: kept with another duration: {audio['path']}: {place}" in (tmp_path / "data/report.txt").read_text()


def test_the_picture_has_each_utterance_once(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.plot", lambda self, x, *_, **__: drawn.append(x))
    times = np.arange(0, 1000, 10.0)
    utterances = np.stack([times + 1, times + 9], axis=1)  # of 1000 s, so of four rows
    plot_recording(PlottedRecording("a", np.zeros(10_000), 0.1, utterances), tmp_path / "a.png")
    np.testing.assert_allclose(drawn, utterances / 60)


def test_long_recordings_are_named_without_segmentation(talks, tmp_path):
    report = prepare([Part("talks", partial(read_talks, talks))], tmp_path / "data")
    names = "sl/a.flac, sl/b.flac, sl/broken.flac and 1 more"
    note = f"recordings longer than 35 s without a text: 4, 0.07 hours ({names}); `--segment vad` cuts them into "
    assert report.notes[0] == note + "utterances"
    assert "(sl/told.flac); `hf-mlpl align" in report.notes[1]
    lines = (tmp_path / "data" / "report.txt").read_text().splitlines()
    assert {*report.notes} < {*lines} and f"sl/silent.flac: longer than 35 s: 62.0 s: {talks}/sl/silent.flac" in lines
    dataset = read_utterances([tmp_path / "data" / "unlabelled.parquet"]).filter(lambda row: "short" not in row["id"])
    with pytest.raises(ValueError, match=r"none of 4 .* is at most 15 s long.* --segment vad --segment-seconds 15`"):
        select_unlabelled(dataset, ["sl"], 15.0)
    report = prepare_talks(talks, tmp_path / "cut", max_seconds=60.0)
    assert report.notes[0].startswith("recordings longer than 35 s without a text: 1, 0.01 hours (sl/b.flac-0001); ")
    assert report.notes[0].endswith("`--segment-seconds 25` cuts them into utterances")


def killed_after(count: int, folder: Path, output: Path, log: Path) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=prepare_talks, args=(folder, output), kwargs={"detector": Loudness(log, count)}
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_killed_segmentation_goes_on(talks, tmp_path, capfd):
    folder, log = tmp_path / "talks", tmp_path / "log"
    shutil.copytree(talks, folder)
    prepare_talks(folder, tmp_path / "whole")
    killed_after(3, folder, tmp_path / "data", log)
    assert not list(tmp_path.glob("data/[!.]*"))
    log.unlink()
    prepare_talks(folder, tmp_path / "data", detector=Loudness(log))
    assert len(log.read_text().split()) == 2  # of 4; the third was interrupted
    assert "going on: 2 of 4 long recordings were segmented before" in "".join(capfd.readouterr())
    assert content(tmp_path / "data") == content(tmp_path / "whole") and not list(tmp_path.glob("data/.*"))

    killed_after(4, folder, tmp_path / "other", tmp_path / "log-2")
    os.utime(folder / "sl" / "a.flac", (1, 1))  # one has changed
    for path in (tmp_path / "other" / ".parts" / ".detected").glob("*.npz"):  # as after a power cut
        path.write_bytes(path.read_bytes()[:50])
    log.unlink()
    prepare_talks(folder, tmp_path / "other", detector=Loudness(log), max_seconds=10.0)
    assert len(log.read_text().split()) == 5  # now the short one is long, too
    assert max(read_utterances([tmp_path / "other" / "unlabelled.parquet"])["duration_seconds"]) <= 10.0


def test_a_detector_that_fails_costs_its_recording_until_the_next_call(talks, tmp_path):
    prepare_talks(talks, tmp_path / "whole")
    report = prepare_talks(talks, tmp_path / "data", detector=Loudness(tmp_path / "log", fails_at=1))
    assert report.failed == [f"{talks / 'sl' / 'a.flac'}: MemoryError"]
    ids, kept = (list(read_utterances([tmp_path / name / "unlabelled.parquet"])["id"]) for name in ("whole", "data"))
    assert kept == [name for name in ids if not name.startswith("sl/a.flac-")]
    assert report.splits["unlabelled"].utterances == {"sl": 4}
    prepare_talks(talks, tmp_path / "data", detector=Loudness(tmp_path / "log"))
    assert content(tmp_path / "data") == content(tmp_path / "whole") and not list(tmp_path.glob("data/.*"))
    assert len((tmp_path / "log").read_text().split()) == 5  # four, and the one that failed again


@pytest.mark.slow  # processes that are started anew import everything again
def test_several_processes_do_the_same(talks, tmp_path):
    prepare_talks(talks, tmp_path / "one")
    prepare_talks(talks, tmp_path / "two", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def run_until_killed(path: Path) -> None:
    run_jobs({name: (partial(tell_and_wait, path / name), path / "none") for name in "ab"}, 2, tqdm(disable=True))


@pytest.mark.slow  # processes that are started anew import everything again
def test_processes_end_with_one_that_is_killed(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=run_until_killed, args=(tmp_path,))
    process.start()
    wait_until(lambda: all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in "ab"))
    process.kill()
    process.join()
    wait_until(lambda: not any(is_running(int((tmp_path / name).read_text())) for name in "ab"))


def wait_until(condition) -> None:
    for _ in range(550):  # less than the minute for which the processes wait
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it has not come to pass")


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow  # decodes an hour
def test_memory_does_not_grow_with_a_recording(tmp_path):
    """Streams ten minutes and an hour; only the probabilities, a byte for each frame, are more of the hour."""
    peaks = {}
    for minutes in (10, 60):
        path = tmp_path / f"{minutes}.flac"
        with soundfile.SoundFile(path, "w", 8000, 1) as file:
            for _ in range(minutes):
                file.write(np.zeros(8000 * 60))
        tracemalloc.start()
        _detect(path.name, {"path": str(path)}, Loudness(), tmp_path / f"{minutes}.npz", lambda _: None)
        peaks[minutes] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    detected = _read_detected(tmp_path / "60.npz")
    assert detected.seconds == 3600 and len(detected.probabilities) == 3600 * 50
    assert peaks[60] < peaks[10] + 2**20


# ---- commands


def test_what_the_command_refuses(talks, tmp_path, monkeypatch, capfd, error_of):
    given = ["prepare-data", "--folder", str(talks), "--output", str(tmp_path / "data"), "--segment"]
    with pytest.raises(SystemExit):
        main([*given, "model"])
    assert "--segment model and --model MODEL, a folder or a name on the Hub, need each" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        main([*given[:-1], "--segment-seconds", "20"])
    assert "--segment-seconds needs --segment" in capfd.readouterr().err
    refused = error_of("prepare_data.py", *given[1:], "model", "--model", tmp_path / "none")
    assert refused.startswith(f"{tmp_path / 'none'}: no such folder, and no reachable model on the Hub; ")
    monkeypatch.setattr("hf_mlpl.corpora.preparation.voice_activity.find_spec", lambda name: None)
    voice_activity._session.cache_clear()
    assert f"come with {install_command('vad')}; " in error_of("prepare_data.py", *given[1:], "vad")
    assert not (tmp_path / "data").exists()


@pytest.mark.slow  # trains
@pytest.mark.parametrize("segment", ["vad", "model"])
def test_from_long_recordings_to_labels_and_slimipl(segment, shared, tone_run, tone_data, tmp_path):
    """Takes what people say for the language of a model that has learned tones."""
    pytest.importorskip("silero_vad", reason="needs the extra vad")
    folder = shared / "speech" / "en-fsdd"
    if not folder.is_dir():
        pytest.skip("the folder ../shared/speech (recordings of people) is missing")
    rng, samples = np.random.default_rng(0), []
    for digit in clips(folder, rng, 60):
        samples += [digit, np.zeros(round(RATE * rng.uniform(0.3, 4)), np.float32)]
    (tmp_path / "talks" / "sv-SE").mkdir(parents=True)
    soundfile.write(tmp_path / "talks" / "sv-SE" / "digits.flac", np.concatenate(samples), RATE)
    data, model = tmp_path / "data", tone_run / "model"
    options = ["--segment", segment, "--segment-seconds", 2, *(["--model", model] if segment == "model" else [])]
    assert run_command("prepare_data.py", "--folder", tmp_path / "talks", *options, "--output", data) == 0
    assert (data / "segments.png").read_bytes().startswith(b"\x89PNG")
    rows = read_utterances([data / "unlabelled.parquet"])
    assert len(rows) > 20 and max(rows["duration_seconds"]) <= 2
    label = ["--model", model, "--data", data / "unlabelled.parquet", "--output", tmp_path / "labels"]
    assert run_command("pseudo_label.py", *label) == 0
    assert len(read_utterances([tmp_path / "labels" / "labels.parquet"])) == len(rows)
    overrides = [f"output_dir={tmp_path / 'run'}", *slimipl_overrides(model, data / "unlabelled.parquet")]
    train(load_config(tone_data / "tones.yaml", [*overrides, "max_updates=6", "dev=[]"]))
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
