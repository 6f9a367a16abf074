"""Compares counts of how texts are written with Python's own strings, and tests what is said before training."""

import random
import unicodedata
from collections import Counter

import pyarrow as pa
import pytest

from hf_mlpl.data.conventions import Conventions, describe_convention, differences
from hf_mlpl.data.text_arrays import TextBlock
from hf_mlpl.data.utterances import FEATURES, read_utterances, write_utterances
from hf_mlpl.model.text import normalize_text
from hf_mlpl.training.run_data import compare_conventions


def counted(texts: list[str | None]) -> dict[str, int]:
    conventions = Conventions()
    conventions.add("", pa.chunked_array([texts], pa.string()))
    return conventions.report("")


def test_counts_are_those_of_python_strings():
    alphabet = "aB ,.1é-Ä日語ក។٣ǅკაßΣσ'“?ª"
    rng = random.Random(0)
    texts = ["".join(rng.choices(alphabet, k=rng.randint(0, 6))) for _ in range(500)] + [None, "", "  "]
    there = [unicodedata.normalize("NFC", " ".join(text.split())) for text in texts if text and text.strip()]

    def number(has) -> int:
        return sum(any(map(has, text)) for text in there)

    assert counted(texts) == {
        "texts": len(there),
        "cased": number(
            lambda c: unicodedata.category(c) in ("Lu", "Lt", "Ll") and (c.title() != c or c.lower() != c)
        ),
        "capitals": number(lambda c: c.isupper() or c.istitle()),
        "punctuation": number(lambda c: unicodedata.category(c).startswith("P")),
        "digits": number(str.isdecimal),
    }


def test_every_character_counts_as_in_its_normalised_text():
    characters = [chr(code_point) for code_point in range(1 << 17) if not 0xD800 <= code_point < 0xE000]
    normalized = list(map(normalize_text, characters))
    block = TextBlock(pa.chunked_array([normalized]))
    assert counted(characters) == counted(normalized) and counted(characters)["texts"] == int(
        (block.lengths > 0).sum()
    )
    categories = Counter(unicodedata.category(text[0]) for text in normalized if text)
    assert counted(characters)["digits"] == categories["Nd"]
    assert counted(characters)["capitals"] == categories["Lu"] + categories["Lt"]
    assert counted(characters)["punctuation"] == sum(categories[name] for name in categories if name[0] == "P")


def test_clauses():
    assert describe_convention(counted(["Dobro jutro.", "In 20", "ne", "da"])) == (
        "capitals in 50% of the texts, punctuation in 25% of the texts, digits in 25% of the texts"
    )
    assert describe_convention(counted(["дa"] * 3)) == "no capitals, no punctuation, no digits"
    assert describe_convention(counted(["日本語。", "საქართველო"])) == (
        "letters without case, punctuation in 50% of the texts, no digits"
    )
    whisper, lower = counted(["Dobro jutro."] * 10), counted(["dobro jutro"] * 10)
    assert differences(lower, whisper) == [
        "capitals in 0% of the labels and 100% of the transcripts",
        "punctuation in 0% of the labels and 100% of the transcripts",
    ]
    assert len(differences(whisper, lower)) == 2 and not differences(lower, lower)
    assert not differences(counted(["a"] * 9), whisper)  # too few to say
    assert differences(counted(["日本語"] * 10), counted(["日本語。"] * 10)) == [
        "punctuation in 0% of the labels and 100% of the transcripts"
    ]


@pytest.fixture
def train_set(tmp_path):
    """Has transcripts of two languages, labels of Whisper written like them, and of another teacher in lower case."""
    cased, lower = "Dobro jutro, Ana.", "dobro jutro ana"
    texts = {"human": cased, None: cased, "openai/whisper@1": cased, "me/lower@2": lower}
    rows = [
        dict.fromkeys(FEATURES)
        | {"id": f"{source}-{language}-{n}", "audio": {"path": "a.ogg"}, "duration_seconds": 1.0}
        | {"language": language, "text": f"{text} {language}", "source": source}
        for source, text in texts.items()
        for language in ("sl", "fi")
        for n in range(8)
    ]
    rows += [row | {"id": f"more {row['id']}"} for row in rows]
    write_utterances(rows, tmp_path / "train.parquet")
    return read_utterances([tmp_path / "train.parquet"])


def test_labels_in_another_convention_are_said_before_training(train_set, caplog):
    compare_conventions(train_set)
    (line,) = caplog.messages
    assert line.startswith(
        "me/lower@2 writes otherwise than people in `train`, and the model learns both: fi: capitals in"
    )
    assert "; sl: capitals in 0% of the labels and 100% of the transcripts, punctuation in 0% of the labels" in line
    assert line.endswith(
        "`hf-mlpl filter-labels --normalize` rewrites labels, and `hf-mlpl prepare-data --normalize` transcripts"
    )
    caplog.clear()
    compare_conventions(train_set.filter(lambda row: row["source"] != "human" and row["source"] is not None))
    assert not caplog.messages
