"""Tests tables of labels of others: their columns and forms, and which utterances their names mean: no wrong one."""

import csv
import gzip
import json
import random
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from huggingface_hub import HfApi

from hf_mlpl.audio.reading import AUDIO_SUFFIXES
from hf_mlpl.data.utterances import FEATURES, read_utterances, write_utterances
from hf_mlpl.labels.files import LabelFileError, TableSettings
from hf_mlpl.labels.join import find_label_set, join_labels
from hf_mlpl.labels.matching import FOREIGN, NONE, READ, SEVERAL, UtteranceNames

from .test_join import joined, unmatched

EVENT = "20190117-0900-PLENARY-3_{}_{}"  # an id of VoxPopuli


def utterance(name: str, path: str = "long.ogg", language: str = "sl", seconds: float = 3.0, **audio) -> dict:
    place = {"path": path, **dict.fromkeys(("offset", "size", "start", "end")), **audio}
    return dict.fromkeys(FEATURES) | {"id": name, "audio": place, "duration_seconds": seconds, "language": language}


def read(rows: list[dict], folder: Path) -> Dataset:
    write_utterances(rows, folder / "local.parquet")
    return read_utterances([folder / "local.parquet"])


@pytest.fixture
def parliament(tmp_path) -> Dataset:
    """Has the ids of `prepare-data --voxpopuli`: parts of long recordings, in two languages."""
    return read(
        [
            utterance(EVENT.format(code, n), f"/vp/{code}.ogg", locale, start=3.0 * n, end=3.0 * n + 3)
            for code, locale in (("sl", "sl"), ("sv", "sv-SE"))
            for n in range(6)
        ],
        tmp_path,
    )


def texts_of(path: Path) -> dict[str, str]:
    return {name: row["text"] for name, row in joined(path).items()}


def test_mosel(parliament, local_hub, tmp_path):
    """Folders of languages with tsv files, VoxPopuli's ids, names of languages in English, and flags of loops."""
    columns = ("id", "language", "text", "hall_repeated_ngrams", "hall_long_word", "hall_frequent_single_word")
    HfApi().create_repo("me/mosel", repo_type="dataset")
    for code, language in (("sl", "slovenian"), ("sv", "swedish"), ("de", "german")):
        rows = [
            "\t".join((EVENT.format(code, n), language, f'"Tako," je {n}.', "False", "False", "False"))
            for n in range(7)
        ]
        content = "\n".join(["\t".join(columns), *rows]).encode()
        HfApi().upload_file(
            path_or_fileobj=content, path_in_repo=f"{code}/voxpopuli.tsv", repo_id="me/mosel", repo_type="dataset"
        )
    num_requests = len(local_hub.requests)
    files = find_label_set("me/mosel", ["sl", "sv-SE"])
    assert list(files) == ["sl", "sv-SE"]
    assert not [request for request in local_hub.requests[num_requests:] if "de/voxpopuli" in request.path]
    report = join_labels(files, parliament, tmp_path / "out.parquet")
    assert texts_of(tmp_path / "out.parquet") == {
        EVENT.format(code, n): f'"Tako," je {n}.' for code in ("sl", "sv") for n in range(6)
    }
    assert (report.joined, report.no_audio, report.no_label, report.by_name) == (12, 2, 0, 0)
    assert {row["mean_log_prob"] for row in joined(tmp_path / "out.parquet").values()} == {None}
    assert "mean_log_prob" in report.absent and "agreement" in report.absent
    with pytest.raises(ValueError, match="me/mosel: no labels of fi"):
        find_label_set("me/mosel", ["fi"])


