"""Corpus readers on small releases, utterance files, and the two scripts that write such files."""

import gzip
import math
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from hf_mlpl.audio.reading import load_audio
from hf_mlpl.corpora.readers.common_voice import find_locales, read_common_voice
from hf_mlpl.corpora.readers.lists import read_list
from hf_mlpl.corpora.readers.voxpopuli import read_voxpopuli
from hf_mlpl.corpora.reading import ReadingReport
from hf_mlpl.corpora.sources import sources_of
from hf_mlpl.corpora.tables import read_table
from hf_mlpl.data.rows import distinct
from hf_mlpl.data.utterances import FEATURES, languages_of, read_columns, read_utterances, write_utterances

ROOT = Path(__file__).resolve().parents[2]

# As in release 6.1, and as in later ones.
COLUMNS = "client_id path sentence up_votes down_votes age gender accent locale segment".split()
LATER_COLUMNS = (
    "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale segment"
).split()

SENTENCES = {
    # written: read
    "Dober dan, gospa.": "Dober dan, gospa.",
    'Rekel je: "Ne': 'Rekel je: "Ne',  # an unbalanced quote must not swallow the next rows
    '"Da", "morda"': '"Da", "morda"',
    "'' don't\\n": "'' don't\\n",
    "c\u030cas\u00a0je  zlato ": "\u010das je zlato",
    "prva\u2028druga\u0085tretja": "prva druga tretja",  # no line ends in a TSV file
    "שלום 日本 നന്ദി 😀": "שלום 日本 നന്ദി 😀",
}


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def write_clip(path: Path, seconds: float, rate: int = 16000, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(scale=0.1, size=round(seconds * rate))
    soundfile.write(path, noise.astype(np.float32), rate)
    return path


def write_table(path: Path, columns, rows, line_end="\n", start="") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(columns), *("\t".join(row.get(column, "") for column in columns) for row in rows)]
    path.write_bytes((start + "".join(line + line_end for line in lines)).encode())
    return path


def write_locale(folder: Path, sentences, split="train", columns=COLUMNS, first=0, **form) -> list[dict]:
    """Writes one split of one locale; returns the utterances that readers must yield."""
    rows, expected = [], []
    for i, (written, read) in enumerate(sentences.items(), start=first):
        seconds = 0.3 + 0.1 * i
        clip = write_clip(folder / "clips" / f"common_voice_{folder.name}_{i}.mp3", seconds, rate=48000)
        rows.append({"client_id": f"{i:0128x}", "path": clip.name, "sentence": written, "locale": folder.name})
        expected.append(utterance(clip.stem, clip, seconds, folder.name, read, f"{i:0128x}", "human"))
    write_table(folder / f"{split}.tsv", columns, rows, **form)
    return expected


def utterance(name, path, seconds, language, text=None, speaker=None, source=None, start=None, end=None) -> dict:
    return {
        "id": name,
        "audio": {"path": str(path), "start": start, "end": end},
        "duration_seconds": pytest.approx(seconds, abs=2e-3),
        "language": language,
        "text": text,
        "speaker": speaker,
        "source": source,
    }


def append_rows(table: Path, *rows: str) -> int:
    """Adds lines to a table and returns the number of the first one, the header being line 1."""
    lines = table.read_bytes().count(b"\n")
    with open(table, "ab") as file:
        file.write("".join(row + "\n" for row in rows).encode())
    return lines + 1


def assert_dropped(report: ReadingReport, table: Path, first: int, reasons: list[str]) -> None:
    """Checks that `report` drops the rows from line `first` on for `reasons`, in any order, and nothing else."""
    expected = [f"{table}:{line}: {reason}" for line, reason in enumerate(reasons, start=first)]
    lines = sorted(report.lines, key=lambda line: int(line.removeprefix(f"{table}:").partition(":")[0]))
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)
        assert "\n" not in line
    assert report.dropped == {reason: reasons.count(reason) for reason in reasons}
    assert report.kept == report.read - len(reasons)
    assert f"{report.read} rows read, {report.kept} kept" in report.summary()
    assert all(f"{count} {reason}" in report.summary() for reason, count in report.dropped.items())


# ---- Common Voice


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"columns": COLUMNS[::-1]},
        {"columns": LATER_COLUMNS},
        {"line_end": "\r\n"},
        {"start": "\ufeff"},
    ],
    ids=["6.1", "reversed", "later", "crlf", "bom"],
)
def test_common_voice_rows(tmp_path, form):
    expected = write_locale(tmp_path / "sl", SENTENCES, **form)
    report = ReadingReport()
    rows = list(read_common_voice(tmp_path, "train", report))
    assert rows == expected
    assert list(rows[0]) == ["id", "audio", "language", "text", "speaker", "source", "duration_seconds"]
    assert not report.lines
    assert report.summary() == f"{len(SENTENCES)} rows read, {len(SENTENCES)} kept"


