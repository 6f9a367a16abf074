"""Compares the vote on labels with medoids that are found by plain recursion, row by row, and tests the command."""

import random
from functools import lru_cache
from itertools import permutations

import jiwer
import numpy as np
import pyarrow.parquet as pq
import pytest

from hf_mlpl.data.utterances import FEATURES, read_utterances, write_utterances
from hf_mlpl.labels import files as label_files
from hf_mlpl.labels import vote
from hf_mlpl.labels.filtering import filter_labels
from hf_mlpl.labels.filters import DEFAULT_FILTERS, LabelFilter
from hf_mlpl.labels.schema import LABEL_FEATURES
from hf_mlpl.labels.vote import vote_labels

from ..commands import run_command
from .test_filters import made_label


@lru_cache(None)
def edits(one: str, two: str) -> int:
    if not one or not two:
        return len(one) + len(two)
    if one[0] == two[0]:
        return edits(one[1:], two[1:])
    return 1 + min(edits(one[1:], two), edits(one, two[1:]), edits(one[1:], two[1:]))


def distance(one: str, two: str) -> float:
    return edits(one, two) / max(len(one), len(two)) if one or two else 0.0


def means(texts: list[str]) -> list[float]:
    """Returns the mean distance of each text to all others, of two texts or more."""
    others = len(texts) - 1
    return [sum(distance(text, other) for other in texts) / others for text in texts]


def labels_of(teacher: str, texts: dict[int, str], **values) -> list[dict]:
    return [
        made_label(number, text=text, source=teacher, agreement=None, duration_seconds=3.6, **values)
        for number, text in texts.items()
    ]


def written(folder, sets: dict[str, list[dict]]) -> list:
    paths = [folder / f"{name}.parquet" for name in sets]
    for path, rows in zip(paths, sets.values(), strict=True):
        write_utterances(rows, path, LABEL_FEATURES)
    return paths


def voted(paths, output, **options):
    report = vote_labels(paths, output, **options)
    return {row["id"]: row for row in pq.read_table(output).to_pylist()}, report


@pytest.fixture
def random_sets(tmp_path, monkeypatch):
    """Writes labels of four teachers in orders of their own, in several blocks; each lacks some utterances."""
    monkeypatch.setattr(label_files, "BLOCK", 7)
    monkeypatch.setattr(vote, "BLOCK", 16)
    rng, sets = random.Random(3), {}
    for teacher in "abcd":
        texts = {n: "".join(rng.choices("xy", k=rng.choice([0, 2, 2, 2, 5]))) for n in rng.sample(range(150), 120)}
        rows = labels_of(teacher, texts)
        for row in rows:
            row["letter_log_prob"] = rng.choice([None, -3.0, -2.0, -1.0])
            row["mean_log_prob"] = rng.random()
        sets[teacher] = rows
    return sets, written(tmp_path, sets)


