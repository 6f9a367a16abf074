"""Long recordings: how they are cut into overlapping pieces, and that results are those of whole recordings."""

import json
import random
import subprocess
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import AutoModelForCTC, AutoProcessor, pipeline

from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplForCTC, MlplProcessor
from hf_mlpl.cli.main import main
from hf_mlpl.data.utterances import FEATURES
from hf_mlpl.evaluation.scoring import evaluate_model
from hf_mlpl.inference.decoding import transcribe
from hf_mlpl.inference.pieces import LONGEST_SECONDS, cut, is_memory_error, prefetch, seconds_in_pieces
from hf_mlpl.labels.labelling import pseudo_label

from ..small_models import save_small_model
from ..tones import RATE, random_text, speak

FRAME = 480  # samples
CONFIG = MlplConfig.tiny(8, [])


@pytest.mark.parametrize("excess", [-FRAME, 0, 1, 159, 160, 240, 400, 479, FRAME, 266_401, 266_402, 1_000_001])
def test_the_middles_of_the_pieces_are_the_whole(excess):
    samples = np.arange(35 * RATE + excess, dtype=np.float32)
    blocks = np.split(samples, np.sort(np.random.default_rng(excess + FRAME).integers(0, len(samples), 9)))
    pieces, start, num_frames, seconds = list(cut(blocks, RATE, FRAME)), 0, 0, 0.0
    assert (len(pieces) > 1) == (excess > 0)
    assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    for piece in pieces:
        first = start - piece.left * FRAME
        assert first % FRAME == 0 and np.array_equal(piece.samples, samples[first : first + len(piece.samples)])
        length = CONFIG.num_output_frames(MlplFeatureExtractor().num_frames(len(piece.samples)))
        assert len(pieces) == 1 or length < CONFIG.max_position_embeddings
        assert (piece.left > 130) == (first > 0) and (piece.right > 130) == (not piece.is_last)  # 4 s of context
        middle = length - piece.left - piece.right
        assert middle > 130
        start += middle * FRAME
        num_frames += middle
        seconds += piece.seconds
    assert num_frames == CONFIG.num_output_frames(MlplFeatureExtractor().num_frames(len(samples)))
    assert seconds == pytest.approx(len(samples) / RATE, abs=1e-9)
    planned = float(seconds_in_pieces(np.array([len(samples) / RATE]))[0])
    assert planned == pytest.approx(25.0 * len(pieces) if len(pieces) > 1 else len(samples) / RATE)


def test_a_stream_is_read_as_far_as_the_next_piece_needs():
    read = []

    def blocks():
        while True:
            read.append(1)
            yield np.zeros(RATE, np.float32)  # without end

    pieces = cut(blocks(), RATE, FRAME)
    for number in range(1, 4):
        next(pieces)
        assert len(read) <= 36 + 17 * (number - 1)


def test_prefetching_keeps_the_order_of_items_and_errors():
    def items():
        yield from range(5)
        raise ValueError("the sixth")

    items_ahead = prefetch(items(), 3)
    assert [next(items_ahead) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="the sixth"):
        next(items_ahead)
    assert list(prefetch(iter([]), 3)) == []


@pytest.fixture(scope="module")
def talks(tmp_path_factory) -> dict[str, Path]:
    """Writes a short recording, two long ones and a damaged one; no table states their durations."""
    folder, noise = tmp_path_factory.mktemp("talks"), np.random.default_rng(5)
    paths = {}
    for name, seconds in (("short", 3), ("hour", 62.37), ("talk", 37)):
        letters, parts = random.Random(name), []
        while sum(map(len, parts)) < seconds * RATE:
            parts.append(speak(f"{random_text('de', letters)} ", noise))
        paths[name] = folder / f"{name}.flac"
        soundfile.write(paths[name], np.concatenate(parts)[: round(seconds * RATE)], RATE)
    paths["damaged"] = folder / "damaged.wav"
    samples = np.zeros(50 * RATE, np.float32)
    samples[-100] = np.nan
    soundfile.write(paths["damaged"], samples, RATE, subtype="FLOAT")
    return paths


@pytest.fixture(scope="module")
def models(tone_run) -> tuple[MlplForCTC, MlplProcessor]:
    model, processor = (kind.from_pretrained(tone_run / "model") for kind in (MlplForCTC, MlplProcessor))
    return model.eval(), processor