def test_common_voice_locales_and_splits(tmp_path):
    slovene = write_locale(tmp_path / "sl", {"Da.": "Da."})
    swedish = write_locale(tmp_path / "sv-SE", {"Ja.": "Ja."})
    swedish_test = write_locale(tmp_path / "sv-SE", {"Nej.": "Nej."}, "test", first=1)
    (tmp_path / "logs").mkdir()
    assert find_locales(tmp_path) == ["sl", "sv-SE"]

    def read(split, locales=None):
        return list(read_common_voice(tmp_path, split, ReadingReport(), locales))

    assert read("train") == slovene + swedish
    assert read("train", ["sv-SE"]) == swedish
    assert read("test", ["sv-SE"]) == swedish_test
    report = ReadingReport()
    assert list(read_common_voice(tmp_path, "test", report)) == swedish_test
    assert report.notes == [f"{tmp_path}/sl/test.tsv: no such file; tables there: train.tsv"]
    with pytest.raises(ValueError, match=r"no clips of de, fr; there are sl, sv-SE"):
        read("train", ["fr", "sl", "de"])


def test_common_voice_bad_rows_are_counted_and_the_others_kept(tmp_path):
    expected = write_locale(tmp_path / "sl", SENTENCES)
    clips, table = tmp_path / "sl" / "clips", tmp_path / "sl" / "train.tsv"
    (clips / "text.mp3").write_text("no sound at all")
    (clips / "empty.mp3").write_bytes(b"")
    write_clip(clips / "header-only.wav", 0)
    good = expected[0]["id"] + ".mp3"
    rest = "\t" * 7
    first = append_rows(
        table,
        f"s\ttext.mp3\tText.{rest}",
        f"s\tempty.mp3\tText.{rest}",
        f"s\theader-only.wav\tText.{rest}",
        f"s\tmissing.mp3\tText.{rest}",
        f"s\t{good}\t{rest}",
        f"s\t{good}\t \u00a0 {rest}",
        f"s\t{good}\tText.",
        f"s\t{good}",
        f"s\t{good}\tText.{rest}\tmore",
    )
    last = append_rows(table, f"last\t{good}\tText.{rest}")
    assert last == first + 9
    report = ReadingReport()
    rows = list(read_common_voice(tmp_path, "train", report))
    reasons = ["unreadable audio"] * 2 + ["no samples", "unreadable audio"] + ["empty sentence"] * 2
    assert_dropped(report, table, first, reasons + ["wrong number of columns"] * 3)
    assert rows[:-1] == expected
    assert rows[-1] == expected[0] | {"speaker": "last", "text": "Text."}
    for name in ("text.mp3", "empty.mp3", "header-only.wav", "missing.mp3"):
        assert sum(str(clips / name) in line for line in report.lines) == 1


@pytest.mark.parametrize(
    "path", ["../secret.wav", "../../secret.wav", "{root}/secret.wav", "sub/a.wav", "", ".", ".."]
)
def test_common_voice_clips_stay_inside_the_folder(tmp_path, path):
    for place in (tmp_path, tmp_path / "sl", tmp_path / "sl" / "clips" / "sub"):
        write_clip(place / "secret.wav", 0.3)
        write_clip(place / "a.wav", 0.3)
    row = {"client_id": "s", "path": path.format(root=tmp_path), "sentence": "Text."}
    table = write_table(tmp_path / "sl" / "train.tsv", COLUMNS, [row])
    report = ReadingReport()
    assert list(read_common_voice(tmp_path, "train", report)) == []
    reason = "unreadable audio" if path == ".." else "path is not a file name"  # `..` of clips is a folder
    assert_dropped(report, table, 2, [reason])


@pytest.mark.parametrize("column", ["client_id", "path", "sentence"])
def test_common_voice_missing_column(tmp_path, column):
    write_locale(tmp_path / "sl", {"Da.": "Da."}, columns=[name for name in COLUMNS if name != column])
    other = write_locale(tmp_path / "sv-SE", {"Ja.": "Ja."})
    report = ReadingReport()
    assert list(read_common_voice(tmp_path, "train", report)) == other
    (note,) = report.notes
    assert re.search(rf"train\.tsv: column {column} is missing; the header has .*up_votes", note)


def test_common_voice_folder_without_a_release(tmp_path):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=rf"^{root}: no Common Voice release; expected folders such as {root}/sl"):
            list(read_common_voice(root, "train", ReadingReport()))