def test_granary_and_other_manifests(parliament, tmp_path):
    """NeMo's fields, paths to wav files, and translations, which are never joined."""
    rows = [
        {
            "utt_id": f"granary-{n}",
            "audio_filepath": f"/data/granary/{folder}/{EVENT.format(code, n)}.wav",
            "duration": 3.0,
            "text": f"Text {n}.",
            "source_lang": code,
            "target_lang": code if n else "en",
            "taskname": "asr" if n else "ast",
        }
        for code, folder in (("sl", "2019"), ("sv", "sv_2019"))
        for n in range(6)
    ]
    path = tmp_path / "sl_asr.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "sl_asr.parquet")
    for name in (path, tmp_path / "sl_asr.parquet"):
        report = join_labels(find_label_set(str(name)), parliament, tmp_path / "out.parquet")
        assert texts_of(tmp_path / "out.parquet") == {
            EVENT.format(code, n): f"Text {n}." for code in ("sl", "sv") for n in range(1, 6)
        }
        assert (report.by_name, report.unreadable, report.no_label, report.other_duration) == (10, 2, 2, 0)
        reasons = {what for _, what in unmatched(tmp_path / "out.parquet").values()}
        assert reasons == {
            "its text is a translation from sl to en",
            "its text is a translation from sv to en",
            "no label",
        }


CASES = [  # a label's name, its path, and the only utterance that it may mean
    ("a/clips/one", None, "a/clips/one"),
    ("a/clips/one.WAV", None, "a/clips/one"),
    ("./clips/one.mp3", None, SEVERAL),  # of a and of b
    ("b\\clips\\one.flac", None, "b/clips/one"),
    ("/mnt/disk/b/clips/one.flac", None, "b/clips/one"),
    ("c/clips/one.flac", None, NONE),
    ("one", None, SEVERAL),
    ("clips/two", None, "a/clips/two"),
    ("two.ogg", None, "a/clips/two"),
    ("sl_two.ogg", None, "a/clips/two"),
    ("de_two.ogg", None, NONE),  # another language than its utterance
    ("SL_two", None, "a/clips/two"),
    ("wo", None, NONE),
    ("0007", None, NONE),  # of digits alone
    ("speaker/0007.wav", None, "speaker/0007"),
    ("other/0007.wav", None, NONE),
    ("9", None, "9"),
    ("x/9.wav", None, NONE),
    ("sv_SE_drei", None, "drei"),
    ("sv_drei.opus", None, "drei"),
    ("sl_drei", None, NONE),
    ("named", None, "sl_named"),
    ("z\u030cena.wav", None, "\u017eena"),  # in another form of Unicode
    ("", None, NONE),
    (".wav", None, NONE),
    (None, "clips/whole.flac", "x-1"),
    (None, "/there/clips/whole.flac", NONE),  # it may be another corpus
    (None, "/here/clips/whole.wav", "x-1"),
    (None, "/here/clips/part.wav", NONE),  # utterances are parts of it
    ("x-1", "/here/clips/whole.wav", "x-1"),
    ("x-1", "b/clips/one.wav", SEVERAL),  # they contradict each other
    ("no id of ours", "b/clips/one.wav", "b/clips/one"),
    ("one", "b/clips/one.wav", "b/clips/one"),
    ("x-1", "unknown.wav", "x-1"),
    ("audio", None, SEVERAL),  # of more utterances than are looked at
    ("f7/audio.wav", None, "f7/audio"),
]


def test_names_mean_one_utterance_or_none(tmp_path):
    rows = [utterance(f"{name}", f"/corpus/{name}.wav") for name in ("a/clips/one", "b/clips/one", "a/clips/two")]
    rows += [utterance("speaker/0007"), utterance("9"), utterance("drei", language="sv-SE"), utterance("sl_named")]
    rows += [utterance("\u017eena")]
    rows += [utterance("x-1", "/here/clips/whole.flac")]
    rows += [utterance(f"p{n}", "/here/clips/part.wav", start=n, end=n + 1.0) for n in range(2)]
    rows += [utterance(f"f{n}/audio", f"/many/f{n}/audio.wav") for n in range(120)]
    local = read(rows, tmp_path)
    labels = pa.Table.from_pylist([{"id": name, "path": path} for name, path, _ in CASES], schema=READ.arrow_schema)
    found, is_exact = UtteranceNames(local).find(labels)
    names = [int(row) if row < 0 else rows[row]["id"] for row in found]
    assert dict(zip(map(str, CASES), names, strict=True)) == {str(case): case[2] for case in CASES}
    for row, exact, (name, _, _) in zip(found, is_exact, CASES, strict=True):
        assert exact == (row >= 0 and rows[row]["id"] == name)