def test_the_label_nearest_to_all_others_wins(random_sets, tmp_path):
    sets, paths = random_sets
    found, report = voted(paths, tmp_path / "out.parquet", allow_collapsed=True)
    by_id = {}
    for teacher, rows in sets.items():
        for row in rows:
            by_id.setdefault(row["id"], {})[teacher] = row
    assert list(found) == list(by_id)  # in the order of the first teacher, then what others alone have
    kinds = {"single": 0, "all": 0, "two": 0, "tie": 0}
    for name, labels in by_id.items():
        texts = [row["text"] for row in labels.values()]
        mean = means(texts) if len(texts) > 1 else [0.0]
        least = min(mean)
        near = [row for row, each in zip(labels.values(), mean, strict=True) if each == pytest.approx(least)]
        best = max(near, key=lambda row: -9.0 if row["letter_log_prob"] is None else row["letter_log_prob"])
        agreement = pytest.approx(1 - least, abs=1e-8) if len(texts) > 1 else None
        empty_fields = {"audio": best["audio"] | {"offset": None, "size": None}}
        assert found[name] == best | empty_fields | {"agreement": agreement}
        kinds["single"] += len(texts) == 1
        kinds["all"] += len(texts) > 1 and len(set(texts)) == 1
        kinds["two"] += len(set(texts)) < len(texts)
        kinds["tie"] += len({row["text"] for row in near}) > 1
    assert min(kinds.values()) > 0
    counts = (report.single, report.all_agree, report.two_agree, report.utterances)
    assert [each["sl"] for each in counts] == [kinds["single"], kinds["all"], kinds["two"], len(by_id)]
    assert report.empty["sl"] == sum(row["text"] == "" for row in found.values()) > 0
    assert report.hours["sl"] == pytest.approx(len(by_id) / 1000)
    known = [row["agreement"] for row in found.values() if row["agreement"] is not None]
    assert report.mean_agreement("sl") == pytest.approx(np.mean(known))
    chosen = {str(path): sum(row["source"] == path.stem for row in found.values()) for path in paths}
    assert {teacher: count for (_, teacher), count in report.chosen.items()} == chosen
    assert {teacher: count for (_, teacher), count in report.labels.items()} == dict.fromkeys(map(str, paths), 120)


def test_the_order_of_teachers_decides_only_between_equals(random_sets, tmp_path):
    sets, paths = random_sets
    first, _ = voted(paths, tmp_path / "out.parquet", allow_collapsed=True)
    changed = 0
    for order in list(permutations(paths))[1::5]:
        other, _ = voted(order, tmp_path / "out.parquet", allow_collapsed=True)
        assert other.keys() == first.keys()
        for name, row in other.items():
            assert row["agreement"] == first[name]["agreement"]
            if row["text"] != first[name]["text"]:
                assert row["letter_log_prob"] == first[name]["letter_log_prob"]
                changed += 1
    assert changed


def test_votes_on_a_speaker_weigh_by_what_transcripts_are_like(tmp_path):
    """Of each speaker two teachers make the same mistakes, and another one is right."""
    words, rng = ["ena", "dve", "tri", "štiri"], random.Random(7)
    spoken = {n: rng.choice(words) for n in range(200)}
    speakers = {n: ("anna", "ben")[n % 2] for n in spoken}

    def heard(mistakes: dict[str, dict[str, str]]) -> dict[int, str]:
        return {n: mistakes.get(speakers[n], {}).get(word, word) for n, word in spoken.items()}

    wrong = {"ena": "dve", "štiri": "tri"}
    texts = {
        "one": heard({"anna": wrong}),
        "two": heard({"anna": wrong, "ben": wrong}),
        "three": heard({"ben": wrong}),
    }
    sets = {name: labels_of(name, own) for name, own in texts.items()}
    for row in [row for rows in sets.values() for row in rows]:
        row["speaker"] = speakers[int(row["id"][1:])]
    paths, output = written(tmp_path, sets), tmp_path / "out.parquet"
    transcripts = [row | {"text": words[n % 4], "language": "sl"} for n, row in enumerate(sets["one"])]
    write_utterances(transcripts, tmp_path / "train.parquet", LABEL_FEATURES)
    known = read_utterances([tmp_path / "train.parquet"])
    plain, report = voted(paths, output)
    assert not report.distances
    weighted, report = voted(paths, output, transcripts=known)
    for speaker in ("anna", "ben"):
        own = [n for n in spoken if speakers[n] == speaker]
        assert sum(plain[f"u{n}"]["text"] != spoken[n] for n in own) > 40
        assert all(weighted[f"u{n}"]["text"] == spoken[n] for n in own)
    for name, row in weighted.items():  # the score is of equal votes
        others = [own[int(name[1:])] for own in texts.values()]
        others.remove(row["text"])
        assert row["agreement"] == pytest.approx(1 - np.mean([distance(row["text"], other) for other in others]))
    nearest = {name: report.distances["sl", str(path)] for name, path in zip(texts, paths, strict=True)}
    assert max(nearest, key=nearest.get) == "two" and all(0 < each < 1 for each in nearest.values())
    # Transcripts of another language change nothing.
    write_utterances([row | {"language": "de"} for row in transcripts], tmp_path / "train.parquet", LABEL_FEATURES)
    again, report = voted(paths, output, transcripts=read_utterances([tmp_path / "train.parquet"]))
    assert again == plain and not report.distances


