"""Tables, folders and data sets as users make them: each value is read as written, or a line explains why not."""

import gzip
import json
import os
import unicodedata
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from datasets import Audio, ClassLabel, Dataset, DatasetDict

from hf_mlpl.audio.reading import load_audio
from hf_mlpl.corpora.locales import to_locale
from hf_mlpl.corpora.preparation.prepare import read_normalizers
from hf_mlpl.corpora.readers.dataset_files import _on_disk
from hf_mlpl.corpora.readers.folders import read_folder
from hf_mlpl.corpora.readers.hf_datasets import read_dataset
from hf_mlpl.corpora.readers.lists import list_utterances, read_fl_lists, read_list
from hf_mlpl.corpora.reading import ReadingReport, human_utterance, with_durations
from hf_mlpl.corpora.recordings import part_of
from hf_mlpl.corpora.sources import Source, source_of_corpus
from hf_mlpl.model.tokenization_mlpl import MlplTokenizer

RATE = 16_000
WORDS = ["null", "NA", "None", "nan", "n/a", "True", "007", "1.50", "1e3", "", " ja ", "#N/A"]


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def write_noise(path: Path, seconds: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(round(1000 * seconds)).uniform(-0.5, 0.5, size=round(seconds * RATE))
    soundfile.write(path, noise.astype(np.float32), RATE)
    return path


def write_lines(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + "\n" for line in lines).encode(encoding))
    return path


def texts_of(splits: dict) -> dict[str, str | None]:
    return {row["id"]: row["text"] for rows in splits.values() for row in rows}


HEADER = "path\tsentence\tlanguage\tspeaker"


# ---- lists


def test_links_are_followed_wherever_they_lead(tmp_path):
    """Links to a folder, to a file, to the table itself, and one without a target, as git-annex leaves it."""
    disk, mine = tmp_path / "disk", tmp_path / "mine"
    for name in ("a.wav", "b.wav", "table/c.wav"):
        write_noise(disk / name)
    mine.mkdir()
    os.symlink("../disk", mine / "clips")
    os.symlink(disk / "b.wav", mine / "b.wav")
    os.symlink("nowhere", mine / "lost.wav")
    rows = [f"{name}\tText\tsl\tana" for name in ("clips/a.wav", "clips/../b.wav", "c.wav", "lost.wav")]
    write_lines(
        disk / "table" / "t.tsv", HEADER, *rows, "../a.wav\tNo\tsl\tana", "clips/../../disk/a.wav\tNo\tsl\tana"
    )
    os.symlink(disk / "table" / "t.tsv", mine / "t.tsv")
    report = ReadingReport()
    assert list(texts_of(read_list(mine / "t.tsv", report))) == ["clips/a", "b", "c"]
    assert report.dropped == {"unreadable audio": 1, "path is not inside the table's folder": 2}
    assert f"{mine / 'lost.wav'}: is a link to nowhere, which is not there" in "\n".join(report.lines)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
def test_values_of_lists_are_what_is_written(tmp_path, delimiter, encoding):
    lines = [delimiter.join(HEADER.split("\t"))]
    for number, word in enumerate(WORDS):
        write_noise(tmp_path / f"{number:03}.wav", 0.01)
        lines.append(delimiter.join([f"{number:03}.wav", word, "sl", f"{number:03}"]))
    splits = read_list(write_lines(tmp_path / "table.csv", *lines, encoding=encoding), ReadingReport())
    assert texts_of(splits) == {f"{number:03}": word.strip() or None for number, word in enumerate(WORDS)}
    assert {row["id"]: row["speaker"] for rows in splits.values() for row in rows} == {
        f"{number:03}": f"{number:03}" for number in range(len(WORDS))
    }


def test_names_are_found_in_any_form(tmp_path):
    composed, decomposed = "č ü 한.wav", unicodedata.normalize("NFD", "č ü 한.wav")
    write_noise(tmp_path / decomposed / decomposed)
    write_noise(tmp_path / "Upper.WAV")
    for name in ("Twice.wav", "TWICE.wav"):
        write_noise(tmp_path / "twice" / name)
    rows = [f"{composed}/{composed}", "upper.wav", "twice/TWICE.wav", "twice/twice.wav", "lost/lost.wav"]
    table = write_lines(tmp_path / "t.tsv", HEADER, *[f"{row}\tText\tsl\tana" for row in rows])
    report = ReadingReport()
    (rows,) = read_list(table, report).values()
    found = [os.path.relpath(row["audio"]["path"], tmp_path) for row in rows]
    assert found == [f"{decomposed}/{decomposed}", "Upper.WAV", "twice/TWICE.wav"]
    assert report.dropped == {"unreadable audio": 2}
    lists = write_lines(tmp_path / "t.lst", "a upper.wav 1 ja", encoding="utf-8-sig")
    (row,) = read_fl_lists([lists.name], "sl", ReadingReport(), tmp_path)
    assert row["audio"]["path"] == str(tmp_path / "Upper.WAV") and row["id"] == "a"