def test_names_by_chance_against_a_plain_search(tmp_path):
    """No index is needed to say which utterances end as a name does."""
    rng = random.Random(0)
    words, codes = ["a", "b", "12", "a_b", "sl_a", "sv_b", "de"], {"sl": ("sl",), "sv-SE": ("sv-SE", "sv_SE", "sv")}

    def some_name() -> str:
        suffix = rng.choice(["", "", ".wav", ".MP3", ".x"])
        return "/".join(rng.choice(words) for _ in range(rng.randint(1, 3))) + suffix

    rows = [utterance(name, language=rng.choice(list(codes)), start=0.5) for name in {some_name() for _ in range(60)}]
    names = [some_name() for _ in range(400)]

    def parts(name: str) -> list[str]:
        stem, dot, suffix = name.rpartition(".")
        return (stem if dot and "." + suffix.lower() in AUDIO_SUFFIXES else name).split("/")

    def without(stem: str, language: str) -> str:
        return next((stem[len(c) + 1 :] for c in codes[language] if stem.startswith(f"{c}_")), stem)

    def is_meant(name: str, row: dict) -> bool:
        one, two = parts(name), parts(row["id"])
        shared, digits = min(len(one), len(two)), without(one[-1], row["language"]).isdigit()
        if digits and shared == 1 and one != two:
            return False
        one[-1], two[-1] = (without(each[-1], row["language"]) for each in (one, two))
        return one[-shared:] == two[-shared:]

    local = read(rows, tmp_path)
    labels = pa.Table.from_pylist([{"id": name} for name in names], schema=READ.arrow_schema)
    found, _ = UtteranceNames(local).find(labels)
    ids = [other["id"] for other in rows]
    for name, row in zip(names, found.tolist(), strict=True):
        matching = [n for n, other in enumerate(rows) if is_meant(name, other)]
        # one folder in common, or none at all on both sides
        nearer = [n for n in matching if len(parts(ids[n])[-2:]) == len(parts(name)[-2:])] or matching
        expected = NONE if not nearer else nearer[0] if len(nearer) == 1 else SEVERAL
        assert row == (ids.index(name) if name in ids else expected), name


def test_labels_that_say_another_language(parliament, tmp_path):
    """They are listed and not joined; names of languages in words say nothing."""
    names = {"sl": ["sl", "SL_si", "slovenian", "slv", "sv", "no"], "sv": ["sv", "sv_SE", "", "no", "sl", "Swedish"]}
    rows = [
        {"id": EVENT.format(code, n), "text": f"a {n}", "lang": name}
        for code in names
        for n, name in enumerate(names[code])
    ]
    table = tmp_path / "mine.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    report = join_labels(find_label_set(str(table)), parliament, tmp_path / "out.parquet")
    foreign = [EVENT.format(*name) for name in (("sl", 4), ("sl", 5), ("sv", 3), ("sv", 4))]
    assert set(texts_of(tmp_path / "out.parquet")) == {row["id"] for row in rows} - set(foreign)
    assert (report.unmatched, report.no_label) == ({FOREIGN: 4}, 4)
    assert (tmp_path / "out.unmatched.tsv").read_text().count("the label says another language") == 4


