"""Compares the distances of labels from transcripts with sums over plain dictionaries."""

import csv
import math
import random
import re
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset

from hf_mlpl.data import rows
from hf_mlpl.data.drops import DropFile
from hf_mlpl.data.letter_statistics import (
    Distance,
    TrigramShares,
    drop_misheard,
    mean_excess,
    misheard_speakers,
    vote_weights,
    with_texts,
)
from hf_mlpl.data.selection import DROPPED
from hf_mlpl.labels.schema import LABEL_FEATURES

from ..labels.test_filters import made_label

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
        assert found[language, speaker or "a.ogg"][:2] == (pytest.approx(distance), number)
        assert 0.1 < distance < 0.9


def test_what_is_like_transcripts_weighs_more():
    spoken = ["ena dve", "tri"] * 10
    shares = TrigramShares(made(spoken, ["sl"] * 20, ["x"] * 20))
    texts = [*spoken, *["ena", "ena"] * 10, *["???", ""] * 10]
    labels = made(texts, ["sl"] * 60, ["same"] * 20 + ["other"] * 20 + ["empty"] * 20)
    same, other, empty = shares.distances(labels).values()
    assert same[:2] == (pytest.approx(0), 120) and empty[:2] == (1, 20) and 0 < other.value < 1
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


def test_speech_by_chance_has_the_expected_distance():
    """Trigrams that are drawn from those of transcripts, few or many, are no further than expected, in the mean."""
    rng, letters = np.random.default_rng(3), "abcdefgh"
    probabilities = np.arange(1, 9) / 36

    def texts(count: int) -> list[str]:  # of one letter: two trigrams, each as frequent as the letter
        return ["".join(each) for each in rng.choice(list(letters), (count, 1), p=probabilities)]

    shares = TrigramShares(made(texts(50_000), ["sl"] * 50_000, ["x"] * 50_000))
    for size in (20, 100, 300):
        found = [shares.distances(made(texts(size), ["sl"] * size, ["a"] * size))["sl", "a"] for _ in range(60)]
        values = [each.value for each in found]
        assert np.mean(values) == pytest.approx(found[0].expected, abs=0.03), size
        assert {each.expected for each in found} == {found[0].expected} and found[0].num_trigrams == 2 * size
    # the mean absolute deviation of Poisson variables, as a sum over all counts
    means = shares.shares["sl"][1] * 600
    exact = sum(
        sum(abs(k - m) * math.exp(k * math.log(m) - m - math.lgamma(k + 1)) for k in range(2000)) for m in means
    )
    assert found[0].expected == pytest.approx(exact / 1200)


def of(excess: float, count: int = 1000) -> Distance:
    return Distance(excess + 0.1, count, 0.1)


def test_misheard_speakers_are_far_from_transcripts_and_from_the_median():
    """It is the median of the speech, and those who are at 0.2 or below are never meant."""
    heard = {("sl", "anna"): of(0.1), ("sl", "ben"): of(0.15), ("sl", "cene"): of(0.24)}
    assert misheard_speakers(heard) == {("sl", "cene"): pytest.approx(0.24)}
    assert misheard_speakers(heard | {("sl", "cene"): of(0.22)}) == {}  # 1.5 x 0.15
    assert misheard_speakers({name: of(each.excess / 2) for name, each in heard.items()}) == {}
    assert misheard_speakers(heard | {("sl", "cene"): of(0.24, 3000)}) == {}  # whose speech is the median
    weak = {name: of(each.excess * 3) for name, each in heard.items()}
    assert misheard_speakers(weak) == {("sl", "cene"): pytest.approx(0.72)}  # never all
    assert misheard_speakers({("sl", "anna"): of(0.1), ("sl", "ben"): of(0.6)}) == {}  # of two, nobody is the median
    other = {("de", name): of(0.6) for _, name in heard}
    assert misheard_speakers(heard | other) == {("sl", "cene"): pytest.approx(0.24)}  # by language
    assert misheard_speakers({}) == {}


def test_labels_of_misheard_speakers_are_dropped(tmp_path, caplog):
    rng = random.Random(2)
    words = ["ena", "dve", "tri", "štiri"]
    true = rng.choices(words, k=300)
    speakers = [("anna", "ben", "cene")[n % 3] for n in range(300)]
    heard = ["dve" if who == "cene" else word for word, who in zip(true, speakers, strict=True)]
    labels = made(heard, ["sl"] * 300, speakers).to_list()
    labels = [row | {"source": "teacher", "id": f"label {row['id']}"} for row in labels]
    people = made(words * 20, ["sl"] * 80, ["cene"] * 80).to_list()
    sources = [row | {"source": ("human", "reference", None)[n % 3]} for n, row in enumerate(people)]
    mixed = [*sources, *labels]
    rng.shuffle(mixed)

    def kept_of(utterances: list[dict]) -> tuple[list[str], DropFile]:
        columns = {name: [row[name] for row in utterances] for name in LABEL_FEATURES}
        with DropFile(tmp_path / "dropped.tsv", DROPPED) as drops:
            return drop_misheard(Dataset.from_dict(columns, features=LABEL_FEATURES), drops)["id"][:], drops

    kept, drops = kept_of(mixed)
    lost = [row for row in mixed if row["source"] == "teacher" and row["speaker"] == "cene"]
    assert list(kept) == [row["id"] for row in mixed if row not in lost]
    assert drops.counts == {"misheard speaker": 100}
    listed = list(csv.reader((tmp_path / "dropped.tsv").open(encoding="utf-8"), delimiter="\t"))
    assert listed[0] == list(DROPPED)
    assert listed[1:] == [[row["id"], "misheard speaker", f"{row['duration_seconds']}", "dve"] for row in lost]
    [line] = caplog.messages
    assert line.startswith(
        "sl: 100 pseudo-labels of cene are dropped: their letters are unlike those of transcripts (0."
    )
    for all_kept in (labels, sources, [row for row in mixed if row not in lost], []):
        assert list(kept_of(all_kept)[0]) == [row["id"] for row in all_kept]


def test_the_mean_excess_weighs_speakers_by_their_trigrams():
    distances = {("en", "ann"): Distance(0.5, 300, 0.1), ("sl", "ben"): Distance(0.3, 100, 0.2)}
    assert mean_excess(distances) == pytest.approx((300 * 0.4 + 100 * 0.1) / 400)
    assert mean_excess({}) == 1.0  # as far as nothing else


def test_labels_of_a_sample_are_texts_of_its_speakers():
    speech = made(["x", "y", "z"], ["sl"] * 3, ["anna", None, "ben"])
    labels = with_texts(speech, {2: "ena", 1: "dve"})
    assert labels["id"][:] == [speech["id"][2], speech["id"][1]] and labels["text"][:] == ["ena", "dve"]
    assert labels["speaker"][:] == ["ben", "unnamed"]
    assert mean_excess(TrigramShares(speech).distances(with_texts(speech, {}))) == 1  # where none can be read
