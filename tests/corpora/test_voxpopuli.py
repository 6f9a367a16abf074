"""VoxPopuli in every layout of its downloads and scripts: each gives the same utterances and samples."""

import gzip
import io
import os
import shutil
import signal
import tarfile
import tracemalloc
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import ClassLabel, Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mlpl.audio.reading import load_audio
from hf_mlpl.corpora.preparation.parts import PARTS
from hf_mlpl.corpora.preparation.prepare import prepare
from hf_mlpl.corpora.preparation.published_parts import voxpopuli_parts
from hf_mlpl.corpora.readers import voxpopuli
from hf_mlpl.corpora.readers.voxpopuli import CODES, read_voxpopuli, segment
from hf_mlpl.corpora.readers.voxpopuli_asr import read_voxpopuli_asr, voxpopuli_asr_folders, voxpopuli_asr_locales
from hf_mlpl.corpora.reading import ReadingReport
from hf_mlpl.corpora.tables import read_table
from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.model.text import normalize_text

from ..tones import EVENT, RATE

RECORDING = f"raw_audios/sv/2020/{EVENT}.ogg"
SESSION = "20200115-0900-PLENARY-3"


def write_packed(path: Path, rows: list[tuple], delimiter: str, line_end="\n", start="") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = start + "".join(delimiter.join(map(str, row)) + line_end for row in rows)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    return path