def test_labels_of_one_utterance(parliament, tmp_path):
    """An exact id goes before other spellings; equal texts count once, and different ones are doubtful or refused."""
    exact, spelled = EVENT.format("sl", 0), [EVENT.format("sl", n) for n in range(1, 4)]
    table = tmp_path / "mine.csv"
    rows = [
        ("x/" + exact + ".wav", "another"),
        (exact, "right"),
        (exact, "right"),
        (f"sl_{spelled[0]}", "one"),
        (f"y/{spelled[0]}", "two"),
        (f"y/{spelled[1]}", "same"),
        (f"z/{spelled[1]}", "sa\u00adme\u200b "),  # nobody sees a difference
        (spelled[2], "alone"),
    ]
    table.write_text("id;text\n" + "".join(f"{name};{text}\n" for name, text in rows))
    report = join_labels(find_label_set(str(table)), parliament, tmp_path / "out.parquet")
    assert texts_of(tmp_path / "out.parquet") == {exact: "right", spelled[1]: "same", spelled[2]: "alone"}
    reasons = unmatched(tmp_path / "out.parquet")
    for name in (rows[0][0], rows[3][0], rows[4][0]):
        assert reasons[name][1] == "several utterances or labels have this name"
    assert reasons[exact][1] == reasons[f"z/{spelled[1]}"][1] == "the same label is there already"
    assert (report.joined, report.by_name, report.no_audio, report.no_label) == (3, 1, 0, 9)
    table.write_text(table.read_text() + f"{exact};wrong\n")
    with pytest.raises(ValueError, match=f"second label of '{exact}', with another text; leave one of them out"):
        join_labels(find_label_set(str(table)), parliament, tmp_path / "none.parquet")
    assert not (tmp_path / "none.parquet").exists()


def test_parts_of_recordings(tmp_path):
    """A row of a part is of the utterance that is this part, or of none; a whole recording has its length."""
    rows = [utterance("talk", "/c/talk.wav", seconds=60.0), utterance("short", "/c/short.wav", seconds=5.0)]
    rows += [utterance("long_10.5-12.0", "/c/long.wav", seconds=1.5, start=10.5, end=12.0)]
    local = read(rows, tmp_path)
    table = [
        {"audio_filepath": "/d/c/talk.wav", "offset": 10.0, "duration": 5, "text": "a part"},
        {"audio_filepath": "/d/c/talk.wav", "offset": 0, "duration": 5.0, "text": "another part"},
        {"audio_filepath": "/c/short.wav", "offset": 0, "duration": 5.04, "text": "all of it"},
        {"audio_filepath": "/c/long.wav", "offset": 10.5, "duration": 1.5, "text": "that part"},
        {"audio_filepath": "/c/long.wav", "offset": 12.0, "duration": 1.5, "text": "no such part"},
        {"audio_filepath": "/c/long.wav", "offset": -1, "duration": 1.5, "text": "no place"},
        {"audio_filepath": None, "text": "no name"},
    ]
    path = tmp_path / "parts.json"
    path.write_text("\n".join(map(json.dumps, table)))
    report = join_labels(find_label_set(str(path)), local, tmp_path / "out.parquet")
    assert texts_of(tmp_path / "out.parquet") == {"short": "all of it", "long_10.5-12.0": "that part"}
    assert (report.no_audio, report.unreadable, report.no_label) == (3, 2, 1)