def test_one_language_has_one_name(tmp_path):
    codes = {"sv": "sv-SE", "SV-se": "sv-SE", "sv_SE": "sv-SE", " sv-SE": "sv-SE", "de": "de", "de-DE": "de"}
    rows = []
    for number, code in enumerate([*codes, "", " "]):
        write_noise(tmp_path / f"{number}.wav", 0.01)
        rows.append(f"{number}.wav\tText\t{code}\tana")
    table, report = write_lines(tmp_path / "t.tsv", HEADER, *rows), ReadingReport()
    (rows,) = read_list(table, report).values()
    assert [row["language"] for row in rows] == list(codes.values())
    assert report.dropped == {"no language": 2}
    assert "the language 'sv' is called sv-SE, as in Common Voice" in report.notes
    assert len(read_list(table, ReadingReport(), ["sv"])["train"]) == 4
    with pytest.raises(ValueError, match=r"t\.tsv: no rows of fr; there are de, sv-SE"):
        read_list(
            write_lines(tmp_path / "t.tsv", HEADER, *[f"a.wav\t\t{code}\t" for code in codes]), ReadingReport(), ["fr"]
        )


def test_codes_of_languages_that_are_names_stay():
    assert [to_locale(code) for code in ("zh-TW", "zh_cn", "rm-VALLADER", "nan-TW", "Slovene", "en_us", "es_419")] == [
        *("zh-TW", "zh-CN", "rm-vallader", "nan-tw", "Slovene", "en", "es")
    ]


@pytest.mark.parametrize("names", ["start\tend", "start_time\tend_time"])
def test_parts_of_recordings_in_a_list(tmp_path, names):
    write_noise(tmp_path / "long.wav", 4.0)
    times = {("0.5", "1.5"): 1.0, ("2", ""): 2.0, ("", "1"): 1.0, ("0", "4.05"): 4.0, ("", ""): 4.0}
    bad = [("3", "2"), ("1", "nan"), ("-1", "1"), ("inf", ""), ("a", "1"), ("3", "9"), ("5", "")]
    rows_of_table = [f"long.wav\tText\tsl\tana\t{start}\t{end}" for start, end in [*times, *bad]]
    report = ReadingReport()
    (rows,) = read_list(write_lines(tmp_path / "t.tsv", f"{HEADER}\t{names}", *rows_of_table), report).values()
    assert [row["duration_seconds"] for row in rows] == list(times.values())
    assert [len(load_audio(row["audio"])) / RATE for row in rows] == list(times.values())
    assert report.dropped == {"not a part of a recording": 5, "segment outside its recording": 2}
    header = f"{HEADER}\t{names.title().replace('_', ' ')}"
    (rows,) = read_list(write_lines(tmp_path / "t.tsv", header, rows_of_table[0]), ReadingReport()).values()
    assert [row["duration_seconds"] for row in rows] == [1.0]
    table = write_lines(tmp_path / "t.tsv", f"{HEADER}\tOnset\tEnd", "long.wav\tText\tsl\tana\t1\t2")
    with pytest.raises(ValueError, match=r"t\.tsv: columns Onset, End may be the place of a row's speech"):
        read_list(table, ReadingReport())


