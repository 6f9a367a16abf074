"""Tests that the names of a language-ID head's classes are found from labelled clips, and not guessed."""

import itertools
import logging
from collections import defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from hf_mlpl import MlplForCTC, MlplProcessor
from hf_mlpl.audio.reading import load_audio
from hf_mlpl.cli.main import main
from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.interop import find_language_names, read_checkpoint
from hf_mlpl.interop.language_names import NamedClass, assign, names_in_order

from ..random_model import save_folder

pytestmark = pytest.mark.usefixtures("one_thread")

NUMBERED = [f"language_{number}" for number in range(5)]


@pytest.fixture(scope="module")
def numbered(tone_run, tmp_path_factory):
    """Writes the model of the tones with five numbered languages: sv-SE is 1, de is 3; the others are not heard."""
    model = MlplForCTC.from_pretrained(tone_run / "model")
    model.resize_lid_head(["a", "sv-SE", "b", "de", "c"])
    with torch.no_grad():
        model.lid_head.weight[[0, 2, 4]] = 0
        model.lid_head.bias[[0, 2, 4]] = torch.tensor([-3.0, -4.0, -5.0])
    model.config.languages = NUMBERED
    folder = tmp_path_factory.mktemp("numbered") / "model"
    model.save_pretrained(folder)
    MlplProcessor.from_pretrained(tone_run / "model").save_pretrained(folder)
    return folder


def loaded(folder):
    return MlplForCTC.from_pretrained(folder).eval(), MlplProcessor.from_pretrained(folder)


@pytest.mark.parametrize(("num_languages", "num_classes"), [(1, 1), (1, 4), (3, 3), (3, 5), (4, 6)])
def test_the_assignment_and_its_margins_are_those_of_all_permutations(num_languages, num_classes):
    rng = np.random.default_rng(num_classes)
    for sharpness in (0.05, 0.3, 5.0):
        means = rng.dirichlet(np.full(num_classes, sharpness), num_languages)
        sums = {
            classes: sum(means[language, number] for language, number in enumerate(classes))
            for classes in itertools.permutations(range(num_classes), num_languages)
        }
        best = max(sums, key=sums.get)
        classes, margins = assign(means)
        assert tuple(classes) == best
        for language, margin in enumerate(margins):
            others = [total for order, total in sums.items() if order[language] != best[language]]
            assert margin == pytest.approx(sums[best] - max(others, default=-np.inf), abs=1e-9)


def test_a_permuted_head_of_sixty_classes():
    """With noise, with a class that the model prefers for all, and with nineteen languages alone."""
    rng, languages = np.random.default_rng(0), [f"l{number:02}" for number in range(60)]
    order = rng.permutation(60)
    means = rng.dirichlet(np.full(60, 0.1), 60) * 0.1
    means[:, 7] += 0.1
    means[np.arange(60), order] += 0.4
    classes, margins = assign(means)
    assert list(classes) == list(order) and margins.min() > 0.2
    classes, margins = assign(means[:19])
    assert list(classes) == list(order[:19]) and margins.min() > 0.2
    found = [NamedClass(languages[i], int(order[i]), 0.4, True, 0.4, 50) for i in range(19)]
    names = names_in_order([f"language_{number}" for number in range(60)], found)
    assert names == [languages[i] if (i := list(order).index(n)) < 19 else f"language_{n}" for n in range(60)]


def test_unsure_classes_keep_their_names_and_no_name_stands_twice():
    """0.5 / sqrt(9) is 0.167."""
    found = [
        NamedClass("de", 2, 0.9, True, 0.17, 9),
        NamedClass("en", 0, 0.3, True, 0.16, 9),
        NamedClass("fr", 3, 0.3, False, 0.9, 9),
        NamedClass("it", None, 0, False, 0, 1),
    ]
    assert [named.is_sure for named in found] == [True, False, False, False]
    assert names_in_order(["de", "en", "x", "y"], found) == ["language_0", "en", "de", "y"]


def test_the_original_programs_probabilities_name_its_classes(golden, tmp_path):
    """Its recordings are labelled by the class that it gave each."""
    folder = golden / "models" / "tiny40"
    checkpoint = read_checkpoint(folder / "model.bin")
    rows = []
    for path in sorted((golden / "run" / "tiny40" / "main" / "fwd").glob("*.lid_logsoftmax.npy")):
        log_probs = np.load(path).ravel()
        if path.name.startswith("speech_fr_8k"):  # which the original takes for 16 kHz
            continue
        wav = golden / "wavs" / ".".join(path.name.partition(".")[0].rsplit("_", 1))
        audio = {"path": str(wav)}
        language = f"the original's {log_probs.argmax()}"
        row = {"id": wav.name, "audio": audio, "duration_seconds": soundfile.info(wav).duration, "language": language}
        rows.append(row | {"expected": float(np.exp(log_probs.max()))})
    by_language = defaultdict(list)
    for row in rows:
        by_language[row["language"]].append(row["expected"])
    write_utterances(rows, tmp_path / "data.parquet")
    data = read_utterances([tmp_path / "data.parquet"])
    found = find_language_names(checkpoint.model, checkpoint.processor(golden / "models" / "tokens.lst"), data, 99)
    assert len(found) > 1
    for named in found:
        assert named.language == f"the original's {named.number}" and named.is_sure
        assert named.probability == pytest.approx(np.mean(by_language[named.language]), abs=1e-4)


