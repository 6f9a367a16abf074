"""Tests `hf-mlpl build-lm`: whose texts it uses, which files it writes, what it measures, and its errors."""

import math
import re

import pytest

from hf_mlpl.cli.main import main
from hf_mlpl.data.utterances import write_utterances
from hf_mlpl.ngrams.sentences import characters_units

from .test_estimation import WittenBell, arpa_log_prob, read_arpa


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Writes utterances of two languages, by a person, a teacher and unknown people, and texts."""
    rows = [
        ("sl", "ab ba", "human"),
        ("sl", "ba ab", None),
        ("sl", "cc cc", "run/model@0123"),
        ("sl", "dd dd", "reference"),
        ("de", "Ä b", "human"),
        ("de", None, "human"),
    ]
    audio = {"path": "a.wav", "offset": None, "size": None, "start": None, "end": None}
    utterances = [
        {"id": str(i), "audio": audio, "duration_seconds": 1.0, "language": language, "text": text, "source": source}
        for i, (language, text, source) in enumerate(rows)
    ]
    write_utterances(utterances, tmp_path / "train.parquet")
    write_utterances([row for row in utterances if row["language"] == "sl"][:2], tmp_path / "dev.parquet")
    (tmp_path / "news.txt").write_text("ef ef\n\nef\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words_of(path) -> set[str]:
    return {word for (word,) in read_arpa(path)[0]} - {"<s>", "</s>", "<unk>"}


@pytest.fixture
def error_of(capsys):
    def error_of(*arguments) -> str:
        assert main(["build-lm", *arguments]) == 1
        return capsys.readouterr().err.removeprefix("error: ").rstrip("\n")

    return error_of


def test_a_model_of_each_language_from_the_texts_of_people(data, capsys):
    assert main(["build-lm", "train.parquet", "--output", "lm", "--units", "words"]) == 0
    assert {path.name for path in (data / "lm").iterdir()} == {"sl.arpa", "de.arpa"}
    assert words_of(data / "lm/sl.arpa") == {"ab", "ba"} and words_of(data / "lm/de.arpa") == {"Ä", "b"}
    out = capsys.readouterr().out
    assert "lm/sl.arpa: 2 texts, 12 characters; n-grams of words by order: 5, 6, 4\n" in out
    assert out.splitlines()[-1].startswith("next: hf-mlpl evaluate --model MODEL --data DEV.parquet --lm lm ")
    assert main(["build-lm", "train.parquet", "--output", "{language}-2.arpa", "--units", "words"]) == 0
    assert (data / "sl-2.arpa").read_bytes() == (data / "lm/sl.arpa").read_bytes()
    words = ["--units", "words", "--pseudo-labels"]
    assert main(["build-lm", "train.parquet", "--output", "lm", *words]) == 0
    assert words_of(data / "lm/sl.arpa") == {"ab", "ba", "cc"}  # never references


def test_texts_of_one_language(data, error_of):
    command = ["train.parquet", "news.txt", "--output", "sl.arpa"]
    assert error_of(*command) == "news.txt: its language is one of de, sl; name it with --languages"
    assert main(["build-lm", *command, "--languages", "sl", "--order", "2"]) == 0
    assert words_of(data / "sl.arpa") == set("abef|") and len(read_arpa(data / "sl.arpa")) == 2
    assert main(["build-lm", "news.txt", "--output", "news.arpa"]) == 0
    assert words_of(data / "news.arpa") == set("ef|")


def test_the_perplexity_is_that_of_plain_python(data, capsys):
    assert main(["build-lm", "train.parquet", "--output", "lm", "--dev", "dev.parquet", "--order", "3"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("sl: "))
    reference = [list(characters_units(text)) for text in ("ab ba", "ba ab")]
    expected = []
    for order in (1, 2, 3):
        model, total = WittenBell(reference, order), 0.0
        for units in reference:
            for place, unit in enumerate([*units, "</s>"]):
                total += math.log(model.prob(unit, ("<s>", *units)[: place + 1]))
        expected.append(f"{math.exp(-total / 12):.2f}")
    assert line == (
        f"sl: perplexity per character of 2 texts of dev, by order: {', '.join(expected)}; 0 of 10 units are unknown"
    )
    orders = read_arpa(data / "lm" / "sl.arpa")
    assert 10 ** arpa_log_prob(orders, "b", ("<s>", "a")) == pytest.approx(
        WittenBell(reference, 3).prob("b", ("<s>", "a"))
    )


def test_dev_of_plain_texts_shorter_than_the_order(data, capsys):
    (data / "short.txt").write_text("ab\n", encoding="utf-8")
    command = ["build-lm", "short.txt", "--languages", "sl", "--output", "lm", "--dev"]
    assert main([*command, "short.txt"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("n-grams of characters by order: 5, 3, 2, 1")
    reference, expected = [["a", "b"]], []
    for order in (1, 2, 3, 4):
        model = WittenBell(reference, order)
        total = sum(math.log(model.prob(*each)) for each in (("a", ("<s>",)), ("b", ("<s>", "a"))))
        total += math.log(model.prob("</s>", ("<s>", "a", "b")))
        expected.append(f"{math.exp(-total / 3):.2f}")
    assert f"by order: {', '.join(expected)}; 0 of 2 units are unknown" in lines[1]
    (data / "empty.txt").write_text("\n", encoding="utf-8")
    assert main([*command, "empty.txt"]) == 0
    assert "sl: not measured, for --dev has no text in it\n" in capsys.readouterr().out


def test_errors_are_one_line(data, error_of):
    assert error_of("train.parquet", "--output", "lm.arpa") == (
        "lm.arpa: is one file, and the texts are in de, sl; give a folder, a name with {language}, or one of them "
        "with --languages"
    )
    assert error_of("train.parquet", "--output", "lm", "--order", "9") == "--order is 9; 2 to 6 are accepted"
    none = "no text by people in nl is there; --pseudo-labels also uses those of teachers"
    assert error_of("train.parquet", "--output", "lm", "--languages", "sl", "nl") == f"train.parquet: {none}"
    of_teachers = ["--languages", "nl", "--pseudo-labels"]
    assert error_of("train.parquet", "--output", "lm", *of_teachers) == "train.parquet: no text in nl is there"
    with_model = ["--units", "words", "--model", "M"]
    assert error_of("train.parquet", "--output", "lm", *with_model).startswith("--model M: is for --units characters;")
    (data / "latin.txt").write_bytes("é\n".encode("latin-1"))
    assert error_of("latin.txt", "--output", "lm.arpa").startswith("latin.txt: is not UTF-8; convert it")
    assert re.match("nowhere.parquet: no such utterance file", error_of("nowhere.parquet", "--output", "lm"))
    assert "nowhere.txt" in error_of("nowhere.txt", "--output", "lm.arpa")
    assert not list(data.glob("lm*"))