def write_noise(path: Path, seconds: float, seed=0, rate=RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(scale=0.1, size=round(seconds * rate)).astype(np.float32)
    soundfile.write(path, noise, rate, format="OGG", subtype="VORBIS")
    return path


def write_tar(path: Path, members: dict[str, bytes], mode="w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def read(root, report=None, **how) -> list[dict]:
    return list(read_voxpopuli(root, ReadingReport() if report is None else report, **how))


def without_audio(rows: list[dict]) -> list[dict]:
    return [{field: value for field, value in row.items() if field != "audio"} for row in rows]


def assert_same_speech(rows: list[dict], expected: list[dict]) -> None:
    assert without_audio(rows) == without_audio(expected)
    for row, other in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(load_audio(row["audio"]), load_audio(other["audio"]))


# ---- unlabelled speech


@pytest.fixture(scope="module")
def long(tone_corpus) -> Path:
    return tone_corpus / "voxpopuli"


@pytest.fixture
def table(long) -> list[tuple]:
    """Returns the rows of the tones' table that are inside the recording."""
    rows = [row for _, row in read_table(long / "annotations" / "unlabelled_v2.tsv.gz", ("event_id",))]
    return [tuple(row.values()) for row in rows[:-1]]


@pytest.mark.parametrize("folder", ["raw_audios", "."])
@pytest.mark.parametrize("name", ["sv_2020.tar", "sv_2020_2.tar"])
def test_archives_are_read_in_place(long, tmp_path, monkeypatch, folder, name):
    # as it was downloaded: nothing is beside the archives but the table
    content = (long / RECORDING).read_bytes()
    write_tar(tmp_path / "raw_audios" / "sv_2019.tar", {"sv/2019/20191231-0900-PLENARY_sv.ogg": b"OggS"})
    archive = write_tar(tmp_path / folder / name, {"sv/2020/a.ogg": b"?", f"sv/2020/{EVENT}.ogg": content, "c": b"!"})
    shutil.copytree(long / "annotations", tmp_path / "annotations")
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.ogg")}
    expected_report, report = ReadingReport(), ReadingReport()
    expected, rows = read(long, expected_report), read(tmp_path, report)
    assert len(rows) == 24
    assert_same_speech(rows, expected)
    assert {(row["audio"]["path"], row["audio"]["size"]) for row in rows} == {(str(archive), len(content))}
    assert report.dropped == expected_report.dropped == {"segment outside its recording": 1}
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    write_utterances(rows, tmp_path / "unlabelled.parquet")
    assert_same_speech(list(read_utterances([tmp_path / "unlabelled.parquet"])), expected)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.ogg")}


def test_segments_of_one_speaker(long, tmp_path, table):
    shutil.copytree(long / "raw_audios", tmp_path / "raw_audios")
    write_packed(tmp_path / "unlabelled_data" / "unlabelled_sd.tsv.gz", [SD_COLUMNS, *table], "|")
    assert_same_speech(read(tmp_path), read(long))
    assert_same_speech(read(tmp_path, subset="10k_sd"), read(long))
    with pytest.raises(ValueError, match=r"unlabelled_v2\.tsv\.gz: no such file"):
        read(tmp_path, subset="10k")


SD_COLUMNS = "session_id id_ start_time end_time".split()


def test_segments_that_are_cut(long, tmp_path, table):
    """VoxPopuli's script compresses the segments a second time: the samples are nearly the same."""
    whole, _ = soundfile.read(long / RECORDING, dtype="float32")
    for event, number, start, end in table:
        path = tmp_path / "unlabelled_data" / "sv" / "2020" / f"{event}_{number}.ogg"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = whole[round(float(start) * RATE) : round(float(end) * RATE)]
        soundfile.write(path, part, RATE, format="OGG", subtype="VORBIS")
    (tmp_path / "unlabelled_data" / "sv" / "2020" / "notes.txt").write_text("not speech")
    expected = {row["id"]: row for row in read(long)}
    report = ReadingReport()
    rows = {row["id"]: row for row in read(tmp_path, report)}
    assert list(rows) == sorted(expected)
    for name, row in rows.items():
        heard, cut = load_audio(expected[name]["audio"]), load_audio(row["audio"])
        assert heard.shape == cut.shape and np.corrcoef(heard, cut)[0, 1] > 0.99
        assert row["duration_seconds"] == pytest.approx(expected[name]["duration_seconds"], abs=1 / RATE)
    assert without_audio(rows.values()) == without_audio(
        [expected[name] | {"duration_seconds": row["duration_seconds"]} for name, row in rows.items()]
    )
    assert (report.read, report.lines) == (24, [])
    # where the script has left the recordings beside what it has cut, each segment is read once, from them
    shutil.copytree(long, tmp_path, dirs_exist_ok=True)
    assert_same_speech(read(tmp_path), list(expected.values()))


def test_a_language_that_is_cut_beside_one_that_is_not(long, tmp_path):
    shutil.copytree(long, tmp_path, dirs_exist_ok=True)
    cut = write_noise(tmp_path / "unlabelled_data" / "sl" / "2011" / "20110117-1700-PLENARY_sl_7.ogg", 2)
    assert read(tmp_path, locales=["sl"])[0]["audio"]["path"] == str(cut)
    assert [row["language"] for row in read(tmp_path)] == ["sv-SE"] * 24 + ["sl"]
    with pytest.raises(ValueError, match="no recordings of de; there are sl, sv-SE"):
        read(tmp_path, subset="de")


EVENTS = {
    "20180704-0900-PLENARY-3_sl": {"100k", "400k", "sl", "sl_v2"},
    "20190101-0900-PLENARY_sl": {"10k", "100k", "400k", "sl", "sl_v2"},
    "20200731-0900-PLENARY_sv": {"10k", "100k", "400k", "sv", "sv_v2"},
    "20200801-0900-PLENARY_sv": {"100k", "400k", "sv", "sv_v2"},
    "20190304-1500-COMMITTEE-AGRI_sv": {"400k", "sv_v2"},
    "20190304-1500-COMMITTEE-AGRI_sl": {"400k", "sl_v2"},
}


@pytest.mark.parametrize("cut", [False, True], ids=["recordings", "cut"])
def test_subsets(tmp_path, cut):
    for event in EVENTS:
        code, year = event[-2:], event[:4]
        place = f"unlabelled_data/{code}/{year}/{event}_4.ogg" if cut else f"raw_audios/{code}/{year}/{event}.ogg"
        write_noise(tmp_path / place, 1)
    if not cut:
        rows = [("event_id", "segment_no", "start", "end"), *((event, 4, 0, 1) for event in EVENTS)]
        for name in ("unlabelled_v2.tsv.gz",):
            write_packed(tmp_path / "annotations" / name, rows, "\t")
        sd = [SD_COLUMNS, *((event, 4, 0, 1) for event in EVENTS)]
        write_packed(tmp_path / "annotations" / "unlabelled_sd.tsv.gz", sd, "|")
    for subset in ("10k", "10k_sd", "100k", "400k", "sl", "sl_v2", "sv", "sv_v2", None):
        report = ReadingReport()
        ids = {row["id"] for row in read(tmp_path, report, subset=subset)}
        belongs = {"10k_sd": "10k", None: "400k"}.get(subset, subset)
        assert ids == {f"{event}_4" for event, subsets in EVENTS.items() if belongs in subsets}, subset
        assert report.read == len(ids)
    assert {row["language"] for row in read(tmp_path, subset="10k", locales=["sl"])} == {"sl"}
    assert read(tmp_path, subset="sl", locales=["sv-SE"]) == []
    with pytest.raises(ValueError, match=r"VoxPopuli has no subset '1k'; its subsets are 10k, 10k_sd, 100k, 400k, en"):
        read(tmp_path, subset="1k")
    assert len(CODES) == 23


def test_recordings_that_are_not_there_or_damaged(tmp_path):
    recording = write_noise(tmp_path / "raw_audios" / "sl" / "2010" / "20100101_sl.ogg", 1)
    members = {"sl/2011/20110101_sl.ogg": b"OggS and nothing else", "sl/2011/20110102_sl.ogg": recording.read_bytes()}
    write_tar(tmp_path / "raw_audios" / "sl_2011.tar", members)
    events = ["20100101_sl", "20110101_sl", "20110102_sl", "20110103_sl", "20120101_sl"]
    rows = [("event_id", "segment_no", "start", "end"), *((event, 0, 0, 1) for event in events)]
    table = write_packed(tmp_path / "annotations" / "unlabelled_v2.tsv.gz", rows, "\t")
    report = ReadingReport()
    assert [row["id"] for row in read(tmp_path, report)] == ["20100101_sl_0", "20110102_sl_0"]
    assert report.dropped == {"unreadable audio": 1, "no recording": 2}
    assert [line.partition(": ")[0] for line in report.lines] == [f"{table}:{line}" for line in (3, 5, 6)]
    assert "sl_2011.tar" in report.lines[0] and "sl_2011.tar" in report.lines[1]
    assert report.lines[2].endswith("raw_audios/sl/2012/20120101_sl.ogg")
    (tmp_path / "raw_audios" / "sl_2011.tar").write_bytes(b"an error page of a server")
    report = ReadingReport()
    assert [row["id"] for row in read(tmp_path, report)] == ["20100101_sl_0"]
    assert report.dropped == {"unreadable audio": 3, "no recording": 1}


numbers = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="|\u2028\u2029"), max_size=8)
times = st.integers(0, 15).map(lambda sixteenth: sixteenth / 16)