@pytest.mark.parametrize(
    "name, content",
    [
        ("not-gzip.tsv.gz", b"path\tsentence\n"),
        ("cut.tsv.gz", gzip.compress(os.urandom(1000).hex().encode())[:-100]),
        ("flipped.tsv.gz", gzip.compress(b"path\tsentence\n" * 1000, mtime=0)[:12] + b"\xff" * 40),
    ],
)
def test_damaged_tables(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: damaged or not a UTF-8 table, after line \d"):
        list(read_table(tmp_path / name, ["path"]))


# ---- VoxPopuli

EVENT = "20180313-0900-PLENARY-5_sv"
SECONDS = 9.7


@pytest.fixture
def voxpopuli(tmp_path) -> Path:
    root = tmp_path / "voxpopuli"
    write_clip(root / "raw_audios" / "sv" / "2018" / f"{EVENT}.ogg", SECONDS, seed=1)
    write_clip(root / "raw_audios" / "sl" / "2009" / "20090112-0900-PLENARY_sl.ogg", 4, seed=2)
    return root


def write_segments(
    root: Path, rows, columns=("event_id", "segment_no", "start", "end"), name="unlabelled_v2.tsv.gz"
) -> Path:
    plain = write_table(root / "segments.tsv", columns, [dict(zip(columns, row, strict=True)) for row in rows])
    table = root / "annotations" / name
    table.parent.mkdir(exist_ok=True)
    table.write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    return table


def segment(event, number, start, end, language):
    path = f"raw_audios/{event.rpartition('_')[2]}/{event[:4]}/{event}.ogg"
    return lambda root: utterance(f"{event}_{number}", root / path, end - start, language, start=start, end=end)


def test_voxpopuli_rows(voxpopuli):
    slovene = "20090112-0900-PLENARY_sl"
    write_segments(
        voxpopuli,
        [
            (EVENT, "0", "0.0", "2.25"),
            (slovene, "7", "1.5", "3"),
            ("20090112-0900-PLENARY_en", "0", "1.5", "3"),  # no recording of English is there
            (EVENT, "12", "3.0625", f"{SECONDS + 0.05}"),  # a rounded end
        ],
    )
    expected = [
        segment(EVENT, 0, 0.0, 2.25, "sv-SE")(voxpopuli),
        segment(slovene, 7, 1.5, 3.0, "sl")(voxpopuli),
        segment(EVENT, 12, 3.0625, SECONDS, "sv-SE")(voxpopuli),
    ]
    report = ReadingReport()
    rows = list(read_voxpopuli(voxpopuli, report))
    assert rows == expected
    assert set(rows[0]) == set(FEATURES)
    assert (report.read, report.lines) == (3, [])
    report = ReadingReport()
    assert list(read_voxpopuli(voxpopuli, report, ["sl"])) == [expected[1]]
    assert report.read == 1
    with pytest.raises(ValueError, match="raw_audios: no recordings of de; there are sl, sv-SE"):
        list(read_voxpopuli(voxpopuli, ReadingReport(), ["de"]))
    assert {row["language"] for row in read_voxpopuli(voxpopuli, report, ["sv", "de"])} == {"sv-SE"}
    assert report.notes[-1] == f"{voxpopuli / 'raw_audios'}: no recordings of de; there are sl, sv-SE"


def test_voxpopuli_sentences_that_are_known_for_comparison(voxpopuli):
    write_segments(voxpopuli, [(EVENT, "0", "0", "1"), (EVENT, "1", "1", "2")])
    truth = [(EVENT, "1", "tva\u030a  ord"), (EVENT, "2", "inte där")]
    write_segments(voxpopuli, truth, ("event_id", "segment_no", "sentence"), "truth.tsv.gz")
    rows = list(read_voxpopuli(voxpopuli, ReadingReport()))
    assert [(row["text"], row["source"]) for row in rows] == [(None, None), ("tv\u00e5 ord", "reference")]


def test_voxpopuli_segments_are_slices_of_the_recording(voxpopuli):
    times = [("0", "0.5"), ("0.37", "1.86"), ("2.5", "6.125"), ("8.33", "9.7"), ("9.2", "9.79")]
    write_segments(voxpopuli, [(EVENT, str(i), *time) for i, time in enumerate(times)])
    whole, rate = soundfile.read(voxpopuli / f"raw_audios/sv/2018/{EVENT}.ogg", dtype="float32")
    assert rate == 16000
    rows = list(read_voxpopuli(voxpopuli, ReadingReport()))
    assert len(rows) == len(times)
    for row, (start, end) in zip(rows, times, strict=True):
        expected = whole[round(float(start) * rate) : round(float(end) * rate)]
        np.testing.assert_array_equal(load_audio(row["audio"]), expected)
        assert row["duration_seconds"] == pytest.approx(len(expected) / rate, abs=1e-4)


def test_voxpopuli_bad_rows(voxpopuli):
    damaged = voxpopuli / "raw_audios" / "sv" / "2010" / "20100101_sv.ogg"
    damaged.parent.mkdir()
    damaged.write_bytes(b"OggS and nothing else")
    reasons_of_rows = {
        ("20110101_sv", "1", "0", "1"): "no recording",
        ("20100101_sv", "2", "0", "1"): "unreadable audio",
        (EVENT, "3", "0", f"{SECONDS + 0.2}"): "segment outside its recording",
        (EVENT, "4", f"{SECONDS + 0.02}", f"{SECONDS + 0.08}"): "segment outside its recording",
        (EVENT, "5", "-0.5", "1"): "segment outside its recording",
        (EVENT, "6", "2", "2"): "segment outside its recording",
        (EVENT, "7", "3", "2"): "segment outside its recording",
        (EVENT, "8", "nan", "2"): "segment outside its recording",
        (EVENT, "9", "0", "inf"): "segment outside its recording",
        (EVENT, "10", "zero", "2"): "start or end is not a number",
        (EVENT, "11", "0", ""): "start or end is not a number",
        (f"../sv/2018/{EVENT}", "12", "0", "1"): "event id is not a file name",
        ("2018/0313_sv", "13", "0", "1"): "event id is not a file name",
    }
    table = write_segments(voxpopuli, [(EVENT, "0", "0", "1"), *reasons_of_rows, (EVENT, "14", "1", "2")])
    report = ReadingReport()
    rows = list(read_voxpopuli(voxpopuli, report))
    assert [row["id"] for row in rows] == [f"{EVENT}_0", f"{EVENT}_14"]
    (note,) = report.notes
    assert note == f"{table}: has no segments of the recordings of sl that are asked for"
    report.lines.remove(note)
    assert_dropped(report, table, 3, list(reasons_of_rows.values()))


def test_voxpopuli_wrong_folders(voxpopuli, tmp_path):
    def read(root):
        return list(read_voxpopuli(root, ReadingReport()))

    with pytest.raises(ValueError, match=r"no VoxPopuli corpus; expected folders such as .*raw_audios/sl"):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"unlabelled_v2\.tsv\.gz: no such file; tables there: none"):
        read(voxpopuli)
    write_segments(voxpopuli, [(EVENT, "0", "1")], ["event_id", "segment_no", "end"])
    with pytest.raises(ValueError, match=r"unlabelled_v2\.tsv\.gz: column start is missing"):
        read(voxpopuli)