def test_conventions_do_not_matter_and_the_row_is_the_teachers_own(tmp_path):
    sets = {
        "one": labels_of("one", {0: "Dobro jutro, Ana!", 1: "tri"}, letter_log_prob=-2.0),
        "two": labels_of("two", {0: "dobro jutro ana", 1: ""}, letter_log_prob=-1.0),
        "three": labels_of("three", {0: "dobro utro", 1: ""}, letter_log_prob=None),
    }
    found, report = voted(written(tmp_path, sets), tmp_path / "out.parquet")
    assert found["u0"]["text"] == "dobro jutro ana" and found["u0"]["source"] == "two"
    assert found["u0"]["agreement"] == pytest.approx(1 - 5 / 15 / 2)
    assert found["u1"]["text"] == "" and found["u1"]["agreement"] == 0.5 and found["u1"]["source"] == "two"
    assert report.two_agree["sl"] == 2 and report.all_agree["sl"] == 0 and report.empty["sl"] == 1


def test_filters_on_agreement(tmp_path):
    whole = {n: 10 * letter for n, letter in enumerate("abcdefghij")}
    sets = {
        "one": labels_of("one", whole | {10: "alone"}),
        "two": labels_of("two", {n: text[: 10 - n] for n, text in whole.items()}),
    }
    paths, output = written(tmp_path, sets), tmp_path / "out.parquet"
    found, _ = voted(paths, output)
    assert {name: row["agreement"] for name, row in found.items()} == {
        f"u{n}": pytest.approx(1 - n / 10) if n < 10 else None for n in range(11)
    }
    for condition, kept in (("agreement >= 0.75", 3), ("agreement >= 50%", 5)):
        filter_labels([output], [*DEFAULT_FILTERS, LabelFilter(condition)], tmp_path / "kept.parquet")
        rows = pq.read_table(tmp_path / "kept.parquet").to_pylist()
        assert [row["id"] for row in rows] == [f"u{n}" for n in range(kept)], condition


def test_folders_patterns_and_files_of_languages(tmp_path):
    """A teacher is a folder of languages, a pattern, or one file; each other file is a teacher of its own."""
    for teacher in ("a", "b"):
        for number, language in enumerate(("sl", "de")):
            folder = tmp_path / teacher / language
            (folder / "shards").mkdir(parents=True)
            rows = labels_of(teacher, {n + 10 * number: f"{teacher} {n}" for n in range(5)}, language=language)
            write_utterances(rows, folder / "labels.parquet", LABEL_FEATURES)
            write_utterances(rows, folder / "shards" / "00000.parquet", LABEL_FEATURES)
    output = tmp_path / "out.parquet"
    folders, report = voted([tmp_path / "a", tmp_path / "b"], output)
    assert report.utterances == {"sl": 5, "de": 5} and len(folders) == 10
    assert voted([tmp_path / "a" / "*" / "labels.parquet", tmp_path / "b"], output)[0] == folders
    apart = sorted(tmp_path.glob("?/*/labels.parquet"))  # as a shell would expand them
    assert voted(apart, output)[0].items() == folders.items()
    by_language, report = voted([tmp_path / "a" / "sl", tmp_path / "b"], output)
    assert list(by_language) == [f"u{n}" for n in [*range(5), *range(10, 15)]]
    assert report.single == {"sl": 0, "de": 5}