def written(path: Path, rows: list[dict], delimiter: str, encoding: str) -> Path:
    with open(path, "w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_columns_and_forms_of_tables(parliament, error_of, tmp_path, capfd):
    """Columns are found in other letters, or named; several files, delimiters, encodings; what is missing is said."""
    from ..commands import run_command

    ids = parliament["id"]
    first = [{"Utt ID": name, "Transcript": f"Žaba, »{n}«", "Duration": 3} for n, name in enumerate(ids[:5])]
    second = [{"Datei": f"{name}.wav", "Satz": f"šest {n}", "x": "y"} for n, name in enumerate(ids[5:])]
    one = written(tmp_path / "one.csv", first, ";", "windows-1250")
    two = written(tmp_path / "two.tsv", second, "\t", "utf-16")
    audio = ["--audio", tmp_path / "local.parquet", "--output", tmp_path / "out.parquet"]
    message = error_of("join_labels.py", "--labels", one, *audio)
    assert re.match(r".*one.csv: 5 lines, such as line 2, are not UTF-8; name the encoding with --encoding", message)
    assert run_command("join_labels.py", "--labels", one, "--encoding", "windows-1250", *audio) == 0
    printed = capfd.readouterr().out
    assert (
        "null, because the labels have no such score: mean_log_prob, " in printed
        and "7 utterances no label" in printed
    )
    assert texts_of(tmp_path / "out.parquet") == {name: f"Žaba, »{n}«" for n, name in enumerate(ids[:5])}
    message = error_of("join_labels.py", "--labels", two, *audio)
    assert message.startswith(
        f"{two}: no labels, it has no column id, text; it has Datei, Satz, x; --id-column and --text-c"
    )
    named = ["--path-column", "Datei", "--text-column", "Satz"]
    assert run_command("join_labels.py", "--labels", two, *named, *audio) == 0
    assert "7 of the labels have another spelling of their utterance's id, or its path" in capfd.readouterr().out
    assert error_of("join_labels.py", "--labels", two, "--text-column", "text", *audio) == (
        f"{two} has no column text; it has Datei, Satz, x"
    )
    three = written(tmp_path / "three.csv", [{"id": name, "text": f"c {name}"} for name in ids[5:]], ",", "utf-8")
    four = written(tmp_path / "four.csv", [{"id": name, "text": f"d {name}"} for name in ids[:5]], "|", "utf-8")
    assert run_command("join_labels.py", "--labels", three, four, *audio) == 0
    assert len(joined(tmp_path / "out.parquet")) == 12
    assert {row["source"] for row in joined(tmp_path / "out.parquet").values()} == {"three.csv", "four.csv"}
    assert "nowhere.csv: is no file; several label sets may only be files" in error_of(
        "join_labels.py", "--labels", three, "nowhere.csv", *audio
    )
    both = [{"id": name, "text": "human", "whisper_transcript": f"w {name}"} for name in ids]
    five = written(tmp_path / "five.csv", both, ",", "utf-8")
    assert error_of("join_labels.py", "--labels", five, *audio) == (
        f"{five}: has text and whisper_transcript; --text-column names the one with the labels"
    )
    settings = TableSettings({"text": "whisper_transcript"})
    join_labels({None: [five]}, parliament, tmp_path / "out.parquet", settings=settings)
    assert texts_of(tmp_path / "out.parquet") == {name: f"w {name}" for name in ids}
    (tmp_path / "six.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(LabelFileError, match="is a spreadsheet, which is not read"):
        join_labels({None: [tmp_path / "six.xlsx"]}, parliament, tmp_path / "out.parquet")


def test_a_configuration_of_a_data_set(parliament, local_hub, tmp_path):
    """Its card says which files it has; distil-whisper's have audio, of which only the names are read."""
    rows = [
        {"audio": {"bytes": b"never read", "path": f"{name}.flac"}, "text": "human", "whisper_transcript": f"w {name}"}
        for name in parliament["id"]
    ]
    HfApi().create_repo("me/distilled", repo_type="dataset")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    card = "---\nconfigs:\n- config_name: sl_vp\n  data_files:\n  - split: asr\n    path: deep/er/*.parquet\n---\n"
    for name, content in {
        "README.md": card.encode(),
        "deep/er/a.parquet": (tmp_path / "a.parquet").read_bytes(),
    }.items():
        HfApi().upload_file(path_or_fileobj=content, path_in_repo=name, repo_id="me/distilled", repo_type="dataset")
    files = find_label_set("me/distilled", config="sl_vp", split="asr")
    settings = TableSettings({"text": "whisper_transcript"})
    report = join_labels(files, parliament, tmp_path / "out.parquet", settings=settings)
    assert texts_of(tmp_path / "out.parquet") == {name: f"w {name}" for name in parliament["id"]}
    assert report.by_name == 12
    with pytest.raises(ValueError, match="me/distilled: no split train; there are asr"):
        find_label_set("me/distilled", config="sl_vp")