# ---- lists


@pytest.fixture
def table(tmp_path) -> Path:
    """Writes recordings of four speakers; Dora's second one has no sentence."""
    rows = []
    for i, speaker in enumerate(["ana", "ben", "cid", "dora"]):
        for j in range(2):
            clip = write_clip(tmp_path / "list" / speaker / f"{j}.wav", 0.2 + 0.1 * i + 0.05 * j)
            sentence = "" if (speaker, j) == ("dora", 1) else f"{speaker}  govori {j}"
            row = {"sentence": sentence, "language": "de" if speaker == "ben" else "sl", "speaker": speaker}
            rows.append({"path": f"{speaker}/{clip.name}", **row})
    return write_table(tmp_path / "list" / "all.tsv", ["speaker", "path", "extra", "language", "sentence"], rows)


def ids(splits):
    return {split: [row["id"] for row in rows] for split, rows in splits.items()}


def test_list_splits(table):
    report = ReadingReport()
    splits = read_list(table, report, None, None, ["ben"], ["cid"])
    assert ids(splits) == {
        "train": ["ana/0", "ana/1", "dora/0"],
        "dev": ["ben/0", "ben/1"],
        "test": ["cid/0", "cid/1"],
        "unlabelled": ["dora/1"],
    }
    clip = table.parent / "ana" / "1.wav"
    assert splits["train"][1] == utterance("ana/1", clip, 0.25, "sl", "ana govori 1", "ana", "human")
    assert splits["unlabelled"] == [utterance("dora/1", table.parent / "dora" / "1.wav", 0.55, "sl", speaker="dora")]
    assert (report.read, report.lines) == (8, [])


def test_list_keeps_the_sentences_of_unlabelled_speakers(table):
    splits = read_list(table, ReadingReport(), train_speakers=["ana"], test_speakers=["cid"])
    assert ids(splits) == {
        "train": ["ana/0", "ana/1"],
        "test": ["cid/0", "cid/1"],
        "unlabelled": ["ben/0", "ben/1", "dora/0", "dora/1"],
    }
    known = [(f"{speaker} govori {j}", "reference") for speaker in ("ben", "dora") for j in range(2)]
    assert [(row["text"], row["source"]) for row in splits["unlabelled"]] == [*known[:3], (None, None)]
    assert {row["text"] for row in splits["test"]} == {"cid govori 0", "cid govori 1"}


def test_list_languages(table):
    report = ReadingReport()
    assert ids(read_list(table, report, ["de"])) == {"train": ["ben/0", "ben/1"]}
    assert report.summary() == "2 rows read, 2 kept"


def test_list_refuses_wrong_speakers(table):
    with pytest.raises(ValueError, match=r"all\.tsv: no clips of the speakers eva, fran; there are ana, ben, cid, do"):
        read_list(table, ReadingReport(), train_speakers=["ana", "fran"], dev_speakers=["eva"])
    with pytest.raises(ValueError, match="speakers in more than one split: ben"):
        read_list(table, ReadingReport(), train_speakers=["ana", "ben"], test_speakers=["ben"])