def dataset_of(talks, stated: float, text: str | None = None) -> Dataset:
    empty = {"speaker": None, "source": None, "text": text, "language": "de", "duration_seconds": stated}
    audio = dict.fromkeys(["start", "end"])
    rows = [{**empty, "id": name, "audio": {**audio, "path": str(path)}} for name, path in talks.items()]
    return Dataset.from_list(rows, features=FEATURES)


@pytest.fixture(scope="module")
def whole(models, talks) -> dict[str, dict]:
    """Computes the texts of whole recordings, step by step."""
    return {name: at_once(*models, path) for name, path in talks.items() if name != "damaged"}


@torch.no_grad()
def at_once(model, processor, path) -> dict:
    samples, _ = soundfile.read(path, dtype="float32")
    output = model(**processor.feature_extractor(samples, sampling_rate=RATE, return_tensors="pt"))
    return {
        "num_frames": output.logits.shape[1],
        "text": processor.tokenizer.decode(output.logits[0].argmax(-1).tolist()),
        "language": model.config.languages[int(output.language_log_probs[0].argmax())],
    }


@torch.no_grad()
def joined(models, path) -> tuple[np.ndarray, np.ndarray]:
    """Returns probabilities (S, V) of frames and (L,) of languages, from 24.99 s at a time, without overlaps."""
    model, processor = models
    samples, _ = soundfile.read(path, dtype="float32")
    frames, languages, start, done = [], [], 0, 0
    while done < len(samples):
        piece = samples[start : start + 833 * FRAME]
        output = model(**processor.feature_extractor(piece, sampling_rate=RATE, return_tensors="pt"))
        end = len(samples) if start + 833 * FRAME >= len(samples) else start + (833 - 139) * FRAME
        frames.append(
            output.logits[0].double().softmax(-1).numpy()[(done - start) // FRAME :][: -(-(end - done) // FRAME)]
        )
        languages.append(len(frames[-1]) * output.language_log_probs[0].double())
        start, done = start + (833 - 2 * 139) * FRAME, end
    frames = np.concatenate(frames)
    return frames, (torch.stack(languages).sum(0) / len(frames)).softmax(0).numpy()


@pytest.mark.parametrize(
    "stated, max_batch_seconds, num_workers", [(1.0, 0.01, 0), (1.0, 60.0, 2), (40.0, 200.0, 0), (100_000.0, 60.0, 0)]
)
def test_long_utterances_are_decoded_whatever_duration_is_stated(
    models, talks, whole, stated, max_batch_seconds, num_workers
):
    model, processor = models
    shapes = []
    hook = model.register_forward_pre_hook(
        lambda _, arguments, inputs: shapes.append(inputs["attention_mask"].shape), with_kwargs=True
    )
    hypotheses = list(transcribe(model, processor, dataset_of(talks, stated), max_batch_seconds, num_workers))
    hook.remove()
    assert max(frames for _, frames in shapes) <= 100 * LONGEST_SECONDS
    assert max(rows * frames for rows, frames in shapes) <= max(110 * max_batch_seconds, 2500)
    assert sorted(hypothesis.row for hypothesis in hypotheses) == list(range(len(talks)))
    for hypothesis in hypotheses:
        name, path = list(talks.items())[hypothesis.row]
        if name == "damaged":
            assert "NaN" in hypothesis.error and "utterance damaged: " in hypothesis.error and hypothesis.text == ""
            continue
        assert hypothesis.text == whole[name]["text"] and hypothesis.language == whole[name]["language"]
        assert hypothesis.seconds == pytest.approx(soundfile.info(path).duration)


@pytest.mark.parametrize("name", ["hour", "short"])
def test_scores_are_those_of_all_frames(models, talks, whole, name):
    model, processor = models
    (hypothesis,) = transcribe(model, processor, dataset_of({name: talks[name]}, 1.0), 60.0)
    probabilities, languages = joined(models, talks[name])
    path, best = probabilities.argmax(1), np.log(probabilities.max(1))
    assert hypothesis.num_frames == len(best) == whole[name]["num_frames"]
    assert hypothesis.text == processor.tokenizer.decode(path.tolist())
    assert hypothesis.mean_log_prob == pytest.approx(best.mean(), abs=1e-5)
    letters = sum(label != model.config.blank_token_id for label, _ in groupby(path.tolist()))
    assert hypothesis.letter_log_prob == pytest.approx(best.sum() / letters, rel=1e-4)
    labels = np.delete(probabilities, model.config.blank_token_id, axis=1).astype(float)
    expected = labels[0].sum() + (labels[1:] * (1 - labels[:-1])).sum()
    # The first frame of a middle follows a frame of its own piece's context, not the last one of the middle before.
    assert hypothesis.length_ratio == pytest.approx(letters / expected, rel=1e-2 if name == "hour" else 1e-4)
    assert hypothesis.blank_ratio == pytest.approx((path == model.config.blank_token_id).mean())
    words = processor.tokenizer.decode(path.tolist(), output_word_offsets=True).word_offsets
    lowest = min(best[word["start_offset"] : word["end_offset"]].mean() for word in words)
    assert hypothesis.lowest_word_confidence == pytest.approx(np.exp(lowest), abs=1e-4)
    probability = languages[model.config.languages.index("de")]
    assert hypothesis.language_probability == pytest.approx(probability, abs=1e-5)


def test_all_interfaces_recognise_the_same_texts(models, tone_run, talks, whole, tmp_path, capsys):
    hour, short = talks["hour"], talks["short"]
    recognize = pipeline("automatic-speech-recognition", model=tone_run / "model")
    answers = recognize([hour, short, soundfile.read(hour, dtype="float32")[0]], batch_size=3)
    assert [answer["text"] for answer in answers] == [whole[name]["text"] for name in ("hour", "short", "hour")]
    assert answers[0] == answers[2] == recognize(hour, chunk_length_s=25)

    dataset = dataset_of({"hour": hour, "short": short}, 1.0, text=whole["hour"]["text"])
    pseudo_label(Accelerator(cpu=True), *models, dataset, tmp_path / "labels", "teacher")
    labels = pq.read_table(tmp_path / "labels" / "labels.parquet").to_pylist()
    assert {label["id"]: label["text"] for label in labels} == {
        name: whole[name]["text"] for name in ("hour", "short")
    }
    (label,) = [label for label in labels if label["id"] == "hour"]
    assert label["duration_seconds"] == pytest.approx(62.37)
    assert label["characters_per_second"] == pytest.approx(len(label["text"]) / 62.37)
    assert label["language_probability"] == pytest.approx(answers[0]["language_probability"], rel=1e-4)

    results = evaluate_model(Accelerator(cpu=True), *models, dataset.select([0]), 60.0)
    assert results["macro"]["cer"] == 0 and results["hours"] == pytest.approx(62.37 / 3600)

    arguments = ["transcribe", "--model", str(tone_run / "model"), "--format", "json", "--timestamps", "word"]
    assert main([*arguments, str(hour)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["text"] == whole["hour"]["text"] and printed["language"] == whole["hour"]["language"]
    expected = recognize(hour, chunk_length_s=0, return_timestamps="word")["chunks"]
    times = [[word["start"], word["end"]] for word in printed["words"]]
    assert times == [pytest.approx(word["timestamp"], abs=0.0301) for word in expected]


def test_flashlights_test_cuts_on_request(tone_run, talks, whole, tmp_path, capsys):
    (tmp_path / "x.lst").write_text("".join(f"{name} {path} 5000 abc\n" for name, path in talks.items()))
    command = ["test", "--am", str(tone_run / "model"), "--test=x.lst", "--datadir", str(tmp_path), "--show"]
    printed = {}
    for arguments in ([], ["--pieces"], ["--pieces", "--emission_dir", str(tmp_path / "out")]):
        assert main([*command, *arguments]) == 1  # wrong durations, one damaged
        out, err = capsys.readouterr()
        texts = [line.removeprefix("|P|: ") for line in out.splitlines() if line.startswith("|P|: ")]
        printed[len(arguments)] = [text.replace(" ", "").replace("|", " ") for text in texts]
        assert "damaged.wav: has samples that are NaN" in err and "but 62370 ms in" in err
    assert printed[0] == printed[1] == printed[3] == [whole[name]["text"] for name in ("short", "hour", "talk")]
    emissions = np.load(tmp_path / "out" / "x.lst" / "hour.npz")
    assert len(emissions["emissions"]) == emissions["num_frames"] == whole["hour"]["num_frames"]


def test_lack_of_memory_is_reported_in_one_line(models, tone_run, talks, monkeypatch, capsys):
    def forward(self, input_features, attention_mask, **_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 28.80 GiB.\n" * 3)

    monkeypatch.setattr(MlplForCTC, "forward", forward)
    with pytest.raises(MemoryError, match=r"a batch of 2 x 25 s of speech does not fit into memory; pass a smaller"):
        pipeline("automatic-speech-recognition", model=tone_run / "model")(talks["hour"], batch_size=2)
    with pytest.raises(MemoryError, match=r"together 50 s with padding, does not fit .*--batch-seconds"):
        list(transcribe(*models, dataset_of({"hour": talks["hour"]}, 62.0), 50.0))
    assert main(["transcribe", "--model", str(tone_run / "model"), str(talks["hour"]), str(talks["short"])]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(" does not fit")[0] for line in errors] == [
        f"error: {talks['hour']}: a batch of 1 x 25 s of speech",
        f"error: {talks['short']}: a batch of 1 x 3 s of speech",
    ]
    with pytest.raises(MemoryError) as error:
        np.empty(2**50)
    assert is_memory_error(error.value) and not is_memory_error(RuntimeError("size mismatch"))
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**55)
    assert is_memory_error(error.value)


HOURS = """
import resource, sys
from pathlib import Path
from accelerate import Accelerator
from datasets import Dataset
from transformers import AutoModelForCTC, AutoProcessor, pipeline
from hf_mlpl import MlplForCTC, MlplProcessor
from hf_mlpl.cli.main import main
from hf_mlpl.data.utterances import FEATURES
from hf_mlpl.labels.labelling import pseudo_label

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MB

kind, folder, short, long, output = sys.argv[1:]
recognize = pipeline("automatic-speech-recognition", model=folder)
def run(path, number):
    if kind == "pipeline":
        return recognize(path, batch_size=4, return_timestamps="word")
    if kind == "transcribe":
        return main(["transcribe", "--model", folder, "--output", f"{output}/{number}", path])
    audio = {"path": path, "offset": None, "size": None, "start": None, "end": None}
    row = {"id": "x", "audio": audio, "duration_seconds": 3.0, "language": "de"}
    row |= dict.fromkeys(["text", "speaker", "source"])
    models = recognize.model, MlplProcessor.from_pretrained(folder)
    dataset = Dataset.from_list([row], features=FEATURES)
    pseudo_label(Accelerator(cpu=True), *models, dataset, Path(output, number), "teacher")

run(short, "a")
before = peak()
run(long, "b")
print(round(peak() - before))
"""


@pytest.fixture(scope="module")
def hours(talks) -> Path:
    """Writes 40 minutes of stereo, whose samples would be 154 MB for each channel."""
    path = talks["hour"].with_name("hours.flac")
    samples = np.repeat(soundfile.read(talks["hour"], dtype="float32")[0][:, None], 2, axis=1)
    with soundfile.SoundFile(path, "w", RATE, 2, compression_level=0) as file:
        for _ in range(39):
            file.write(samples)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pipeline", "transcribe", "label"])
def test_memory_does_not_grow_with_a_recording(tone_run, talks, hours, kind, quick_python, tmp_path):
    paths = [tone_run / "model", talks["hour"], hours, tmp_path]
    done = subprocess.run([quick_python, "-c", HOURS, kind, *map(str, paths)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 200  # MB, and not the 250 that it would be with them


def test_no_frame_is_lost_at_joins_by_a_model_without_padding(talks, tmp_path):
    """Each frame of it reads 405 samples, so that a piece of k * 320 samples has k - 1 frames."""
    folder = save_small_model(tmp_path, "wav2vec2", conv_kernel=(10, 8, 10), letters="abcdefghijklmno")
    model, processor = AutoModelForCTC.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    processor.feature_extractor.do_normalize = False
    with torch.no_grad():
        for layer in model.wav2vec2.encoder.layers:  # else each frame depends on its whole piece
            layer.attention.out_proj.weight.zero_()
    samples, _ = soundfile.read(talks["hour"], dtype="float32")
    with torch.no_grad():
        path = model.eval()(torch.from_numpy(samples)[None]).logits[0].argmax(-1)
    assert len(path) == (len(samples) - 405) // 320 + 1
    (hypothesis,) = transcribe(model, processor, dataset_of({"hour": talks["hour"]}, 1.0), 60.0)
    assert hypothesis.num_frames == len(path) and hypothesis.seconds == pytest.approx(len(samples) / RATE)
    assert hypothesis.text == " ".join(processor.decode(path).split()) and len(hypothesis.text) > 500
    assert (hypothesis.language, hypothesis.language_probability) == (None, None)