def test_what_is_refused(tmp_path):
    output = tmp_path / "out.parquet"
    texts = {n: f"text {n}" for n in range(12)}
    one, two, again = written(tmp_path, {name: labels_of(name, texts) for name in ("one", "two", "again")})

    def error(*teachers, **options) -> str:
        with pytest.raises(ValueError) as raised:
            vote_labels(teachers, output, **options)
        assert not output.exists() and not list(tmp_path.glob(".*voting*")) and "\n" not in str(raised.value)
        return str(raised.value).replace(f"{tmp_path}/", "")

    def other(number: int = 3, **values) -> str:
        rows = labels_of("again", texts)
        rows[number] |= values
        write_utterances(rows, again, LABEL_FEATURES)
        return error(one, two, again).partition(";")[0]

    assert other(duration_seconds=4.0) == "again.parquet: duration_seconds of u3 is 4.0 and not 3.6 as in one.parquet"
    assert other(language="de") == "again.parquet: language of u3 is de and not sl as in one.parquet"
    audio = {"path": "a.ogg", "start": None, "end": None}
    assert (
        other(audio=audio | {"path": "b.ogg"}) == "again.parquet: audio of u3 is b.ogg and not a.ogg as in one.parquet"
    )
    assert (
        other(audio=audio | {"end": 2.0}) == "again.parquet: audio of u3 is a.ogg, 2.0 and not a.ogg as in one.parquet"
    )
    assert other(id="u4").startswith("again.parquet: has several labels of 1 utterances, u4 among them")
    for person in ("human", "reference", None):
        assert other(source=person).startswith(
            "again.parquet: has texts of people (source is human, reference or null)"
        )
    assert error(one).startswith("one.parquet: labels of two teachers or more can vote")
    assert error(one, two, one).startswith("one.parquet: is named twice, by one.parquet and one.parquet")
    assert error(one, tmp_path / "none").startswith(
        "none: no such file or folder of labels; `hf-mlpl join-labels` makes"
    )
    (tmp_path / "labels.csv").write_text("id,text\nu0,a\n")
    assert error(one, tmp_path / "labels.csv").startswith(
        "labels.csv: is no Parquet file of labels; `hf-mlpl join-labels`"
    )
    write_utterances(
        [dict.fromkeys(FEATURES) | one_row for one_row in pq.read_table(one).select(list(FEATURES)).to_pylist()], again
    )
    assert "has no column" in error(one, again)
    write_utterances(labels_of("x", {n + 50: "x" for n in range(3)}), again, LABEL_FEATURES)
    assert error(one, again).startswith(
        "no utterance has labels of two teachers (one.parquet has 'u0', again.parquet has 'u50'); `hf-mlpl join-labels"
    )
    write_utterances([], again, LABEL_FEATURES)
    assert error(again, two).startswith("no utterance has labels of two teachers (two.parquet has 'u0')")
    vote_labels([one, two, again], output)  # a teacher without labels does no harm
    assert pq.read_metadata(output).num_rows == 12


