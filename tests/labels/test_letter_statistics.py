"""Compares the distances of labels from transcripts with sums over plain dictionaries."""

import math
import random
import re
from collections import Counter

import pytest
from datasets import Dataset

from hf_mlpl.data import rows
from hf_mlpl.labels.letter_statistics import TrigramShares, vote_weights
from hf_mlpl.labels.schema import LABEL_FEATURES

from .test_filters import made_label

SPEAKERS = {"anna": "sl", "ben": "sl", None: "sl", "cene": "de"}


def made(texts: list[str | None], languages: list[str], speakers: list[str | None]) -> Dataset:
    made_rows = [
        made_label(n, text=text, language=language, speaker=speaker)
        for n, (text, language, speaker) in enumerate(zip(texts, languages, speakers, strict=True))
    ]
    columns = {name: [row[name] for row in made_rows] for name in LABEL_FEATURES}
    return Dataset.from_dict(columns, features=LABEL_FEATURES)


def shares_of(texts: list[str | None]) -> tuple[dict[str, float], int]:
    """Returns the share of each trigram, and their number."""
    counts = Counter()
    for text in texts:
        words = re.findall(r"[^\W_]+", (text or "").lower())
        padded = f"  {' '.join(words)} "
        counts.update(padded[i : i + 3] for i in range(len(padded) - 2))
    return {trigram: count / counts.total() for trigram, count in counts.items()}, counts.total()


@pytest.fixture
def speech(monkeypatch):
    """Returns transcripts and labels in several blocks, whose texts have punctuation, upper case and odd letters."""
    monkeypatch.setattr(rows, "BLOCK", 16)
    rng = random.Random(5)
    words = ["", "Ena,", "dve", "tri...", "štiri", "PET", "\U00010330\U00010331", "d've", " tri  ", "日本"]

    def texts(count: int) -> list[str | None]:
        return [rng.choice([None, " ".join(rng.choices(words, k=rng.randrange(4)))]) for _ in range(count)]

    speakers = rng.choices(list(SPEAKERS), k=100)
    labels = made(texts(100), [SPEAKERS[name] for name in speakers], speakers)
    return made(texts(60), rng.choices(["sl", "de", "fi"], k=60), ["x"] * 60), labels


def test_distances_are_sums_over_trigrams(speech):
    transcripts, labels = speech
    found = TrigramShares(transcripts).distances(labels)
    assert found.keys() == {(language, name or "a.ogg") for name, language in SPEAKERS.items()}
    for speaker, language in SPEAKERS.items():
        spoken = [row["text"] for row in transcripts if row["language"] == language and row["text"] is not None]
        written = [row["text"] for row in labels if row["speaker"] == speaker]
        (known, _), (own, number) = shares_of(spoken), shares_of(written)
        distance = sum(abs(known.get(each, 0) - own.get(each, 0)) for each in known.keys() | own.keys()) / 2
        assert found[language, speaker or "a.ogg"] == (pytest.approx(distance), number)
        assert 0.1 < distance < 0.9


def test_what_is_like_transcripts_weighs_more():
    spoken = ["ena dve", "tri"] * 10
    shares = TrigramShares(made(spoken, ["sl"] * 20, ["x"] * 20))
    texts = [*spoken, *["ena", "ena"] * 10, *["???", ""] * 10]
    labels = made(texts, ["sl"] * 60, ["same"] * 20 + ["other"] * 20 + ["empty"] * 20)
    same, other, empty = shares.distances(labels).values()
    assert same == (pytest.approx(0), 120) and empty == (1, 20) and 0 < other.value < 1
    # of a speaker for whom a teacher has n trigrams, and none has more: exp(-30 d n / (n + 100))
    known = [{("sl", "anna"): each} for each in (same, other, empty)]
    first, second, third = (weights["sl", "anna"] for weights in vote_weights([*known, {}])[:3])
    assert first == pytest.approx(1) and first > second > third
    assert third == pytest.approx(math.exp(-30 * 120 / 220)) and vote_weights([{}, {}]) == [{}, {}]


def test_languages_without_transcripts_are_left_out():
    transcripts = made(["ena", None], ["sl", "de"], ["x", "x"])
    shares = TrigramShares(transcripts)
    assert shares.distances(made(["ena", "eins"], ["sl", "de"], ["a", "a"])).keys() == {("sl", "a")}
    assert shares.distances(made([], [], [])) == {}
    with pytest.raises(ValueError, match="no text among the transcripts"):
        TrigramShares(made([None], ["sl"], ["x"]))