def test_clips_name_the_classes(numbered, tone_data, tmp_path, caplog):
    model, processor = loaded(numbered)
    train = read_utterances([tone_data / "train.parquet"])
    found = find_language_names(model, processor, train, per_language=10)
    assert [(named.language, named.number, named.num_clips) for named in found] == [("de", 3, 10), ("sv-SE", 1, 10)]
    # the mean of the probabilities that the model gives to ten clips, from the first to the last
    rows = [row for row in range(len(train)) if train[row]["language"] == "de"]
    expected = []
    for place in np.linspace(0, len(rows) - 1, 10).round().astype(int):
        inputs = processor(load_audio(train[rows[place]]["audio"]), sampling_rate=16_000)
        (answer,) = model.identify_language(**inputs, top_k=5)
        expected.append(answer["language_3"])
    assert found[0].probability == pytest.approx(np.mean(expected), abs=1e-5)

    rows = pq.read_table(tone_data / "dev.parquet").to_pylist()
    rows[0]["audio"]["path"] = "lost.wav"
    rows = [row | {"language": "fr"} if i == 1 else row for i, row in enumerate(rows)]
    write_utterances(rows, tmp_path / "noisy.parquet")
    caplog.set_level(logging.WARNING)
    noisy = find_language_names(model, processor, read_utterances([tmp_path / "noisy.parquet"]))
    assert "lost.wav" in caplog.text and "skipped" in caplog.text
    assert {named.language: (named.num_clips, named.is_sure) for named in noisy} == {
        "de": (6, True),
        "fr": (1, False),
        "sv-SE": (8, True),
    }
    assert names_in_order(NUMBERED, noisy) == ["language_0", "sv-SE", "language_2", "de", "language_4"]


def test_the_command_and_a_checkpoint_with_the_names(numbered, tone_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["name-languages", "--model", str(numbered), "--data", str(tone_data / "dev.parquet")]
    assert main([*command, "--save-model", "named"]) == 0
    names = ["language_0", "sv-SE", "language_2", "de", "language_4"]
    assert (tmp_path / "languages.txt").read_text(encoding="utf-8").splitlines() == names
    header, de, sv, *rest = capsys.readouterr().out.splitlines()
    assert header.split() == ["language", "class", "probability", "margin", "clips"]
    assert (de.split()[:2], de.split()[4:]) == (["de", "3"], ["8"]) and sv.split()[:2] == ["sv-SE", "1"]
    assert rest == [
        "languages.txt: 2 of 5 classes named; 3 keep theirs",
        "named: the model with these names",
    ]
    before, model = loaded(numbered)[0].state_dict(), MlplForCTC.from_pretrained("named")
    assert model.config.languages == names
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert MlplProcessor.from_pretrained("named").tokenizer("abc")["input_ids"]

    assert main(["convert", "--to", "flashlight", "--checkpoint", str(numbered), "--output", "original"]) == 0
    files = ["--checkpoint", "original/checkpoint.bin", "--tokens", "original/tokens-all.lst"]
    convert = ["convert", "--from", "flashlight", *files, "--languages", "languages.txt", "--output"]
    assert main([*convert, "converted"]) == 0
    assert MlplForCTC.from_pretrained("converted").config.languages == names
    (tmp_path / "languages.txt").write_text("de\nsv-SE\n")
    capsys.readouterr()
    assert main([*convert, "other"]) == 1
    assert "knows 5 languages, but 2 names were given" in capsys.readouterr().err


def test_what_cannot_be_named_is_one_line(numbered, tone_data, tmp_path, error_of):
    data = ["--data", tone_data / "dev.parquet", "--output", tmp_path / "names.txt"]
    one = save_folder(tmp_path / "one", ["de"])
    message = "the data have 2 languages, and the model's language-ID head 1 classes; choose languages that the model"
    assert error_of("name_languages.py", "--model", one, *data).startswith(message)
    none = save_folder(tmp_path / "none", [])
    assert error_of("name_languages.py", "--model", none, *data).startswith("the model has no language-ID head")
    message = f"no language of {tone_data / 'dev.parquet'} is sure, so {tmp_path / 'names.txt'} is not written"
    assert error_of("name_languages.py", "--model", numbered, *data, "--per-language", "1").startswith(message)
    write_utterances([], tmp_path / "nothing.parquet")
    data[1] = tmp_path / "nothing.parquet"
    assert error_of("name_languages.py", "--model", numbered, *data).startswith("no language of ")
    assert not (tmp_path / "names.txt").exists()