def test_list_bad_rows(table):
    write_clip(table.parent.parent / "secret.wav", 0.3)
    (table.parent / "empty.wav").write_bytes(b"")
    first = append_rows(
        table,
        "ana\t../secret.wav\t\tsl\tSkrivnost.",
        f"ana\t{table.parent.parent}/secret.wav\t\tsl\tSkrivnost.",
        "ana\tana/../../secret.wav\t\tsl\tSkrivnost.",
        "ana\tempty.wav\t\tsl\tNič.",
        "ana\t\t\tsl\tNič.",
        "ana\tana/0.wav",
        "ana\tana/0.wav\t\tsl\tNič.\tmore",
    )
    report = ReadingReport()
    assert ids(read_list(table, report, ["sl"])) == {
        "train": ["ana/0", "ana/1", "cid/0", "cid/1", "dora/0"],
        "unlabelled": ["dora/1"],
    }
    outside = "path is not inside the table's folder"
    reasons = [*[outside] * 3, "unreadable audio", "no path", *["wrong number of columns"] * 2]
    (way_out,) = report.notes
    assert way_out.startswith(f"{table}: 3 paths are not inside its folder; move the table")
    report.lines.remove(way_out)
    assert_dropped(report, table, first, reasons)


def test_list_missing_table_or_column(table):
    with pytest.raises(ValueError, match=r"none\.tsv: no such file; tables there: all\.tsv"):
        read_list(table.with_name("none.tsv"), ReadingReport())
    table.write_text("name\tsentence\tlanguage\n")
    with pytest.raises(ValueError, match=r"all\.tsv: no column is known to be that of the recordings; .* has name, s"):
        read_list(table, ReadingReport())


# ---- utterance files


def plain(name: str, language="sl", text: str | None = "Da.", **values) -> dict:
    audio = {"path": f"/clips/{name}.mp3", "offset": None, "size": None, "start": None, "end": None}
    row = {"id": name, "audio": audio, "duration_seconds": 1.25, "language": language, "text": text}
    return row | {"speaker": None, "source": None} | values


def test_utterance_files_round_trip(tmp_path):
    rows = [plain(f"{i}", text=text) for i, text in enumerate([*SENTENCES.values(), None, "", "a\nb\tc\r\0"])]
    part = {"path": "/long recordings/ž.tar", "offset": 2**40, "size": 512, "start": 0.1 + 0.2, "end": 2**0.5}
    rows += [plain("part", "sv-SE", None, audio=part, speaker="ana", source="user/teacher@0123abc")]
    assert write_utterances(iter(rows), tmp_path / "a" / "rows.parquet") == len(rows)
    dataset = read_utterances([tmp_path / "a" / "rows.parquet"])
    assert dataset.features == FEATURES
    assert list(dataset) == rows
    assert os.listdir(tmp_path / "a") == ["rows.parquet"]


def test_utterance_files_of_many_rows_and_of_none(tmp_path):
    many, none = tmp_path / "many.parquet", tmp_path / "none.parquet"
    names = [f"{i}" for i in range(20_001)]
    assert write_utterances(map(plain, names), many) == len(names)
    assert write_utterances([], none) == 0
    dataset = read_utterances([none, many, none])
    assert list(dataset["id"]) == names
    assert dataset.features == FEATURES
    assert len(read_utterances([none])) == 0


def test_utterance_files_may_have_more_columns_and_odd_names(tmp_path):
    more = datasets.Features({**FEATURES, "confidence": datasets.Value("float64")})
    path = tmp_path / "new [1] *? {a,b}" / "š 'rows'.parquet"
    write_utterances([plain("a", confidence=0.5)], path, more)
    assert pq.read_table(path)["confidence"].to_pylist() == [0.5]
    dataset = read_utterances([str(path)])
    assert list(dataset) == [plain("a")]
    assert dataset.features == FEATURES


def test_an_interrupted_utterance_file_does_not_appear(tmp_path):
    def interrupted():
        yield from map(plain, map(str, range(10_001)))
        raise KeyboardInterrupt

    path = tmp_path / "rows.parquet"
    with pytest.raises(KeyboardInterrupt):
        write_utterances(interrupted(), path)
    assert not path.exists()
    assert list(tmp_path.glob("[!.]*.parquet")) == []

    write_utterances([plain("old")], path)
    with pytest.raises(KeyboardInterrupt):
        write_utterances(interrupted(), path)
    assert list(read_utterances([path])["id"]) == ["old"]
    write_utterances([plain("new")], path)
    assert list(read_utterances([path])["id"]) == ["new"]


def test_a_changed_utterance_file_is_read_again(tmp_path):
    """`datasets` keeps a converted copy of every file that it has read."""
    path = tmp_path / "rows.parquet"
    for text in ("one", "two", "one"):
        write_utterances([plain("a", text=text)], path)
        for _ in range(2):
            assert read_utterances([path])["text"][:] == [text]


def test_utterances_of_some_languages(tmp_path):
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    write_utterances([plain("a", "sl"), plain("b", "de"), plain("c", "sv-SE")], first)
    write_utterances([plain("d", "de"), plain("e", "sl")], second)
    assert list(read_utterances([first, second])["id"]) == list("abcde")
    assert list(read_utterances([second, first], ["sl"])["id"]) == ["e", "a"]
    assert list(read_utterances([first, second], ["sv-SE", "de"])["id"]) == ["b", "c", "d"]
    with pytest.raises(
        ValueError, match="first.parquet, .*second.parquet: no utterances of fr, sv; there are de, sl, sv-SE"
    ):
        read_utterances([first, second], ["sv", "fr", "de"])


