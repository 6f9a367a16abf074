"""Compares the agreement of label sets with its definition, computed by recursion, and tests the command."""

import random
from functools import lru_cache
from itertools import combinations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.labels import files as label_files
from hf_mlpl.labels.agreement import agreement, other_labels
from hf_mlpl.labels.files import TableSettings
from hf_mlpl.labels.join import find_label_set
from hf_mlpl.labels.schema import LABEL_FEATURES

from .test_filters import made_label


def by_definition(texts: list[str | None]) -> float | None:
    """Returns the mean over pairs of 1 - edit distance / length of the longer text, for texts in one convention."""

    @lru_cache(None)
    def distance(one: str, two: str) -> int:
        if not one or not two:
            return len(one) + len(two)
        if one[0] == two[0]:
            return distance(one[1:], two[1:])
        return 1 + min(distance(one[1:], two), distance(one, two[1:]), distance(one[1:], two[1:]))

    pairs = list(combinations([text for text in texts if text is not None], 2))
    if not pairs:
        return None
    return sum(1 - distance(a, b) / max(len(a), len(b)) if a or b else 1.0 for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("num_sets", [1, 2, 4])
def test_it_is_the_mean_over_pairs(num_sets):
    rng = random.Random(num_sets)

    def text() -> str | None:
        return None if rng.random() < 0.3 else "".join(rng.choices("abč", k=rng.randint(0, 8)))

    rows = [
        [" ".join(made.split()) if (made := text()) is not None else None for _ in range(num_sets)] for _ in range(300)
    ]
    found = agreement([pa.array(column, pa.string()) for column in zip(*rows, strict=True)]).to_pylist()
    expected = [by_definition(row) for row in rows]
    assert [value is None for value in found] == [value is None for value in expected]
    assert [v for v in found if v is not None] == pytest.approx([v for v in expected if v is not None])
    if num_sets > 1:
        assert {0.0, 1.0} <= {*found} and None in found


def test_conventions_of_teachers_do_not_matter():
    one = pa.array(["Dobro jutro, Ana!", "STRASSE", "wie geht's", "…", "20 ljudi"])
    two = pa.array(["dobro jutro ana", "Strasse.", "Wie geht’s?", "", "dvajset ljudi"])
    found = agreement([one, two]).to_pylist()
    assert found[:2] == [1.0, 1.0] and found[3] == 1.0 and found[4] == pytest.approx(1 - 7 / 13)
    assert found[2] == pytest.approx(0.9)  # another apostrophe is another letter
    assert agreement([pa.array([], pa.string())] * 2).to_pylist() == []


def test_label_sets_of_any_form(tmp_path, monkeypatch):
    """Found by id in files of any order, block by block, and by language in folders of languages."""
    monkeypatch.setattr(label_files, "BLOCK", 3)
    rows = [made_label(n, text=f"text {n}", language="sl" if n % 2 else "de") for n in range(20)]
    path = tmp_path / "labels.parquet"
    write_utterances(rows, path, LABEL_FEATURES)
    utterances = read_utterances([path])
    shuffled = random.Random(0).sample(rows[:15], 15)
    table = tmp_path / "theirs.csv"
    table.write_text("utt,said\n" + "".join(f"{row['id']}.wav,{row['text']}x\n" for row in shuffled) + "other,x\n")
    settings = TableSettings({"id": "utt", "text": "said"})
    found = other_labels(find_label_set(str(table)), utterances, settings)
    assert found.texts.to_pylist() == [f"text {n}x" for n in range(15)] + [None] * 5 and found.unmatched == {-1: 1}
    for language in ("sl", "de"):
        (tmp_path / "set" / language).mkdir(parents=True)
        theirs = [{"id": row["id"], "text": language} for row in rows]  # also of ids of the other language
        pq.write_table(pa.Table.from_pylist(theirs), tmp_path / "set" / language / "a.parquet")
    found = other_labels(find_label_set(str(tmp_path / "set")), utterances)
    assert found.texts.to_pylist() == ["sl" if n % 2 else "de" for n in range(20)] and found.unmatched == {-1: 20}


def test_the_command(tmp_path, capfd, error_of, caplog):
    from ..commands import run_command

    texts = ["Dobro jutro, Ana.", "Kako si danes?", "Popolnoma drugo", "Nihče drug", "Enako"]
    folder = tmp_path / "mine"
    folder.mkdir()
    rows = [made_label(n, text=text, agreement=None) for n, text in enumerate(texts)]
    write_utterances(rows, folder / "labels.parquet", LABEL_FEATURES)
    other = tmp_path / "other.tsv"
    other.write_text(
        "id\ttext\nu0\tdobro jutro ana\nu1\tkako si danes\nu2\tte besede ne\nu4\tenako\nu9\tx\nu0\tdobro jutro ana\n"
    )
    (tmp_path / "third").mkdir()
    write_utterances(
        [made_label(0, text="DOBRO"), made_label(1, text="Kako si")],
        tmp_path / "third" / "labels.parquet",
        LABEL_FEATURES,
    )
    filters = tmp_path / "filters.yaml"
    filters.write_text("filter: [agreement >= 0.9]\n")
    command = ["filter_labels.py", folder / "labels.parquet", "--output", tmp_path / "kept.parquet"]
    assert error_of(*command, "--filters", filters).startswith(
        "'agreement >= 0.9' cannot hold: none of 5 labels has a value of agreement; --agreement-with or "
        "`hf-mlpl vote-labels` computes it; "
    )
    assert run_command(*command, "--filters", filters, "--agreement-with", other) == 0
    output = capfd.readouterr().out
    counts = "1 of theirs: the same label is there already, 1 of theirs: no audio"
    assert f"{other}: labels 4 of 5 utterances, {counts}\n" in output
    assert "agreement >= 0.9: drops 1 of 5 labels that have no agreement" in caplog.messages
    kept = pq.read_table(tmp_path / "kept.parquet").to_pylist()
    assert [(row["id"], row["text"], row["agreement"]) for row in kept] == [
        (f"u{n}", texts[n], 1.0) for n in (0, 1, 4)
    ]
    normalize = tmp_path / "normalize.yaml"
    normalize.write_text("'*': {lowercase: true, strip_punctuation: true}\n")
    third = ["--agreement-with", other, tmp_path / "third", "--normalize", normalize]
    assert run_command(*command, *third) == 0
    kept = pq.read_table(tmp_path / "kept.parquet").to_pylist()
    assert [row["text"] for row in kept[:2]] == ["dobro jutro ana", "kako si danes"]
    assert kept[0]["agreement"] == pytest.approx((1 + 2 * 5 / 15) / 3) and kept[3]["agreement"] is None
    (tmp_path / "none.csv").write_text("id,text\nno,x\n")
    assert error_of(*command, "--agreement-with", tmp_path / "none.csv") == (
        f"{tmp_path}/none.csv: has no label of these utterances, so that nothing can be compared"
    )
