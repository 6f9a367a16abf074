"""Inputs in each form of transformers' documentation, which give the same text as the file's path."""

import io
import tarfile
from collections import deque
from multiprocessing import get_all_start_methods

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset, DatasetDict, config, load_dataset
from transformers.pipelines.pt_utils import KeyDataset

from hf_mlpl.audio.reading import AudioError

from ..random_model import RATE, sweep


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for i in range(3):
        soundfile.write(folder / f"{i}.flac", sweep(1 + 0.4 * i), RATE)
    return [folder / f"{i}.flac" for i in range(3)]


@pytest.fixture(scope="module")
def texts(asr, paths):
    texts = [asr(path)["text"] for path in paths]
    assert len(set(texts)) == 3
    return texts


def texts_of(answers):
    return [answer["text"] for answer in answers]


@pytest.fixture(scope="module")
def samples(paths):
    return [soundfile.read(path, dtype="float32")[0] for path in paths]


ONE = {
    "path": lambda path, samples: path,
    "str": lambda path, samples: str(path),
    "bytes": lambda path, samples: path.read_bytes(),
    "bytearray": lambda path, samples: bytearray(path.read_bytes()),
    "memoryview": lambda path, samples: memoryview(path.read_bytes()),
    "BytesIO": lambda path, samples: io.BytesIO(path.read_bytes()),
    "open file": lambda path, samples: open(path, "rb"),
    "unbuffered file": lambda path, samples: open(path, "rb", buffering=0),
    "float32": lambda path, samples: samples,
    "float64": lambda path, samples: samples.astype(np.float64),
    "two channels": lambda path, samples: np.stack([samples, samples]),
    "tensor": lambda path, samples: torch.from_numpy(samples),
    "tensor that needs a gradient": lambda path, samples: torch.from_numpy(samples).double().requires_grad_(),
    "raw": lambda path, samples: {"raw": torch.from_numpy(samples), "sampling_rate": RATE},
    "array": lambda path, samples: {"array": samples.tolist(), "sampling_rate": RATE, "path": None},
    "row with a path": lambda path, samples: {"audio": str(path), "text": "x"},
    "row with an open file": lambda path, samples: {"audio": open(path, "rb"), "tokens": [3, 4]},
    "row with samples": lambda path, samples: {"audio": samples.tolist(), "stride": "x", "is_last": False},
    "row with a tensor": lambda path, samples: {"audio": torch.from_numpy(samples), "input_features": torch.ones(2)},
}


@pytest.mark.parametrize("form", ONE)
def test_one_input(asr, paths, samples, texts, form):
    assert asr(ONE[form](paths[1], samples[1]))["text"] == texts[1]
    several = [ONE[form](path, array) for path, array in zip(paths, samples, strict=True)]
    assert texts_of(asr(several, batch_size=2)) == texts


def test_inputs_of_many_forms_in_one_batch(asr, paths, samples, texts):
    given = [form(paths[i % 3], samples[i % 3]) for i, form in enumerate(ONE.values())]
    answers = asr(given, batch_size=len(given))
    assert texts_of(answers) == [texts[i % 3] for i in range(len(given))]
    by_form = dict(zip(ONE, answers, strict=True))
    assert by_form["row with an open file"]["tokens"] == [[3, 4]]
    assert by_form["row with samples"]["stride"] == ["x"] and by_form["row with samples"]["is_last"] == [False]
    assert set(by_form["path"]) == {"text", "language", "language_probability"}
    long = asr({"audio": str(paths[2]), "id": "a"}, chunk_length_s=0.9, stride_length_s=0.3)
    assert long["id"] == ["a"]  # once, although it is in pieces


def test_integers_are_refused_as_load_audio_refuses_them(asr, samples):
    for array in (np.int16(samples[0] * 32767), torch.from_numpy(np.int16(samples[0] * 32767))):
        with pytest.raises(AudioError, match="has samples of int16; pass floats"):
            asr(array)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_several_inputs(asr, paths, texts, batch_size):
    names = [str(path) for path in paths]
    for given in (paths, tuple(names), tuple({"audio": name} for name in names)):
        answers = asr(given, batch_size=batch_size)
        assert isinstance(answers, list) and texts_of(answers) == texts
    several = [iter(names), map(str, paths), (name for name in names), deque(names), dict.fromkeys(names).keys()]
    several += [np.array(names), KeyDataset([{"file": name} for name in names], "file")]
    for given in several:
        answers = asr(given, batch_size=batch_size)
        assert iter(answers) is answers and texts_of(answers) == texts  # no list: it streams
    assert asr(()) == [] and list(asr(iter([]))) == [] and list(asr(KeyDataset([], "file"))) == []


@pytest.mark.skipif(get_all_start_methods()[0] != "fork", reason="transformers' pipelines give workers a closure")
def test_a_loader_worker_reads_the_same(asr, paths, texts):
    for given in (tuple(paths), iter(paths), rows(paths, "speech", embedded=True).cast_column("speech", Audio())):
        assert texts_of(asr(given, batch_size=2, num_workers=1)) == texts