def test_utterance_files_that_are_refused(tmp_path):
    good, other = tmp_path / "good.parquet", tmp_path / "other.parquet"
    write_utterances([plain("a"), plain("b")], good)
    write_utterances([plain("c"), plain("b"), plain("a")], other)
    message = f"2 ids stand for more than one utterance, a among them, in {good} and {other}"
    with pytest.raises(ValueError, match=message):
        read_utterances([good, other])
    pq.write_table(pa.table({"id": ["a"], "text": ["b"]}), other)
    with pytest.raises(ValueError, match=r"other\.parquet: not an utterance file, it has no column audio, duration_s"):
        read_utterances([good, other])
    for content in (b"", b"id\ttext\n" * 10, good.read_bytes()[:-10]):
        other.write_bytes(content)
        with pytest.raises(ValueError, match=r"other\.parquet: not an utterance file, it is no Parquet file"):
            read_utterances([good, other])
    with pytest.raises(FileNotFoundError, match=r"nowhere\.parquet: no such utterance file; `hf-mlpl prepare-data`"):
        read_utterances([good, tmp_path / "nowhere.parquet"])
    with pytest.raises(ValueError, match="no utterance files were given"):
        read_utterances([])


WRONG = [
    # column, what all rows have of it, what the second row has instead, what the error says
    (
        "duration_seconds",
        1.0,
        math.nan,
        "row 1 (id b): duration_seconds is nan; a finite number, 0 or more, is accepted",
    ),
    ("duration_seconds", 1.0, math.inf, "row 1 (id b): duration_seconds is inf; "),
    ("duration_seconds", 1.0, -0.5, "row 1 (id b): duration_seconds is -0.5; "),
    ("duration_seconds", 1.0, None, "row 1 (id b): duration_seconds is None; "),
    ("duration_seconds", "1.0", "2.0", "duration_seconds holds string; a number of seconds is accepted"),
    ("id", "a", None, "row 1 (id None): id is None; a text is accepted"),
    ("id", 1, 2, "id holds int64; a string is accepted"),
    ("language", "sl", None, "row 1 (id b): language is None; a text is accepted"),
    ("text", ["a"], ["b"], "text holds list<element: string>; a string is accepted"),
    ("audio", "a.wav", "b.wav", "audio holds string; a struct with path, offset, size, start and end is accepted"),
    ("audio", {"path": "a"}, {"path": None}, "row 1 (id b): audio.path is None; a text is accepted"),
    ("audio", {"path": "a"}, None, "row 1 (id b): audio.path is None; a text is accepted"),
    ("audio", {"path": "a", "start": 0.0}, {"path": "a", "start": math.nan}, "row 1 (id b): audio.start is nan; "),
    ("audio", {"path": "a", "offset": 1}, {"path": "a", "offset": -1}, "row 1 (id b): audio.offset is -1; "),
]


@pytest.mark.parametrize("column, usual, wrong, told", WRONG)
def test_wrong_values_of_utterance_files_are_one_line(tmp_path, column, usual, wrong, told):
    path = tmp_path / "wrong.parquet"
    rows = [plain("a", audio={"path": "a"}) | {column: usual}, plain("b", audio={"path": "a"}) | {column: wrong}]
    if column == "id":
        rows[0]["id"] = usual
    pq.write_table(pa.Table.from_pylist(rows), path)
    readers = [
        lambda: read_utterances([path]),
        lambda: list(read_columns([path], list(FEATURES))),
    ]
    for reader in readers:
        with pytest.raises(ValueError, match=re.escape(f"{path}: {told}")) as caught:
            reader()
        assert "\n" not in str(caught.value)


def test_a_null_among_the_languages_is_one_line(tmp_path):
    rows = pa.Table.from_pylist([plain("a"), plain("b") | {"language": None}], schema=FEATURES.arrow_schema)
    pq.write_table(rows, tmp_path / "wrong.parquet")
    with pytest.raises(ValueError, match="wrong.parquet: row 1: language is None; a text is accepted"):
        languages_of([tmp_path / "wrong.parquet"])
    with pytest.raises(ValueError, match="has a null as language; a value in every row is accepted"):
        distinct(datasets.Dataset(rows), "language")


def test_damage_inside_an_utterance_file_is_one_line(tmp_path):
    path = tmp_path / "damaged.parquet"
    write_utterances([plain(str(number)) for number in range(2000)], path)
    content = bytearray(path.read_bytes())
    content[100:2000] = bytes(1900)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path}: cannot be read, it is damaged or not an utterance file: ") as e:
        read_utterances([path])
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match=rf"{path}: an utterance from row 0 on cannot be written: ") as e:
        write_utterances([plain("a", duration_seconds="long")], path)