def test_repeated_and_missing_rows(tmp_path):
    write_noise(tmp_path / "a.wav")
    table, report = write_lines(tmp_path / "t.tsv", HEADER, *["a.wav\tText\tsl\tana"] * 3), ReadingReport()
    assert texts_of(read_list(table, report)) == {"a": "Text"}
    assert report.dropped == {"id is there already": 2} and report.lines == [
        f"{table}:{line}: id is there already: 'a'; the first is {table}:2" for line in (3, 4)
    ]
    for content, message in [
        ((HEADER,), "no rows below its header"),
        ((), "no column is known to be that of the recordings.*; it has nothing"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_list(write_lines(table, *content), ReadingReport())


def test_durations_in_lists_of_flashlight(tmp_path):
    write_noise(tmp_path / "a.wav")
    lines = [f"{number} a.wav {duration} ja" for number, duration in enumerate(["1", "nan", "-1", "inf", "0"])]
    report = ReadingReport()
    rows = read_fl_lists([write_lines(tmp_path / "t.lst", *lines, "0 a.wav 1 ja").name], "sl", report, tmp_path)
    assert [row["id"] for row in rows] == ["0", "4"]
    assert report.dropped == {"not a line of a list": 2, "negative duration": 1, "id is there already": 1}


def read_rows(table: Path, **settings) -> tuple[list[dict], ReadingReport]:
    report = ReadingReport()
    return list(list_utterances(table, report, **settings)), report


@pytest.mark.parametrize(
    "name, content, settings",
    [
        ("t.csv", "File Name;Transcript;Lang;Spk\na.wav;{};sv;007\n", {}),
        ("t.csv", "file|text|language|speaker\na.wav|{}|sv|007\n", {}),
        ("t.csv", "sep=;\r\naudio;raw_text;locale;client_id\r\na.wav;{};sv;007\r\n;;;\r\n", {}),
        ("T.TSV", '"path"\t"sentence"\t"language"\t"speaker"\n"a.wav"\t"{}"\t"sv"\t"007"\n', {}),
        ("t.txt", "path, sentence, language, speaker\n a.wav, {}, sv, 007\n", {}),
        ("t.csv", "Datei^Satz^speaker\na.wav^{}^007\n", {"delimiter": "^", "language": "sv"}),
        ("t.jsonl", '{{"file": "a.wav", "text": "{}", "language": "sv", "speaker": "007", "duration": 9}}\n', {}),
        ("t.json", '[{{"path": "a.wav", "sentence": "{}", "language": "sv", "speaker": "007"}}]', {}),
        ("t.jsonl.gz", '{{"audio": "a.wav", "transcription": "{}", "lang": "sv", "speaker_id": "007"}}\n', {}),
    ],
)
def test_lists_are_taken_as_people_have_them(tmp_path, name, content, settings):
    """Delimiters and usual columns are found, others are named, and every value is the text that is written."""
    write_noise(tmp_path / "a.wav", 0.25)
    if "Datei" in content:
        settings = settings | {"columns": {"audio": "Datei", "text": "Satz"}}
    for word in ("null", "NA", "007", "True", "Ja, č: så"):
        table, data = tmp_path / name, content.format(word).encode()
        if name == "t.txt" and "," in word:
            continue
        table.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        (row,), report = read_rows(table, **settings)
        found = (row["id"], row["text"], row["language"], row["speaker"], row["duration_seconds"])
        assert found == ("a", word, "sv-SE", "007", 0.25) and not report.dropped


def test_values_of_json_that_are_no_texts(tmp_path):
    write_noise(tmp_path / "a.wav", 0.01)
    rows = [
        {"file": "a.wav", "text": None},
        {"file": "./a.wav", "text": 7.50, "speaker": 12},
        {"file": "././a.wav", "text": ["x"]},
        {"text": "x"},
        {"file": None, "text": "x"},
    ]
    found, report = read_rows(write_lines(tmp_path / "t.jsonl", *map(json.dumps, rows)), language="sl")
    assert [(row["text"], row["speaker"]) for row in found] == [(None, None)]
    lines = "\n".join(report.lines)
    assert (
        "t.jsonl:2: id is there already: 'a'; the first is " in lines and "t.jsonl:3: text is no text: a list" in lines
    )
    assert report.dropped["no path"] == 2


@pytest.mark.parametrize("reader", [read_rows, "data set"])
def test_encodings_are_named_or_found_but_never_guessed(tmp_path, reader):
    """Python's own codecs write the tables; without `encoding` a line names the option."""

    def read(name="t.csv", **settings):
        if reader is read_rows:
            return [row["text"] for row in read_rows(tmp_path / name, language="pl", **settings)[0]]
        return [row["text"] for row in read_dataset(tmp_path / name, ReadingReport(), language="pl", **settings)]

    for name in ("a.wav", "b.wav"):
        write_noise(tmp_path / name, 0.01)
    for text, encoding in (("żółw", "windows-1250"), ("över", "latin-1"), ("ёж", "koi8-r"), ("żółw", "utf-16-le")):
        write_lines(tmp_path / "t.csv", "file,text", f"a.wav,{text}", f"b.wav,{text}", encoding=encoding)
        assert read(encoding=encoding) == [text] * 2
        with pytest.raises(ValueError, match=r"t\.csv: .*name the encoding with --encoding, such as windows-1252"):
            read()
    with pytest.raises(ValueError, match=r"t\.csv: unknown encoding: cp99; such as windows-1252"):
        read(encoding="cp99")
    for encoding in ("utf-8-sig", "utf-16"):  # which the byte order mark shows, whatever is named
        write_lines(tmp_path / "t.csv", "file,text", "a.wav,żółw", encoding=encoding)
        assert read() == read(encoding="windows-1252") == ["żółw"]
    (tmp_path / "t.csv").write_bytes("file,text\na.wav,żółw\n".encode() + b"b.wav,\xff\nb.wav,\xff\n")
    assert read() == ["żółw"]  # UTF-8 with damage
    lines = ["file,text", *["a.wav,Spaß”"] + ["a.wav,Spaß"] * 20]  # ß” of windows-1252 are a character of UTF-8
    with pytest.raises(ValueError, match=r"t\.csv: 20 lines, such as line 3, are not UTF-8; name the encoding"):
        list(read_dataset(write_lines(tmp_path / "t.csv", *lines, encoding="cp1252"), ReadingReport(), language="de"))


def test_what_lists_lack_is_one_line_with_the_way_out(tmp_path):
    write_noise(tmp_path / "a.wav", 0.01)
    cases = {
        "file,words\na.wav,x\n": "no column is known to be the language; name it with --language-column, or",
        "a.wav,God natt,sv\nb.wav,x,sv\n": ".* its first line must name the columns, .* it has a.wav, God natt, sv",
        "path,path,language\na.wav,b.wav,sv\n": "column path is there twice",
        "file,language\n": "no rows below its header",
        "PK\x03\x04": "is a spreadsheet, which is not read; save its sheet as csv: in Excel with",
    }
    for content, message in cases.items():
        (tmp_path / "t.csv").write_text(content)
        with pytest.raises(ValueError, match=rf"t\.csv: {message}"):
            read_rows(tmp_path / "t.csv")
    for name in ("t.xlsx", "t.ods"):
        (tmp_path / name).write_bytes(b"anything")
        with pytest.raises(ValueError, match=f"{name}: is a spreadsheet"):
            read_rows(tmp_path / name)
    with pytest.raises(ValueError, match=r"t\.csv has no column words; it has file, language"):
        read_rows(write_lines(tmp_path / "t.csv", "file,language", "a.wav,sv"), columns={"text": "words"})
    (row,), report = read_rows(tmp_path / "t.csv", language="sl")
    assert row["text"] is None and row["language"] == "sv-SE"
    notes = ("no column is known to be the text, so its", "the languages are those of its column language, not sl")
    assert all(any(f"t.csv: {note}" in line for line in report.notes) for note in notes)
    table = write_lines(tmp_path / "t.csv", "file\ttext\tsentence\tlanguage", 'a.wav\tA\t"S ""s"""\tsv')
    (row,), report = read_rows(table)
    assert row["text"] == '"S ""s"""' and [line.partition(": ")[2] for line in report.notes[:1]] == [
        "the texts are those of its column sentence; it also has text"
    ]
    assert report.notes[-1].startswith(f"{table}:2: the text keeps its quotes")


def test_paths_as_people_write_them(tmp_path, monkeypatch):
    """Found below the table's folder, or refused with the way out; no spelling leads out of it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    write_noise(tmp_path / "secret.wav", 0.01)
    mine = tmp_path / "mine"
    for name in ("clips/a b.wav", "odd\\name.wav"):
        write_noise(mine / name, 0.01)
    good = {
        "clips\\a b.wav": "clips/a b",
        f"{mine}/clips/a b.wav": "clips/a b",
        f"file://{mine}/clips/a%20b.wav": "clips/a b",
        "file:clips/a%20b.wav": "clips/a b",
        "~/mine/clips/a b.wav": "clips/a b",
        " clips/a b.wav ": "clips/a b",
        "odd\\name.wav": "odd\\name",
    }
    for path, name in good.items():
        (row,), _ = read_rows(write_lines(mine / "t.tsv", "path\tlanguage", f"{path}\tsl"))
        assert row["id"] == name and row["audio"]["path"] == str(mine / f"{name}.wav")
    outside = ["..\\secret.wav", "clips\\..\\..\\secret.wav", "~/secret.wav", f"file://{tmp_path}/secret.wav"]
    others = ["https://x.org/a.wav", "C:\\clips\\a.wav"]
    rows, report = read_rows(
        write_lines(mine / "t.tsv", "path\tlanguage", *[f"{path}\tsl" for path in outside + others])
    )
    assert not rows and report.dropped == {
        "path is not inside the table's folder": 4,
        "its path is an address": 1,
        "its path is of Windows": 1,
    }
    way_out = f"{mine / 't.tsv'}: 4 paths are not inside its folder; move the table to a folder above them"
    assert report.notes[-1].startswith(way_out) and sum("not inside its" in line for line in report.lines) == 1


def test_a_duration_is_not_believed_over_the_header(tmp_path):
    write_noise(tmp_path / "a.wav", 0.5)
    for name, rows in {
        "t.csv": ("file,language,duration", "a.wav,sl,99"),
        "t.jsonl": ('{"audio_filepath": "a.wav", "lang": "sl", "duration": 99}',),
    }.items():
        (row,), report = read_rows(write_lines(tmp_path / name, *rows))
        assert row["duration_seconds"] == 0.5 and row["audio"]["end"] is None and not report.dropped
    assert report.lines[-1].endswith(":1: kept with another duration: 0.50 s, not 99 s as its row says")


def test_cuts_of_lhotse_are_a_list(tmp_path):
    write_noise(tmp_path / "a.wav", 1.0)
    recording = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}]}
    supervision = {"id": "s", "start": 0.1, "duration": 0.2, "text": "hej", "language": "sv", "speaker": "ann"}
    cut = {"id": "c", "type": "MonoCut", "start": 0.2, "duration": 0.5, "supervisions": [supervision]}
    table = write_lines(tmp_path / "cuts.jsonl", json.dumps(cut | {"channel": 0, "recording": recording}))
    assert texts_of(read_list(table, ReadingReport(), dev_speakers=["ann"])) == {"s": "hej"}
    (row,), _ = read_rows(table)
    assert (row["audio"]["start"], row["audio"]["end"]) == pytest.approx((0.3, 0.5))


# ---- folders


def test_folders_with_links_and_hidden_files(tmp_path):
    root, disk = tmp_path / "speech", tmp_path / "disk"
    write_lines(write_noise(disk / "a.wav").with_suffix(".txt"), "Da.")
    (root / "hr").mkdir(parents=True)
    os.symlink(disk, root / "sl")
    os.symlink(root, root / "hr" / "around")
    os.symlink(disk / "a.wav", root / "hr" / "b.wav")
    for name in ("._b.wav", ".hidden/c.wav"):
        write_noise(root / "hr" / name)
    write_lines(root / "hr" / "orphan.txt", "Ne.")
    write_lines(root / "hr" / "notes.md", "Ne.")
    os.rename(write_noise(root / "hr" / "c.wav"), root / "hr" / "c.recording")  # told by its content
    report = ReadingReport()
    rows = {row["id"]: row["text"] for row in read_folder(root, report)}
    assert rows == {"hr/b.wav": None, "hr/c.recording": None, "sl/a.wav": "Da."} and not report.dropped
    assert [line.partition(": ")[2] for line in report.notes] == [
        "a link to a folder around it, which is not followed",
        f"1 texts have no recording beside them, such as {root}/hr/orphan.txt",
        "1 files are neither recordings nor texts: 1 .md",
    ]


def test_texts_beside_recordings(tmp_path):
    """Name, suffix, encoding and content decide which text a recording has, or why it has none."""
    decomposed = unicodedata.normalize("NFD", "č")
    texts = {
        ("a.WAV", "a.TXT"): "Da.",
        ("b.wav", "B.txt"): "Da.",
        ("č.wav", f"{decomposed}.txt"): "Da.",
        ("c.wav", "c.lab"): "0 5000000 HELLO\n5000000 9000000 WORLD\n",
        ("d.wav", "d.txt"): "0.000000\t0.500000\thello\n",
        ("e.wav", "e.lab"): "2 3 ljudje\r\n",
        ("f.wav", "f.txt"): "10 20 30",
    }
    for (recording, text), content in texts.items():
        write_noise(tmp_path / recording, 0.01)
        (tmp_path / text).write_bytes(content.encode("utf-16" if recording == "a.WAV" else "utf-8-sig"))
    write_noise(tmp_path / "h.wav", 0.01)
    (tmp_path / "h.txt").write_bytes(b"a\xff")
    report = ReadingReport()
    rows = {row["id"]: row["text"] for row in read_folder(tmp_path, report, "sl")}
    assert rows == {
        "a.WAV": "Da.",
        "b.wav": "Da.",
        "č.wav": "Da.",
        "e.wav": "2 3 ljudje",
        "f.wav": "10 20 30",
    }
    assert report.dropped == {"text cannot be read": 3}
    assert sum("--encoding names its encoding, such as windows-1252" in line for line in report.lines) == 1
    rows = {row["id"]: row["text"] for row in read_folder(tmp_path, ReadingReport(), "sl", encoding="latin-1")}
    assert rows["h.wav"] == "aÿ" and rows["a.WAV"] == rows["b.wav"] == "Da."  # those have byte order marks
    assert sum("has labels with times; write the words alone" in line for line in report.lines) == 2


def test_the_text_of_the_same_name_goes_before_others(tmp_path):
    for name in ("a", "A"):
        write_lines(write_noise(tmp_path / f"{name}.wav", 0.01).with_suffix(".txt"), name)
    rows = {row["id"]: row["text"] for row in read_folder(tmp_path, ReadingReport(), "sl")}
    assert rows == {"a.wav": "a", "A.wav": "A"}


# ---- data sets


def write_metadata(folder: Path, form: str) -> Path:
    for number in range(len(WORDS)):
        write_noise(folder / f"{number}.wav", 0.01)
    rows = [{"file_name": f"{number}.wav", "text": word, "language": "sv"} for number, word in enumerate(WORDS)]
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "metadata.parquet")
    elif form == "jsonl":
        write_lines(folder / "metadata.jsonl", *map(json.dumps, rows))
    elif form == "json":
        (folder / "train.json").write_text(json.dumps(rows))
    elif form == "csv.gz":
        (folder / "train.csv.gz").write_bytes(gzip.compress(_csv(rows, ",").encode()))
    else:
        name, delimiter, encoding = form.split()
        (folder / name).write_text(_csv(rows, delimiter), encoding=encoding)
    return folder


def _csv(rows: list[dict], delimiter: str) -> str:
    delimiter = {"tab": "\t"}.get(delimiter, delimiter)
    return "\r\n".join(delimiter.join(row) for row in [list(rows[0]), *(row.values() for row in rows)])


@pytest.mark.parametrize(
    "form",
    [
        *("metadata.csv , utf-8", "metadata.csv ; utf-8-sig", "metadata.tsv tab utf-16", "train.csv , utf-8"),
        *("jsonl", "json", "parquet", "csv.gz"),
    ],
)
def test_values_of_metadata_are_what_is_written(tmp_path, form):
    report = ReadingReport()
    rows = list(read_dataset(write_metadata(tmp_path / "clips", form), report))
    assert [row["text"] for row in rows] == [word.strip() or None for word in WORDS]
    assert [os.path.basename(row["audio"]["path"]) for row in rows] == [f"{i}.wav" for i in range(len(WORDS))]
    assert {row["language"] for row in rows} == {"sv-SE"} and not report.dropped


def test_a_table_may_be_named_itself(tmp_path):
    write_noise(tmp_path / "a.wav")
    rows = [
        '{"audio_filepath": "a.wav", "text": 7, "offset": 0.25, "duration": 0.5}',
        "{",
        "[1]",
        '{"text": "\\ud800"}',
        '{"audio_filepath": "lost\\n.wav"}',
        '{"audio_filepath": {"path": [1]}}',
        '{"audio_filepath": "a.wav", "text": true}',
    ]
    report = ReadingReport()
    part, recording = read_dataset(write_lines(tmp_path / "nemo.json", *rows, ""), report, language="sl")
    assert part["text"] == "7" and part["duration_seconds"] == 0.5 and recording["text"] == "true"
    np.testing.assert_array_equal(load_audio(part["audio"]), load_audio(recording["audio"])[4000:12000])
    wrong = ["half of a surrogate pair", "unreadable audio", "path is no text"]
    assert report.dropped == {"no JSON object": 2} | dict.fromkeys(wrong, 1)
    assert not [line for line in report.lines if "\n" in line]


@pytest.mark.parametrize("name", ["train.jsonl.gz", "train.csv.gz"])
def test_packed_tables_that_are_cut_off(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(os.urandom(1000).hex().encode())[:-100])
    with pytest.raises(ValueError, match=rf"{name}: damaged") as caught:
        list(read_dataset(tmp_path / name, ReadingReport(), language="sl"))
    assert "\n" not in str(caught.value)


def test_rows_before_damage_are_kept(tmp_path):
    audio = {"path": str(write_noise(tmp_path / "a.wav", 0.5))}

    def damaged():
        for number in range(3):
            yield f"t:{number}", human_utterance(str(number), audio, "sl", "ja")
        raise ValueError("t: damaged after line 3")

    report, kept = ReadingReport(), []
    with report.noting_errors():
        for row in with_durations(damaged(), report):
            kept.append((row["id"], row["duration_seconds"]))
    assert kept == [("0", 0.5), ("1", 0.5), ("2", 0.5)] and report.notes == ["t: damaged after line 3"]


def test_buckets_are_refused_with_the_way_out():
    """The Hub's cache has no place for their files; the address alone shows it, without a request."""
    with pytest.raises(ValueError, match=r"hf://buckets/me/b/a\.parquet: is in a Storage Bucket.*`hf buckets sync`"):
        _on_disk("hf://buckets/me/b/a.parquet")


def test_labels_by_folder(tmp_path):
    for name in ("train/sl/a.wav", "train/sv/b.wav", "test/sl/c.wav"):
        write_noise(tmp_path / "af" / name, 0.01)
    os.symlink(tmp_path / "af" / "test" / "sl", tmp_path / "af" / "train" / "hr")
    rows = list(read_dataset(tmp_path / "af", ReadingReport(), {"language": "label"}))
    assert [(row["language"], os.path.basename(row["audio"]["path"])) for row in rows] == [
        *(("hr", "c.wav"), ("sl", "a.wav"), ("sv-SE", "b.wav"))
    ]
    (row,) = read_dataset(tmp_path / "af", ReadingReport(), language="sl", split="test")
    assert row["audio"]["path"].endswith("test/sl/c.wav")


def test_parquet_files_that_hold_paths(tmp_path):
    """`Dataset.to_parquet` writes paths: absolute ones, relative ones, lost ones, and some with bytes beside them."""
    for name in ("a.wav", "data/b.wav"):
        write_noise(tmp_path / name, 0.01)
    audio = [
        {"path": str(tmp_path / "a.wav"), "bytes": None},
        {"path": "b.wav", "bytes": None},
        {"path": "lost.wav", "bytes": None},
        {"path": "inside.wav", "bytes": (tmp_path / "a.wav").read_bytes()},
        {"path": None, "bytes": None},
    ]
    rows = Dataset.from_dict({"audio": audio, "text": list("abcde"), "language": ["sl"] * 5})
    rows = rows.cast_column("audio", Audio())
    pq.write_table(rows.data.table, tmp_path / "data" / "train.parquet", row_group_size=2)
    rows.select([0]).to_parquet(tmp_path / "theirs.parquet")
    (row,) = read_dataset(tmp_path / "theirs.parquet", ReadingReport())
    assert row["audio"]["path"] == str(tmp_path / "a.wav")
    report = ReadingReport()
    rows = list(read_dataset(tmp_path / "data", report))
    assert [row["text"] for row in rows] == ["a", "b", "d"]
    assert report.dropped == {"unreadable audio": 2}
    first = load_audio(tmp_path / "a.wav")
    for row in rows:
        np.testing.assert_array_equal(load_audio(row["audio"]), first)
    names = Dataset.from_dict({"path": ["b.wav"], "language": ["sl"]})
    names.to_parquet(tmp_path / "data" / "names.parquet")
    (row,) = read_dataset(tmp_path / "data" / "names.parquet", ReadingReport())
    assert row["audio"]["path"] == str(tmp_path / "data" / "b.wav")


def test_parts_of_recordings_in_data_sets(tmp_path):
    path = str(write_noise(tmp_path / "long.wav", 4.0))
    audio = {"path": path, "offset": None, "size": None, "start": 1.0, "end": 2.0}
    ours = Dataset.from_dict({"audio": [audio], "language": ["sl"]})
    columns = Dataset.from_dict({"path": [path] * 2, "start": [1.0, None], "end": [2.0, None]})
    nemo = Dataset.from_dict({"path": [path] * 3, "offset": [1.0, 3.5, -1.0], "duration": [1.0, 2.0, 1.0]})
    for dataset, seconds, dropped in [
        (ours, [1.0], {}),
        (columns, [1.0, 4.0], {}),
        (nemo, [1.0], {"segment outside its recording": 1, "not a part of a recording": 1}),
    ]:
        report = ReadingReport()
        rows = list(read_dataset(dataset, report, language="sl"))
        assert [row["duration_seconds"] for row in rows] == seconds and report.dropped == dropped
        assert len(load_audio(rows[0]["audio"])) == RATE


PAIRS = [("start_time", "end_time"), ("begin_time", "end_time"), ("begin", "end"), ("segment_start", "segment_end")]
STARTS, ENDS = [0.5, 2.0], [1.25, 3.5]


@pytest.mark.parametrize("form", ["data set", "stream", "metadata.csv", "metadata.jsonl", "table.parquet"])
@pytest.mark.parametrize("names", [*PAIRS, ("start_ms", "end_ms"), ("start", "duration"), ("offset", "duration")])
def test_other_names_of_the_places_of_parts(tmp_path, names, form):
    path = write_noise(tmp_path / "long.wav", 4.0)
    ends = [end - start for start, end in zip(STARTS, ENDS, strict=True)] if names[1] == "duration" else ENDS
    unit = 1000 if names[0].endswith("_ms") else 1
    times = {name: [unit * second for second in values] for name, values in zip(names, (STARTS, ends), strict=True)}
    file = {} if form in ("data set", "stream") else {"file_name": ["long.wav"] * 2}
    dataset = Dataset.from_dict({"text": ["a", "b"], **(file or {"audio": [str(path)] * 2}), **times})
    if form == "stream":
        dataset = dataset.to_iterable_dataset()
    elif file:
        write = {"csv": dataset.to_csv, "jsonl": dataset.to_json, "parquet": dataset.to_parquet}
        write[form.partition(".")[2]](tmp_path / form)
        dataset = tmp_path / form if form == "table.parquet" else tmp_path
    rows = list(read_dataset(dataset, ReadingReport(), language="sl"))
    whole = load_audio(path)
    for row, start, end in zip(rows, STARTS, ENDS, strict=True):
        assert row["duration_seconds"] == pytest.approx(end - start)
        np.testing.assert_array_equal(load_audio(row["audio"]), whole[int(start * RATE) : int(end * RATE)])


def test_recordings_that_are_the_parts_already(tmp_path):
    """So are those of GigaSpeech, whose `begin_time` and `end_time` are in the recording they were cut from."""
    path = str(write_noise(tmp_path / "cut.wav", 2.0))
    times = {"begin_time": [130.5, 0.0, 130.5, 1.0], "end_time": [132.5, 2.02, 133.5, 3.3]}
    report = ReadingReport()
    rows = list(read_dataset(Dataset.from_dict({"audio": [path] * 4, **times}), report, language="sl"))
    assert [(row["audio"]["start"], row["audio"]["end"], row["duration_seconds"]) for row in rows] == [
        (None, None, 2.0)
    ] * 2
    assert report.dropped == {"segment outside its recording": 2}


def test_times_of_unknown_meaning_are_refused(tmp_path):
    path = str(write_noise(tmp_path / "long.wav", 4.0))
    pairs = [("start_sample", "end_sample"), ("beginTime", "stopTime"), ("Begin", "stop")]
    for start, end in [*pairs, ("onset", "offset")]:
        dataset = Dataset.from_dict({"audio": [path], start: [1.0], end: [2.0]})
        with pytest.raises(ValueError, match=f"^dataset/train: columns {start}, {end} may be .*, or remove them"):
            list(read_dataset(dataset, ReadingReport(), language="sl"))
        for fields, seconds in ({"start": start, "end": end}, 1.0), ({"start_ms": start, "end_ms": end}, 0.001):
            (row,) = read_dataset(dataset, ReadingReport(), fields, language="sl")
            assert row["duration_seconds"] == pytest.approx(seconds)
    pair = Dataset.from_dict({"audio": [path], "start_time": [1.0], "end_time": [2.0], "from": [0.5]})
    for fields, seconds in ({"start": "start_time"}, 1.0), ({"end": "end_time"}, 1.0), ({"start": "from"}, 1.5):
        (row,) = read_dataset(pair, ReadingReport(), fields, language="sl")
        assert row["duration_seconds"] == seconds
    for alone in ("start_time", "begin", "end_time", "Start"):  # of the day, for instance
        dataset = Dataset.from_dict({"audio": [path], alone: ["09:30"]})
        assert [row["duration_seconds"] for row in read_dataset(dataset, ReadingReport(), language="sl")] == [4.0]
    day = Dataset.from_dict({"audio": [path], "start_time": ["09:30"], "end_time": ["09:31"]})
    report = ReadingReport()
    assert not list(read_dataset(day, report, language="sl")) and report.dropped == {"not a part of a recording": 1}


def test_samples_in_data_sets(tmp_path):
    samples = np.random.default_rng(0).integers(-(2**14), 2**14, RATE) / 2**15  # which 16 bits hold exactly
    lists = Dataset.from_dict({"audio": [list(samples)] * 2, "sampling_rate": [RATE, None]})
    dicts = Dataset.from_dict({"audio": [{"array": list(samples), "sampling_rate": RATE}] * 2})
    loud = Dataset.from_dict({"audio": [{"array": list(samples * 2**15), "sampling_rate": RATE}]})
    report = ReadingReport()
    for dataset, count in ((lists, 1), (dicts, 2), (loud, 0)):
        rows = list(read_dataset(dataset, report, language="sl", copies=tmp_path / "copies"))
        assert len(rows) == count
        for row in rows:
            np.testing.assert_array_equal(load_audio(row["audio"]), samples.astype(np.float32))
    assert report.dropped == {"samples that cannot be used": 2}


def test_values_of_other_types(tmp_path):
    paths = [str(write_noise(tmp_path / f"{i}.wav", 0.01)) for i in range(4)]
    dataset = Dataset.from_dict({"path": paths, "text": [1, 2, 3, None], "spoken": [0, -1, 0, 0], "n": [1, 1, 2, 3]})
    dataset = dataset.cast_column("spoken", ClassLabel(names=["sv"])).with_format("torch")
    report = ReadingReport()
    rows = list(read_dataset(dataset, report, {"language": "spoken", "id": "n"}))
    assert [(row["id"], row["text"]) for row in rows] == [("1", "1"), ("2", "3"), ("3", None)]
    assert report.dropped == {"no language": 1}
    repeated = dataset.remove_columns("spoken")
    names = [row["id"] for row in read_dataset(repeated, report, {"id": "n"}, language="sl")]
    assert names[0] == "1" and names[1].startswith("1-") and names[2:] == ["2", "3"]
    renamed = f"id '1' is there already; kept as {names[1]!r}; the first is dataset/train:0"
    assert report.lines[-1] == f"dataset/train:1: {renamed}"
    lists = Dataset.from_dict({"path": paths[:1], "text": [["a"]]})
    assert not list(read_dataset(lists, report, language="sl")) and report.dropped["text is no text"] == 1
    with pytest.raises(ValueError, match="the data set has no rows; its columns are path, text"):
        list(read_dataset(lists.select([]), report, language="sl"))
    assert len(list(read_dataset(DatasetDict(dev=repeated), report, language="sl", split="dev"))) == 4
    with pytest.raises(ValueError, match="the data set: no split train; there are dev"):
        list(read_dataset(DatasetDict(dev=repeated), report, language="sl"))


def test_tables_that_lack_a_column_say_what_they_have(tmp_path):
    folder = tmp_path / "clips"
    write_lines(folder / "metadata.csv", "name;words", "a.wav;ja")
    with pytest.raises(
        ValueError, match="no column of the data set is known to be audio: give --audio-column; it has name, words"
    ):
        list(read_dataset(folder, ReadingReport(), language="sl"))
    write_lines(folder / "metadata.csv", "file_name,text")
    with pytest.raises(
        ValueError, match=r"clips/metadata\.csv: the data set has no rows; its columns are file_name, t"
    ):
        list(read_dataset(folder, ReadingReport(), language="sl"))


@pytest.mark.parametrize(
    "row", [{"start": True}, {"duration": 3.0}, {"duration": "long"}, {}, {"end": None, "start": ""}]
)
def test_what_says_no_part_is_none(row):
    assert part_of(row) in [(None, None), (1.0, None)]


def test_files_may_begin_with_a_byte_order_mark(tmp_path):
    """Tables, lists and tokens files are tested elsewhere; these are the other files that users write."""
    pytest.importorskip("flashlight.lib.text")
    from hf_mlpl.inference.beam_search import BeamSearchDecoder

    write_lines(tmp_path / "source.json", '{"name": "ours", "license": "mit"}', encoding="utf-8-sig")
    assert source_of_corpus(tmp_path) == Source("ours", "mit")
    for encoding in ("utf-8-sig", "utf-16"):
        normalizers = write_lines(tmp_path / "n.yaml", "sv: {replace: {č: c}}", encoding=encoding)
        assert read_normalizers(normalizers)["sv-SE"]("č") == "c"
    with pytest.raises(ValueError, match=r"n\.yaml: no normalisers by language"):
        read_normalizers(write_lines(tmp_path / "n.yaml", "'*': {replace: {č: c}}", encoding="latin2"))
    tokenizer = MlplTokenizer(write_lines(tmp_path / "tokens.lst", "|", "a", "b", encoding="utf-8-sig"))
    with open(write_lines(tmp_path / "lexicon", "ab", encoding="utf-8-sig"), encoding="utf-8") as lexicon:
        decoder = BeamSearchDecoder(tokenizer, lexicon=lexicon)
    (found,) = decoder.decode(torch.eye(4)[None, [1, 2]].log())
    assert found.text == "ab"