def test_collapsed_labels(tmp_path, caplog):
    texts = {n: f"text {n}" for n in range(12)}
    empty = dict.fromkeys(texts, "")
    paths = written(
        tmp_path, {name: labels_of(name, each) for name, each in zip("abc", (texts, texts, empty), strict=True)}
    )
    found, report = voted(paths, tmp_path / "out.parquet")
    assert {row["text"] for row in found.values()} == {*texts.values()} and report.empty["sl"] == 0
    assert report.mean_agreement("sl") == 0.5 and report.two_agree["sl"] == 12 and report.all_agree["sl"] == 0
    assert [line for line in caplog.messages if "c.parquet: sl: 100% of 12 pseudo-labels are empty" in line]
    write_utterances(labels_of("b", empty), paths[1], LABEL_FEATURES)
    (tmp_path / "out.parquet").write_text("before")
    with pytest.raises(
        ValueError, match="sl: 100% of 12 pseudo-labels are empty: .*--allow-collapsed writes the votes"
    ):
        vote_labels(paths, tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").read_text() == "before"  # what is there stays
    vote_labels(paths, tmp_path / "out.parquet", allow_collapsed=True)
    assert pq.read_table(tmp_path / "out.parquet")["text"].unique().to_pylist() == [""]


def test_the_command(tmp_path, capfd, error_of):
    """Shows error rates of teachers and of what they agree on, which are those of jiwer."""
    rng = random.Random(1)
    spoken = {n: " ".join(rng.choices(["ena", "dve", "tri", "štiri", "pet"], k=3)) for n in range(40)}

    def heard(share: float) -> dict[int, str]:
        words = {n: [word if rng.random() > share else "nič" for word in text.split()] for n, text in spoken.items()}
        return {n: " ".join(each) for n, each in words.items()}

    texts = {name: heard(0.3) for name in ("one", "two", "three")}
    del texts["three"][7]
    paths = written(tmp_path, {name: labels_of(name, each) for name, each in texts.items()})
    references = [
        dict.fromkeys(FEATURES) | {name: row[name] for name in FEATURES} | {"text": spoken[n], "source": "human"}
        for n, row in enumerate(labels_of("human", spoken))
        if n % 2
    ]
    write_utterances(references, tmp_path / "true.parquet")
    output = tmp_path / "out.parquet"
    known = ["--references", tmp_path / "true.parquet"]
    assert run_command("vote_labels.py", *paths, "--output", output, *known) == 0
    printed = capfd.readouterr().out
    labels = {int(row["id"][1:]): row["text"] for row in pq.read_table(output).to_pylist()}
    _, report = voted(paths, output, references=read_utterances([tmp_path / "true.parquet"]))
    sets = {str(path): texts[path.stem] for path in paths} | {"the vote": labels}
    for name, count in (("all agree", 1), ("two agree", 2)):
        votes = {n: [each[n] for each in texts.values() if n in each] for n in spoken}
        sets[name] = {
            n: labels[n] for n, each in votes.items() if len(set(each)) <= count and len(set(each)) < len(each)
        }
    for name, own in sets.items():
        pairs = [(spoken[n], text) for n, text in own.items() if n % 2]
        cer = jiwer.cer(*map(list, zip(*pairs, strict=True)))
        assert report.cer("sl", name) == pytest.approx(cer), name
        assert f"{name:{max(map(len, sets))}}  {100 * cer:4.1f}\n" in printed
    head, row = printed.splitlines()[:2]
    assert head.split() == "language utterances hours all agree two agree empty mean agreement".split()
    shares = (f"{100 * each['sl'] / 40:.1f}" for each in (report.all_agree, report.two_agree))
    assert row.split() == [
        "sl",
        "40",
        "0.04",
        *(word for each in shares for word in (each, "%")),
        "0",
        f"{report.mean_agreement('sl'):.3f}",
    ]
    assert "three.parquet" in printed and f"labels: {output}; next: " in printed and "one teacher alone" not in printed

    transcripts = ["--transcripts", tmp_path / "true.parquet"]
    assert run_command("vote_labels.py", *paths, "--output", output, *known, *transcripts) == 0
    weighted = capfd.readouterr().out
    assert [line.split()[1:] for line in weighted.splitlines() if line.startswith("teacher")] == [
        "sl labels sl kept sl distance".split()
    ]
    fields = [line.split() for line in weighted.splitlines() if line.startswith(str(tmp_path))]
    distances = [float(each[3]) for each in fields if len(each) == 4]
    assert len(distances) == 3 and all(0 < distance < 1 for distance in distances)

    assert run_command("vote_labels.py", *paths[1:], "--output", output) == 0
    printed = capfd.readouterr().out
    assert "sl: 1 of 40 utterances have the label of one teacher alone" in printed and "CER" not in printed
    other = [row | {"id": f"x{row['id']}"} for row in references]
    write_utterances(other, tmp_path / "true.parquet")
    assert error_of("vote_labels.py", *paths, "--output", output, *known) == (
        "none of 40 labels is of an utterance with a text among the references"
    )
    assert error_of("vote_labels.py", paths[0], "--output", output).startswith(f"{paths[0]}: labels of two teachers")