def test_files_of_the_time_before_containers(tmp_path):
    """Files of earlier versions have neither offset nor size in their audio."""
    audio = {"path": "a.mp3", "start": None, "end": 2.0}
    row = {"id": "a", "audio": audio, "duration_seconds": 2.0, "language": "sl", "text": "a", "speaker": None}
    pq.write_table(pa.Table.from_pylist([row | {"source": "human"}]), tmp_path / "old.parquet")
    (read,) = read_utterances([tmp_path / "old.parquet"])
    assert read == row | {"source": "human", "audio": audio | {"offset": None, "size": None}}


# ---- the scripts


@pytest.fixture
def run_script(quick_python):
    def run_script(name, *arguments) -> subprocess.CompletedProcess:
        command = [quick_python, ROOT / "recipes" / name, *arguments]
        environment = os.environ | {"HF_DATASETS_CACHE": str(datasets.config.HF_DATASETS_CACHE)}
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)

    return run_script


def test_scripts_from_corpora_to_tokens(run_script, tmp_path, table, voxpopuli):
    release, data = tmp_path / "release", tmp_path / "data"
    for i, (split, sentence) in enumerate([("train", "Bežiš."), ("dev", "Xyz"), ("test", "Qw")]):
        write_locale(release / "sl", {sentence: sentence}, split, first=i)
        append_rows(release / "sl" / f"{split}.tsv", *[f"s\tmissing_{n}.mp3\tText.{7 * chr(9)}" for n in range(5)])
    write_segments(voxpopuli, [(EVENT, "0", "0", "1"), (EVENT, "1", "9", "99")])
    corpora = ["--common-voice", release, "--voxpopuli", voxpopuli, "--list", table, "--test-speakers", "cid"]
    done = run_script("prepare_data.py", *corpora, "--output", data)
    assert done.returncode == 0, done.stderr

    splits = ["train", "dev", "test", "unlabelled"]
    reports = ["durations.png", "quarantine.tsv", "report.json", "report.txt"]
    assert sorted(os.listdir(data)) == sorted([*reports, *(f"{split}.parquet" for split in splits)])
    written = {split: list(read_utterances([data / f"{split}.parquet"])["id"]) for split in splits}
    assert written == {
        "train": ["common_voice_sl_0", "ana/0", "ana/1", "ben/0", "ben/1", "dora/0"],
        "dev": ["common_voice_sl_1"],
        "test": ["common_voice_sl_2", "cid/0", "cid/1"],
        "unlabelled": [f"{EVENT}_0", "dora/1"],
    }
    sources = {split: [source.name for source in sources_of([data / f"{split}.parquet"])] for split in splits}
    lists = [f"{table.name} (own recordings)"]
    assert sources == {
        "train": ["release (in the format of Common Voice)", *lists],
        "dev": ["release (in the format of Common Voice)"],
        "test": ["release (in the format of Common Voice)", *lists],
        "unlabelled": ["VoxPopuli", *lists],
    }
    lines = (data / "report.txt").read_text().splitlines()
    leaks = [line for line in lines if line.endswith(" of sl have 1 speakers in common, such as s")]
    assert [line.split()[1:4:2] for line in leaks] == [["train", "dev"], ["train", "test"], ["dev", "test"]]
    head, report = lines[:-16], lines[-16:]
    notes = [
        f"{voxpopuli}/annotations/unlabelled_v2.tsv.gz: has no segments of the recordings of sl that are asked for"
    ]
    assert head[8:] == [*leaks, *notes]
    assert head[0] == "28 rows read, 12 kept; dropped: 15 unreadable audio, 1 segment outside its recording"
    assert [line.split()[0] for line in head[1:6]] == ["hours", "de", "sl", "sv-SE", "all"]
    assert [line.partition(" that train lacks: ")[0] for line in head[6:8]] == [
        "characters of dev",
        "characters of test",
    ]
    assert all(line.count(": unreadable audio: ") == 1 for line in report[:15])
    rows = [f"{release}/sl/{split}.tsv:{row}" for split in ("train", "dev", "test") for row in range(3, 8)]
    assert [line.partition(": ")[0] for line in report[:15]] == rows
    assert report[15].endswith("/unlabelled_v2.tsv.gz:3: segment outside its recording: 9.0-99.0 s of 9.70 s")
    assert done.stdout.splitlines() == [
        *(f"{data}/{split}.parquet: {len(written[split])} utterances" for split in splits),
        *head,
        *report[:10],
        f"all of it: {data}/report.txt",
        f"next: hf-mlpl build-tokenizer {data}/train.parquet --output tokens-all.lst",
    ]

    done = run_script("build_tokenizer.py", data / "train.parquet", "--output", tmp_path / "tokens.lst")
    assert done.returncode == 0, done.stderr
    characters = sorted(set("Bežiš. ana ben dora govori 0 1") - {" "})  # not X, y, z, Q, w of dev and test
    assert (tmp_path / "tokens.lst").read_text().splitlines() == ["|", *characters]
    assert f"{len(characters) + 1} entries from 6 transcripts" in done.stdout