def rows(paths, name, embedded):
    audio = [{"bytes": path.read_bytes(), "path": path.name} if embedded else str(path) for path in paths]
    return Dataset.from_dict({"id": [path.stem for path in paths], "text": ["x"] * 3, name: audio})


@pytest.mark.parametrize("form", [None, "torch", "numpy", "pandas", "arrow"])
@pytest.mark.parametrize("is_iterable", [False, True])
@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("name", ["audio", "speech"])
def test_data_sets_and_their_columns(asr, paths, texts, name, embedded, is_iterable, form):
    dataset = rows(paths, name, embedded).cast_column(name, Audio(sampling_rate=8000))  # torchcodec would decode it
    if is_iterable:
        dataset = dataset.to_iterable_dataset()
    dataset = dataset.with_format(form)
    answers = list(asr(dataset, batch_size=2))
    assert texts_of(answers) == texts and [answer["id"] for answer in answers] == [["0"], ["1"], ["2"]]
    if form in ("pandas", "arrow") and not is_iterable:
        return  # such a data set gives its columns decoded, which is before us
    for given in (dataset[name], KeyDataset(dataset, name)):
        assert texts_of(asr(given, batch_size=2)) == texts


@pytest.mark.parametrize("form", ["audiofolder", "webdataset"])
def test_streams_of_files(asr, paths, texts, tmp_path, form):
    """Their rows are encoded when they are read, for which `datasets` needs torchcodec."""
    if form == "audiofolder":
        settings = {"data_dir": str(paths[0].parent)}
    else:
        with tarfile.open(tmp_path / "train.tar", "w") as tar:
            for path in paths:
                tar.add(path, path.name)
        settings = {"data_files": str(tmp_path / "train.tar")}
    stream = load_dataset(form, split="train", streaming=True, **settings)
    column = "audio" if form == "audiofolder" else "flac"
    for inputs in (stream, stream[column], KeyDataset(stream, column)):
        assert texts_of(asr(inputs, batch_size=2)) == texts


def test_columns_without_the_type_audio(asr, paths, samples, texts):
    dataset = rows(paths, "file", embedded=False)
    assert texts_of(asr(dataset["file"])) == texts_of(asr(KeyDataset(dataset, "file"))) == texts
    with_audio = dataset.add_column("audio", dataset["file"]).cast_column("audio", Audio())
    assert texts_of(asr(KeyDataset(with_audio, "file"))) == texts  # nor is the other column decoded
    nested = Dataset.from_dict({"clip": [{"path": str(path)} for path in paths]})
    assert texts_of(asr(nested["clip"]["path"])) == texts_of(asr(nested["clip"])) == texts
    decoded = Dataset.from_dict({"audio": [{"array": array, "sampling_rate": RATE} for array in samples]})
    for form in (None, "torch", "numpy"):
        assert texts_of(asr(decoded.with_format(form))) == texts
        assert texts_of(asr([decoded.with_format(form)[i] for i in range(3)])) == texts
    assert texts_of(asr(decoded["audio"]["array"])) == texts
    by_transform = dataset.with_transform(lambda batch: {"audio": batch["file"]})
    assert texts_of(asr(by_transform)) == texts


def test_rows_that_are_decoded_before(asr, paths, texts):
    dataset = rows(paths, "audio", embedded=False)
    generator = (row["audio"] for row in dataset.cast_column("audio", Audio(decode=False)))
    assert texts_of(asr(generator)) == texts
    if not config.TORCHCODEC_AVAILABLE:
        with pytest.raises(
            ImportError, match=r"pass the data set itself or a column, .* Audio\(decode=False\) before$"
        ):
            next(iter(asr(row["audio"] for row in dataset.cast_column("audio", Audio()))))
    with pytest.raises(ImportError, match="No module named 'nowhere'"):
        next(iter(asr(__import__("nowhere") for _ in paths)))


def test_of_two_columns_audio_is_taken(asr, paths, texts):
    dataset = rows(paths, "audio", embedded=False).add_column("noise", ["nowhere.wav"] * 3)
    dataset = dataset.cast_column("audio", Audio()).cast_column("noise", Audio())
    answers = list(asr(dataset))
    assert texts_of(answers) == texts and answers[0]["noise"] == [{"bytes": None, "path": "nowhere.wav"}]
    with pytest.raises(ValueError, match=r"several columns of audio, speech, noise; pass one: dataset\['speech'\]$"):
        asr(dataset.rename_column("audio", "speech"))


def test_data_sets_without_audio_or_with_splits(asr, paths):
    dataset = Dataset.from_dict({"id": ["a"], "file": ["a.wav"]})
    with pytest.raises(ValueError, match="no column of audio, only id, file; pass the column of the files' paths"):
        asr(dataset)
    with pytest.raises(ValueError, match=r"a DatasetDict has several data sets \(train, test\); pass one of them"):
        asr(DatasetDict(train=dataset, test=dataset))
    stream = dataset.to_iterable_dataset().map(lambda row: {"note": row["id"]})  # it no longer knows its columns
    with pytest.raises(AudioError, match="a dict with id, file, note has no audio"):
        list(asr(stream))