@pytest.fixture(scope="module")
def two_recordings(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("two")
    for event in ("20190101-0900-PLENARY_sl", "20190102-0900-PLENARY_sl"):
        write_noise(root / "raw_audios" / "sl" / "2019" / f"{event}.ogg", 1)
    return root


@given(
    rows=st.lists(st.tuples(st.sampled_from([1, 2]), numbers, times, times)),
    form=st.sampled_from([("\t", "\n", ""), ("|", "\n", ""), ("|", "\r\n", ""), ("\t", "\r\n", "\ufeff")]),
    columns=st.permutations(range(5)),
)
@settings(max_examples=60, deadline=None)
def test_tables_of_any_content(two_recordings, rows, form, columns):
    """Quotes, spaces and letters of all kinds, rows in any order of recordings, columns in any order, and one more."""
    delimiter, line_end, start = form
    header = [*(SD_COLUMNS if delimiter == "|" else ("event_id", "segment_no", "start", "end")), "extra"]
    lines = [(f"2019010{day}-0900-PLENARY_sl", *rest, '"') for day, *rest in rows]
    written = [[line[i] for i in columns] for line in [header, *lines]]
    name = "unlabelled_sd.tsv.gz" if delimiter == "|" else "unlabelled_v2.tsv.gz"
    write_packed(two_recordings / "annotations" / name, written, delimiter, line_end, start)
    report = ReadingReport()
    found = read(two_recordings, report, subset="10k_sd" if delimiter == "|" else "10k")
    good = [line for line in lines if line[2] < line[3]]
    assert [(row["id"], row["audio"]["start"], row["audio"]["end"]) for row in found] == [
        (f"{event}_{number}", first, last) for event, number, first, last, _ in good
    ]
    assert report.read == len(rows) and report.dropped.total() == len(rows) - len(good)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_table(two_recordings):
    events = ["20190101-0900-PLENARY_sl", "20190102-0900-PLENARY_sl"]
    rows = [("event_id", "segment_no", "start", "end"), *((events[i % 2], i, 0, 1) for i in range(60_000))]
    write_packed(two_recordings / "annotations" / "unlabelled_v2.tsv.gz", rows, "\t")
    segments = read_voxpopuli(two_recordings, ReadingReport(), subset="10k")
    tracemalloc.start()
    for _ in islice(segments, 2000):
        pass
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    assert sum(1 for _ in segments) == 58_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - before < 500_000


# ---- in parts


@pytest.fixture
def mixed(two_recordings, tmp_path) -> Path:
    """Returns a corpus with all that can be wrong: of 40 rows some cannot be used, and a language is cut."""
    root = shutil.copytree(two_recordings, tmp_path / "corpus")
    events = [
        "20190101-0900-PLENARY_sl",
        "20190102-0900-PLENARY_sl",
        "20110101_sv",
        "20190101-0900-PLENARY_de",
        "?_sl",
    ]
    rows = [(events[i % 5 if i % 7 else 0], i, i / 64, (i + 16) / 64) for i in range(40)]
    rows[3], rows[20] = ("a row that is too short",), ("20190101-0900-PLENARY_sl", 99, 0.5, 0.25)
    write_tar(root / "raw_audios" / "sv_2010.tar", {"sv/2010/20100101_sv.ogg": b"OggS"})
    table = root / "annotations" / "unlabelled_v2.tsv.gz"
    write_packed(table, [("event_id", "segment_no", "start", "end"), *rows], "\t")
    for number in range(5):
        write_noise(root / "unlabelled_data" / "hr" / f"{2011 + number // 2}" / f"a{number}.ogg", 0.5)
    (root / "unlabelled_data" / "hr" / "2012" / "damaged.ogg").write_text("no sound")
    return root


@pytest.fixture
def in_pieces(monkeypatch):
    monkeypatch.setattr("hf_mlpl.corpora.readers.voxpopuli.PIECE", 4)


def prepared(root: Path, output: Path, workers: int = 1, in_one: bool = False, **how) -> dict[str, bytes]:
    parts = list(voxpopuli_parts(root, output / PARTS, how.get("locales"), how.get("subset")))
    if in_one:
        parts = [replace(parts[0], name="voxpopuli", read=partial(read_voxpopuli, root, **how))]
    assert prepare(parts, output, workers=workers).failed == []
    return {path.name: path.read_bytes() for path in output.iterdir()}


@pytest.mark.parametrize("damage", ["", "table", "no table"])
def test_parts_read_what_one_reads(mixed, tmp_path, in_pieces, damage):
    table = mixed / "annotations" / "unlabelled_v2.tsv.gz"
    if damage == "table":
        table.write_bytes(gzip.compress(gzip.decompress(table.read_bytes())[:400])[:-9])
    elif damage:
        table.unlink()
    for number, how in enumerate(({}, {"locales": ["sl", "lv"]}, {"subset": "10k"}, {"subset": "?"})):
        one = prepared(mixed, tmp_path / f"one {number}", in_one=True, **how)
        assert prepared(mixed, tmp_path / f"several {number}", **how) == one


def test_a_small_corpus_is_one_part(mixed, tmp_path):
    assert [part.name for part in voxpopuli_parts(mixed, tmp_path / PARTS, ["sl"], None)] == ["voxpopuli"]


def test_a_killed_preparation_reads_neither_the_table_nor_its_parts_again(mixed, tmp_path, in_pieces, monkeypatch):
    whole, calls = prepared(mixed, tmp_path / "whole"), tmp_path / "calls"

    def killed(recordings, event, *times):
        with open(calls, "a") as file:
            file.write(f"{times}\n")
        if calls.read_text().count("\n") == 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return segment(recordings, event, *times)

    monkeypatch.setattr(voxpopuli, "segment", killed)
    process = get_context("fork").Process(target=prepared, args=(mixed, tmp_path / "data"))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and not list(tmp_path.glob("data/[!.]*"))
    monkeypatch.setattr(voxpopuli, "read_table", None)  # it is not read again
    assert prepared(mixed, tmp_path / "data") == whole
    read = Counter(calls.read_text().splitlines())
    assert max(read.values()) == 2 and sum(count > 1 for count in read.values()) < 4  # those of one part


@pytest.mark.slow  # processes that are started anew import everything again
def test_several_processes_read_the_same(mixed, tmp_path, in_pieces):
    assert prepared(mixed, tmp_path / "two", workers=2) == prepared(mixed, tmp_path / "one")


# ---- transcribed speech

MANIFEST = "id raw_text normalized_text speaker_id split gender is_gold_transcript accent".split()
ANNOTATIONS = "session_id id_ original_text normed_text speaker_id split gender vad is_gold_transcript accent".split()
UTTERANCES = [  # id_, raw text, normalised text, speaker, split, pieces
    ("sl_20200115-09:10:06_0", 'Rekel je: "Ne.', "rekel je ne", "1237", "train", [(0.5, 2.25)]),
    ("sl_20200115-09:10:06_1", "", "brez surovega", "1237", "train", [(2.25, 3.0)]),
    ("sl_20200115-09:11:00_0", "c\u030cas\u00a0je  zlato", "čas je zlato", "None", "dev", [(3.0, 4.0), (4.5, 6.0)]),
    ("sl_20200115-09:12:00_0", "Konec.", "konec", "52", "test", [(6.5, 8.0)]),
]


def write_transcribed(root: Path, packed: bool) -> np.ndarray:
    """Writes a session of 9 s in the layout before (`packed`) or after VoxPopuli's script; returns its samples."""
    original = write_noise(root / "raw_audios" / "original" / "2020" / f"{SESSION}_original.ogg", 9, seed=3)
    samples, _ = soundfile.read(original, dtype="float32")
    folder = root / "transcribed_data" / "sl"
    if packed:
        rows = [
            (SESSION, name, raw, normalized, speaker, split, "female", str(vad), "False", "None")
            for name, raw, normalized, speaker, split, vad in UTTERANCES
        ]
        write_packed(folder / "asr_sl.tsv.gz", [ANNOTATIONS, *rows], "|")
        return samples
    (folder / "2020").mkdir(parents=True)
    for name, *_, vad in UTTERANCES:
        part = np.concatenate([samples[round(s * RATE) : round(t * RATE)] for s, t in vad])
        soundfile.write(folder / "2020" / f"{SESSION}-{name}.ogg", part, RATE, format="OGG", subtype="VORBIS")
    for split in ("train", "dev", "test"):
        lines = ["\t".join(MANIFEST)]
        for name, raw, normalized, speaker, its_split, _ in UTTERANCES:
            if its_split == split:
                row = (f"{SESSION}-{name}", raw, normalized, speaker, split, "female", "False", "None")
                lines.append("\t".join(row))
        (folder / f"asr_{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.rmtree(root / "raw_audios")
    return samples


@pytest.mark.parametrize("packed", [False, True], ids=["cut", "annotations"])
@pytest.mark.parametrize("text", ["raw_text", "normalized_text"])
def test_transcribed(tmp_path, packed, text):
    write_transcribed(tmp_path, packed)
    report = ReadingReport()
    rows = {split: list(read_voxpopuli_asr(tmp_path, split, report, text=text)) for split in ("train", "dev", "test")}
    texts = ['Rekel je: "Ne.', "\u010das je zlato", "Konec."]
    if text == "normalized_text":
        texts = ["rekel je ne", "brez surovega", "čas je zlato", "konec"]
        assert report.lines == []
    else:
        assert report.dropped == {"no raw_text": 1}
    assert [row["text"] for split in rows.values() for row in split] == texts
    assert rows["train"][0] | {"audio": None} == {
        "id": f"{SESSION}-sl_20200115-09:10:06_0",
        "audio": None,
        "duration_seconds": 1.75,
        "language": "sl",
        "text": texts[0],
        "speaker": "1237",
        "source": "human",
    }
    assert rows["dev"][0]["speaker"] is None
    # the pause between the pieces, half a second, is cut out by the script
    assert rows["dev"][0]["duration_seconds"] == (3.0 if packed else 2.5)


def test_transcribed_samples(tmp_path):
    samples = write_transcribed(tmp_path / "cut", packed=False)
    write_transcribed(tmp_path / "packed", packed=True)
    archive = tmp_path / "archive"
    content = (tmp_path / "packed" / "raw_audios" / "original" / "2020" / f"{SESSION}_original.ogg").read_bytes()
    write_tar(archive / "raw_audios" / "original_2020.tar", {f"original/2020/{SESSION}_original.ogg": content})
    shutil.copytree(tmp_path / "packed" / "transcribed_data" / "sl", archive / "annotations" / "asr")
    for split, first, last in (("train", 0.5, 2.25), ("test", 6.5, 8.0)):
        expected = samples[round(first * RATE) : round(last * RATE)]
        cut, packed, unextracted = (
            next(read_voxpopuli_asr(tmp_path / layout, split, ReadingReport()))
            for layout in ("cut", "packed", "archive")
        )
        np.testing.assert_array_equal(load_audio(packed["audio"]), expected)
        np.testing.assert_array_equal(load_audio(unextracted["audio"]), expected)
        assert np.corrcoef(load_audio(cut["audio"]), expected)[0, 1] > 0.9  # vorbis packs noise badly
        assert without_audio([cut]) == without_audio([packed]) == without_audio([unextracted])


@pytest.mark.parametrize("names", [("{}-00000-of-00001.parquet", "."), ("0000.parquet", "partial-{}")])
def test_parquet_of_the_hub(tmp_path, names):
    """The Hub has Parquet files, whose languages are classes, and tables with archives."""
    write_transcribed(tmp_path / "cut", packed=False)
    for split in ("train", "dev", "test"):
        table = tmp_path / "cut" / "transcribed_data" / "sl" / f"asr_{split}.tsv"
        rows = [row for _, row in read_table(table, MANIFEST)]
        files = [table.parent / "2020" / f"{row['id']}.ogg" for row in rows]
        columns = {name: [row[name] for row in rows] for name in MANIFEST if name not in ("id", "split")} | {
            "audio_id": [row["id"] for row in rows],
            "language": [2] * len(rows),
            "audio": [{"bytes": file.read_bytes(), "path": file.name} for file in files],
        }
        dataset = Dataset.from_dict(columns).cast_column("language", ClassLabel(names=["en", "sv", "sl"]))
        place = tmp_path / "hub" / "sl" / names[1].format({"dev": "validation"}.get(split, split))
        place.mkdir(parents=True, exist_ok=True)
        dataset.to_parquet(place / names[0].format({"dev": "validation"}.get(split, split)))
        names_in_tar = {f"{split}_part_0/{file.stem}.wav": file.read_bytes() for file in files}
        write_tar(tmp_path / "main" / "data" / "sl" / split / f"{split}_part_0.tar.gz", names_in_tar, "w:gz")
        shutil.copy(table, tmp_path / "main" / "data" / "sl")
    for split in ("train", "dev", "test"):
        reports = ReadingReport(), ReadingReport()
        expected = list(read_voxpopuli_asr(tmp_path / "cut", split, reports[0]))
        rows = list(read_voxpopuli_asr(tmp_path / "hub", split, reports[1], ["sl"]))
        assert_same_speech(rows, expected)
        assert_same_speech(list(read_voxpopuli_asr(tmp_path / "main", split, ReadingReport())), expected)
        assert reports[0].dropped == reports[1].dropped and len(rows) == 1
    assert voxpopuli_asr_locales(tmp_path / "hub", "dev") == ["sl"]
    with pytest.raises(ValueError, match="hub: no transcribed dev speech of sv-SE; there are sl"):
        list(read_voxpopuli_asr(tmp_path / "hub", "dev", ReadingReport(), ["sv-SE"]))


@pytest.fixture(scope="module")
def one_session(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("session")
    write_noise(root / "packed" / "raw_audios" / "original" / "2020" / f"{SESSION}_original.ogg", 1)
    for number in range(4):
        write_noise(root / "cut" / "transcribed_data" / "sl" / "2020" / f"{SESSION}-{number}.ogg", 0.5)
    return root


@given(texts=st.lists(st.text(st.characters(exclude_characters="|\t\r\n\0", exclude_categories=["Cs"])), max_size=4))
@settings(max_examples=60, deadline=None)
def test_transcripts_of_any_content(one_session, texts):
    """Quotes and separators of all kinds, in the annotations and in the table that is made from them."""
    rows = [(SESSION, i, text, "n", "1", "train", "male", "[(0.25, 0.75)]", "", "") for i, text in enumerate(texts)]
    write_packed(one_session / "packed" / "annotations" / "asr" / "asr_sl.tsv.gz", [ANNOTATIONS, *rows], "|")
    rows = [(f"{SESSION}-{i}", text, "n", "1", "train", "male", "", "") for i, text in enumerate(texts)]
    lines = "".join("\t".join(row) + "\n" for row in [MANIFEST, *rows])
    (one_session / "cut" / "transcribed_data" / "sl" / "asr_train.tsv").write_bytes(lines.encode())
    expected = [normalize_text(text) for text in texts]
    for layout in ("packed", "cut"):
        report = ReadingReport()
        found = list(read_voxpopuli_asr(one_session / layout, "train", report))
        assert [row["text"] for row in found] == [text for text in expected if text]
        assert [row["duration_seconds"] for row in found] == [0.5] * len(found)
        assert report.read == len(texts) and report.dropped.total() == expected.count("")


def test_accented_english(tmp_path):
    write_transcribed(tmp_path, packed=True)
    shutil.copytree(tmp_path / "transcribed_data" / "sl", tmp_path / "transcribed_data" / "en_accented")
    (tmp_path / "transcribed_data" / "en_accented" / "asr_sl.tsv.gz").rename(
        tmp_path / "transcribed_data" / "en_accented" / "asr_en_accented.tsv.gz"
    )
    rows = list(read_voxpopuli_asr(tmp_path, "test", ReadingReport()))
    assert [row["language"] for row in rows] == ["sl", "en"]
    assert list(read_voxpopuli_asr(tmp_path, "test", ReadingReport(), ["en_accented"])) == rows[1:]
    assert voxpopuli_asr_locales(tmp_path, "test") == ["en_accented", "sl"]
    with pytest.raises(ValueError, match="no transcribed test speech of en; there are en_accented, sl"):
        list(read_voxpopuli_asr(tmp_path, "test", ReadingReport(), ["en"]))


def test_transcribed_rows_that_cannot_be_used(tmp_path):
    write_transcribed(tmp_path, packed=True)
    folder = tmp_path / "transcribed_data" / "sl"
    row = (SESSION, "0", "Da.", "da", "1", "train", "male", "[(0, 1)]", "True", "None")
    good = dict(zip(ANNOTATIONS, row, strict=True))
    bad = {
        "session id is not a file name": {"session_id": f"../{SESSION}"},
        "no raw_text": {"original_text": " "},
        "vad is not a list of times": {"vad": "[(0, 1"},
        "segment outside its recording": {"vad": "[(8, 9.5)]"},
        "no recording": {"session_id": "2020" + "x" * 300},
    }
    rows = [(good | change).values() for change in ({}, *bad.values(), {"vad": "[]"}, {"vad": "7"}, {"split": "new"})]
    write_packed(folder / "asr_sl.tsv.gz", [ANNOTATIONS, *rows, [SESSION, "1", "Da."]], "|")
    report = ReadingReport()
    assert len(list(read_voxpopuli_asr(tmp_path, "train", report))) == 1
    counts = dict.fromkeys(bad, 1) | {"vad is not a list of times": 3, "wrong number of columns": 1}
    assert report.dropped == counts
    lines = ["\t".join(MANIFEST)]
    for name in ("lost", "../lost", f"{SESSION}-0"):
        lines.append("\t".join((name, "Da.", "da", "1", "train", "male", "True", "None")))
    (folder / "asr_train.tsv").write_text("\n".join([*lines, "short"]))
    report = ReadingReport()
    assert list(read_voxpopuli_asr(tmp_path, "train", report)) == []
    assert report.dropped == {"unreadable audio": 2, "id is not a file name": 1, "wrong number of columns": 1}


def test_rows_of_the_annotations_with_a_delimiter_in_their_text(tmp_path):
    """Each is counted once, in its own split, and so is no other row."""
    write_transcribed(tmp_path, packed=True)
    row = dict(zip(ANNOTATIONS, (SESSION, "0", "Da.", "da", "1", "dev", "male", "[(0, 1)]", "True", "x"), strict=True))
    changes = [{}, {"original_text": "Da | ne."}, {"original_text": "a|b|c", "split": "test"}, {"id_": "7\udcff"}]
    rows = ["|".join((row | {"id_": str(i)} | change).values()) for i, change in enumerate(changes)]
    content = "\n".join(["|".join(ANNOTATIONS), *rows]).encode(errors="surrogateescape")
    (tmp_path / "transcribed_data" / "sl" / "asr_sl.tsv.gz").write_bytes(gzip.compress(content))
    reports = {split: ReadingReport() for split in ("train", "dev", "test")}
    found = {split: [row["id"] for row in read_voxpopuli_asr(tmp_path, split, reports[split])] for split in reports}
    assert found == {"train": [], "dev": [f"{SESSION}-0"], "test": []}
    assert {split: report.dropped for split, report in reports.items()} == {
        "train": {"bytes that are not UTF-8": 1},
        "dev": {"wrong number of columns": 1},
        "test": {"wrong number of columns": 1},
    }
    assert sum(report.read for report in reports.values()) == len(rows)


@pytest.mark.parametrize("packed", [False, True])
def test_none_is_no_text(tmp_path, packed):
    write_transcribed(tmp_path, packed)
    table = tmp_path / "transcribed_data" / "sl" / ("asr_sl.tsv.gz" if packed else "asr_train.tsv")
    content = gzip.decompress(table.read_bytes()) if packed else table.read_bytes()
    content = content.replace(b'Rekel je: "Ne.', b"None")
    table.write_bytes(gzip.compress(content) if packed else content)
    report = ReadingReport()
    assert list(read_voxpopuli_asr(tmp_path, "train", report)) == []
    assert report.dropped == {"no raw_text": 2}


def test_one_bad_language_archive_or_file_costs_the_others_nothing(tmp_path):
    write_transcribed(tmp_path / "cut", packed=False)
    cut = tmp_path / "cut" / "transcribed_data"
    (cut / "hr").mkdir()
    (cut / "hr" / "asr_train.tsv").write_text("id\traw_text\n")
    (cut / "fi").mkdir()
    report = ReadingReport()
    assert [row["language"] for row in read_voxpopuli_asr(tmp_path / "cut", "train", report)] == ["sl"]
    (note,) = report.notes
    assert "hr/asr_train.tsv: column speaker_id is missing" in note
    assert voxpopuli_asr_folders(tmp_path / "cut") == ["fi", "hr", "sl"]

    main = tmp_path / "main" / "data" / "sl"
    files = {f"train/{path.stem}.ogg": path.read_bytes() for path in sorted((cut / "sl" / "2020").iterdir())}
    write_tar(main / "train" / "train_part_0.tar.gz", files, "w:gz")
    (main / "train" / "train_part_1.tar.gz").write_bytes(b"an error page of a server")
    shutil.copy(cut / "sl" / "asr_train.tsv", main)
    report = ReadingReport()
    assert len(list(read_voxpopuli_asr(tmp_path / "main", "train", report))) == 1
    assert len(report.notes) == 1 and "train_part_1.tar.gz: not a tar archive" in report.notes[0]


def test_one_bad_archive_of_recordings_costs_the_other_nothing(tmp_path):
    recording = write_noise(tmp_path / "20110101_sl.ogg", 1)
    (tmp_path / "raw_audios").mkdir()
    (tmp_path / "raw_audios" / "sl_2011.tar").write_bytes(b"an error page of a server")
    write_tar(tmp_path / "raw_audios" / "sl_2011_2.tar", {"20110101_sl.ogg": recording.read_bytes()})
    rows = [("event_id", "segment_no", "start", "end"), ("20110101_sl", 0, 0, 1), ("20110102_sl", 0, 0, 1)]
    write_packed(tmp_path / "annotations" / "unlabelled_v2.tsv.gz", rows, "\t")
    report = ReadingReport()
    assert [row["id"] for row in read(tmp_path, report)] == ["20110101_sl_0"]
    assert report.dropped == {"unreadable audio": 1} and "sl_2011.tar: not a tar" in report.lines[0]


def test_no_transcribed_speech(tmp_path):
    assert voxpopuli_asr_locales(tmp_path, "dev") == []
    with pytest.raises(ValueError, match=r"no transcribed VoxPopuli; expected files such as .*/sl/asr_dev\.tsv"):
        list(read_voxpopuli_asr(tmp_path, "dev", ReadingReport()))
    with pytest.raises(ValueError, match="no 'text' of an utterance, but raw_text and normalized_text"):
        list(read_voxpopuli_asr(tmp_path, "dev", ReadingReport(), text="text"))