@pytest.fixture
def run_here(monkeypatch, capsys):
    """Runs a script in this process, because starting another one takes seconds; returns its exit status, or its line
    if that is an error, and what it printed."""

    def run(name, *arguments):
        script, status = str(ROOT / "recipes" / name), 0
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as stopped:
            status = stopped.code
        out, err = capsys.readouterr()
        if status == 1:  # whose line is the last one of standard error, behind the progress bar
            status = next(line for line in reversed(err.splitlines()) if line.startswith("error: "))
        return status, out

    return run


MISTAKES = [
    (["prepare_data.py", "--common-voice", "release"], "release/sl/train.tsv: column sentence is missing; the header"),
    (["prepare_data.py", "--common-voice", "nowhere"], "nowhere: no Common Voice release; expected folders such as"),
    (["prepare_data.py", "--voxpopuli", "nowhere"], "nowhere: no VoxPopuli corpus; expected folders such as"),
    (
        ["prepare_data.py", "--voxpopuli-asr", "nowhere"],
        "nowhere: no transcribed VoxPopuli, such as nowhere/transcribed",
    ),
    (["prepare_data.py", "--librispeech", "nowhere"], "nowhere: no split of LibriSpeech, such as nowhere/test-clean"),
    (["prepare_data.py", "--list", "nowhere.tsv"], "nowhere.tsv: no such file; tables there: none"),
    (["build_tokenizer.py", "nowhere.parquet"], "nowhere.parquet: no such utterance file"),
    (["build_tokenizer.py", "unlabelled.parquet"], "unlabelled.parquet: no utterance has a text"),
]


@pytest.fixture
def folder_of_mistakes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_locale(Path("release/sl"), {"Da.": "Da."}, columns=["client_id", "path"])
    write_utterances([plain("a", text=None)], Path("unlabelled.parquet"))
    return tmp_path


@pytest.mark.parametrize("arguments, message", MISTAKES)
def test_scripts_answer_mistakes(folder_of_mistakes, run_here, arguments, message):
    status, _ = run_here(*arguments, "--output", "output")
    assert status.startswith(f"error: {message}") and "\n" not in status
    assert not list(folder_of_mistakes.glob("output/[!.]*")) and not Path("output").is_file()


@pytest.fixture
def prepared(tmp_path, monkeypatch, run_here):
    """Runs prepare_data.py in this process; returns its exit status or error line, and what it printed."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run_here("prepare_data.py", *arguments, "--output", "output")


def test_a_locale_without_a_table_is_told_and_the_others_are_prepared(prepared, tmp_path):
    for locale in ("sl", "vot"):
        for number, split in enumerate(["train", "dev", "test"]):
            write_locale(tmp_path / "release" / locale, {"Da.": "Da."}, split, first=number)
    (tmp_path / "release" / "vot" / "dev.tsv").unlink()
    status, printed = prepared("--common-voice", "release")
    assert status == 0 and "output/dev.parquet: 1 utterances" in printed and "next: " in printed
    line = "release/vot/dev.tsv: no such file; tables there: test.tsv, train.tsv"
    assert printed.count(line) == Path("output/report.txt").read_text().count(line) == 1
    status, printed = prepared("--common-voice", "release", "--languages", "sl", "sv")
    assert status == 0 and "output/dev.parquet: 1 utterances" in printed
    assert "release: no clips of sv-SE; there are sl, vot" in printed


def test_where_nothing_can_be_kept_there_is_one_line_and_no_next_step(prepared, tmp_path):
    """A delta release, whose tables are others; and one whose clips are not there."""
    write_locale(tmp_path / "delta" / "sl", {"Da.": "Da."}, "other")
    status, printed = prepared("--common-voice", "delta")
    assert status == "error: delta/sl/train.tsv: no such file; tables there: other.tsv (and 2 more)"
    assert "next: " not in printed and "parquet" not in printed and os.listdir("output") == []

    for split in ("train", "dev", "test"):
        write_table(tmp_path / "tables" / "sl" / f"{split}.tsv", COLUMNS, [{"path": "a.mp3", "sentence": "Da."}])
    (tmp_path / "tables" / "sl" / "clips").mkdir()
    status, printed = prepared("--common-voice", "tables")
    assert status == "error: none of 3 rows can be used: 3 unreadable audio; see output/report.txt"
    assert "next: " not in printed and not list(Path("output").glob("*.parquet"))


def test_without_labelled_speech_there_is_no_next_step(prepared, voxpopuli):
    write_segments(voxpopuli, [(EVENT, "0", "0.0", "2.25")])
    status, printed = prepared("--voxpopuli", voxpopuli)
    assert status == 0 and "output/unlabelled.parquet: 1 utterances" in printed and "train.parquet" not in printed


def test_a_mistake_ends_a_script_with_one_line(run_script, folder_of_mistakes):
    arguments, message = MISTAKES[0]
    done = run_script(*arguments, "--output", "output")
    assert done.returncode == 1
    lines = [
        line for line in done.stderr.splitlines() if line and not line.startswith("prepared: ")
    ]  # the progress bar
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {message}")
