"""Common Voice in every layout of its copies: the same speech gives the same utterances and samples."""

import csv
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_mlpl.audio.reading import audio_duration, load_audio
from hf_mlpl.corpora.locales import to_locale
from hf_mlpl.corpora.readers.common_voice import find_locales, read_common_voice, report_speaker_leaks
from hf_mlpl.corpora.reading import ReadingReport
from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.model.text import normalize_text

from ..packing import RELEASE, pack_archives, pack_parquet, pack_tar

SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def release(tone_corpus) -> Path:
    return tone_corpus / "common-voice"


def read(root, report=None, locales=None) -> dict[str, list[dict]]:
    report = report or ReadingReport()
    return {split: list(read_common_voice(root, split, report, locales)) for split in SPLITS}


def without_audio(rows: dict[str, list[dict]]) -> dict[str, list[dict]]:
    return {split: [row | {"audio": None} for row in split_rows] for split, split_rows in rows.items()}


LAYOUTS = {
    "tar": lambda release, folder: pack_tar(release, folder / "all.tar"),
    "tar.gz": lambda release, folder: pack_tar(release, folder / "all.tar.gz"),
    "archives": lambda release, folder: pack_archives(release, folder / "downloads", ".tar.gz"),
    "parent": lambda release, folder: shutil.copytree(release, folder / RELEASE).parent,
    "parquet": lambda release, folder: pack_parquet(release, folder / "mirror"),
    "parquet-by-folder": lambda release, folder: pack_parquet(release, folder / "mirror", "text", with_locale=False),
    "parquet-mixed": lambda release, folder: pack_parquet(release, folder / "mirror", "transcription", flat=True),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_speech_is_the_same_utterances_and_samples(layout, release, tmp_path):
    report, packed_report = ReadingReport(), ReadingReport()
    expected = read(release, report)
    root = LAYOUTS[layout](release, tmp_path)
    assert find_locales(root) == find_locales(release) == ["de", "sv-SE"]
    found = read(root, packed_report)
    assert without_audio(found) == without_audio(expected)
    assert packed_report.dropped == report.dropped == {"unreadable audio": 1, "empty sentence": 1}
    assert (packed_report.read, packed_report.kept) == (report.read, report.kept)
    for split in SPLITS:
        for row, other in zip(expected[split], found[split], strict=True):
            np.testing.assert_array_equal(load_audio(other["audio"]), load_audio(row["audio"]))
    assert read(root, locales=["sv"])["test"] == [row for row in found["test"] if row["language"] == "sv-SE"]
    with pytest.raises(ValueError, match="no clips of sl; there are de, sv-SE"):
        read(root, locales=["sl"])
    # and through a file to training
    write_utterances(found["dev"], tmp_path / "dev.parquet")
    stored = read_utterances([tmp_path / "dev.parquet"])
    np.testing.assert_array_equal(load_audio(stored[3]["audio"]), load_audio(expected["dev"][3]["audio"]))


def test_one_locale_by_its_folder(release):
    assert read(release / "de")["dev"] == read(release, locales=["de"])["dev"]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_durations_of_a_release_that_lists_them_are_believed(suffix, release, tmp_path):
    copy = shutil.copytree(release / "de", tmp_path / "release" / "de").parent
    clips = sorted(path.name for path in (copy / "de" / "clips").iterdir())
    header = {clip: audio_duration(copy / "de" / "clips" / clip) for clip in clips}
    lines = [f"{clip}\t{round(1000 * header[clip]) + 1 + i}" for i, clip in enumerate(clips)]
    lines[0] = f"{clips[0]}\t0"  # as some have
    del lines[1]
    (copy / "de" / "clip_durations.tsv").write_text("\n".join(["clip\tduration[ms]", *lines, ""]))
    expected = {clip: header[clip] + (0 if i < 2 else (1 + i) / 1000) for i, clip in enumerate(clips)}
    (copy / "de" / "times.txt").write_text("of 14 to 16.0")
    for root in (copy, pack_tar(copy, tmp_path / f"a{suffix}")):
        report = ReadingReport()
        for row in (row for rows in read(root, report).values() for row in rows):
            assert row["duration_seconds"] == pytest.approx(expected[row["id"] + ".wav"], abs=1e-3)
        assert not report.notes
        assert report.dropped == {"unreadable audio": 1, "empty sentence": 1}  # though it is in the list
    (copy / "de" / "clips" / clips[-1]).write_bytes(b"")
    report = ReadingReport()
    read(copy, report)
    assert report.dropped["unreadable audio"] == 2


def wrong_seconds(header: float, i: int) -> str:
    return f"{header:.3f}"  # not milliseconds


def wrong_rows(header: float, i: int) -> str:
    return str(round(1000 * header) + 700 * (i % 2))


def wrong_twice(header: float, i: int) -> str:
    return "99000000" if i in (3, 40) else str(round(1000 * header))  # the 41st is outside of a sample of 32


@pytest.mark.parametrize("milliseconds", [wrong_seconds, wrong_rows, wrong_twice])
@pytest.mark.parametrize("suffix", ["", ".tar"])
def test_durations_that_are_wrong_are_noticed(suffix, milliseconds, release, tmp_path):
    copy = shutil.copytree(release / "de", tmp_path / "release" / "de").parent
    clips = sorted((copy / "de" / "clips").iterdir())
    header = {path.name: audio_duration(path) for path in clips}
    lines = [f"{name}\t{milliseconds(seconds, i)}" for i, (name, seconds) in enumerate(header.items())]
    (copy / "de" / "clip_durations.tsv").write_text("\n".join(["clip\tduration[ms]", *lines]))
    report = ReadingReport()
    rows = [
        row for rows in read(pack_tar(copy, tmp_path / "a.tar") if suffix else copy, report).values() for row in rows
    ]
    assert len(rows) == 48
    assert all(row["duration_seconds"] == pytest.approx(header[row["id"] + ".wav"], abs=1e-3) for row in rows)
    assert report.notes and all("clip_durations.tsv: " in line for line in report.notes)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_durations_of_an_archive_are_measured_once(suffix, release, tmp_path, monkeypatch):
    archive = pack_tar(release, tmp_path / f"a{suffix}")
    first = read(archive)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        archive.name,
        f"{archive.name}.durations.npz",
        f"{archive.name}.index.npz",
    ]
    monkeypatch.setattr("hf_mlpl.corpora.readers.releases.ArchivedRelease._measure", None)
    assert read(archive) == first


@pytest.mark.parametrize(
    "root", ["", "cv-corpus-22.0/sl/", "./cv-corpus-22.0-delta/sl/"], ids=["bare", "release", "dot"]
)
def test_beginnings_of_archives(root, release, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(release / "de", f"{root or 'sl/'}")
    (locale,) = find_locales(tmp_path / "a.tar")
    assert locale == "sl" and len(read(tmp_path / "a.tar")["dev"]) == 8


def test_an_archive_that_is_cut_off(release, tmp_path):
    """The part that was downloaded is read if it has the tables; the report explains what is missing."""
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        for path in [*sorted((release / "de").glob("*.tsv")), *sorted((release / "de" / "clips").iterdir())]:
            tar.add(path, f"{RELEASE}/{path.relative_to(release)}")
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    report = ReadingReport()
    rows = [row for rows in read(archive, report).values() for row in rows]
    assert 5 < len(rows) < 40 and all(len(load_audio(row["audio"])) for row in rows)
    assert report.kept == len(rows) and report.dropped["unreadable audio"] > 5
    assert sum("is damaged or cut off after" in line for line in report.lines) == 1
    with tarfile.open(archive, "w") as tar:
        tar.add(release / "de" / "clips", f"{RELEASE}/de/clips")
    archive.write_bytes(archive.read_bytes()[: len(content) // 2])
    report = ReadingReport()
    assert read(archive, report) == {"train": [], "dev": [], "test": []}
    missing = re.compile(r"de/\w+\.tsv: no such file; tables there: none; .*cut off")
    assert len(list(filter(missing.search, report.notes))) == 3


def test_what_is_no_release(tmp_path, release):
    for name, content in {"text.tar.gz": b"text", "sl.parquet": b"PAR1"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name) as error:
            read(tmp_path / name)
        assert "\n" not in str(error.value)
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(release / "de" / "dev.tsv", "readme.tsv")
    with pytest.raises(ValueError, match=r"other\.tar: no Common Voice release, it has no files such as"):
        read(tmp_path / "other.tar")
    with pytest.raises(ValueError, match="no split 'validation'; choose from train, dev"):
        list(read_common_voice(release, "validation", ReadingReport()))


def test_one_bad_locale_or_archive_costs_the_others_nothing(release, tmp_path):
    """A good locale beside others without a table, with an empty or a wrong one, without clips; broken archives."""
    good = {split: [row for row in rows if row["language"] == "de"] for split, rows in read(release).items()}
    root = tmp_path / "extracted"
    shutil.copytree(release / "de", root / "de")
    for locale in ("sl", "hr", "vot"):
        shutil.copytree(release / "sv-SE", root / locale)
    (root / "sl" / "dev.tsv").unlink()
    (root / "hr" / "dev.tsv").write_bytes(b"")
    (root / "vot" / "dev.tsv").write_text("path,sentence\na.mp3,ab\n")
    (root / "lv").mkdir()
    (root / "lv" / "train.tsv").write_text("client_id\tpath\tsentence\n")
    report = ReadingReport()
    found = list(read_common_voice(root, "dev", report))
    assert without_audio({"": found}) == without_audio({"": good["dev"]})
    assert [line.removeprefix(f"{root}/").partition(": ")[0] for line in report.notes] == [
        *("lv", "hr/dev.tsv", "sl/dev.tsv", "vot/dev.tsv")
    ]
    assert {row["language"] for row in read_common_voice(root, "train", ReadingReport())} == {"de", "hr", "sl", "vot"}

    downloads = pack_archives(release, tmp_path / "downloads", ".tar")
    (downloads / f"{RELEASE}-sv-SE.tar").write_bytes(b"an error page of a server")
    (downloads / f"{RELEASE}-sl.tar.gz").write_bytes(b"")
    (downloads / f"._{RELEASE}-de.tar").write_bytes(b"what macOS keeps beside a file")
    (downloads / f"{RELEASE}-hr.tar.gz").symlink_to("nowhere")
    report = ReadingReport()
    assert without_audio(read(downloads, report)) == without_audio(good)
    assert [line.partition(": ")[0] for line in report.notes] == [
        f"{downloads}/{RELEASE}-{locale}" for locale in ("hr.tar.gz", "sl.tar.gz", "sv-SE.tar")
    ]


def test_one_bad_file_of_a_mirror_costs_the_others_nothing(release, tmp_path):
    root = pack_parquet(release, tmp_path / "mirror")
    expected = read(root)
    for name, content in {"train-00000-of-00002": b"PAR1", "notes": b"", "._test-00000-of-00001": b"\0"}.items():
        (root / "sl").mkdir(exist_ok=True)
        (root / "sl" / f"{name}.parquet").write_bytes(content)
    (root / "hr").symlink_to(root / "de")  # followed, but nothing is read twice
    for path in (root / "de").glob("validation-*"):
        path.unlink()
    pq.write_table(pa.table({"audio": [{"bytes": b"", "path": "a"}], "sentence": [7]}), root / "sl" / "test-1.parquet")
    report = ReadingReport()
    found = read(root, report)
    assert found["train"] == expected["train"] and found["test"] == expected["test"]
    assert found["dev"] == [row for row in expected["dev"] if row["language"] == "sv-SE"]
    names = {Path(line.partition(": ")[0]).name for line in report.notes}
    assert names == {"notes.parquet", "train-00000-of-00002.parquet", "test-1.parquet"}


def test_two_releases_of_one_locale(release, tmp_path):
    for name in ("cv-6.1-de.tar", "cv-7.0-de.tar"):
        pack_tar(release, tmp_path / name, ["de"])
    with pytest.raises(ValueError, match="holds two releases of de, whose splits differ; name the path of one"):
        find_locales(tmp_path)


def test_rows_are_counted(release, tmp_path):
    copy = shutil.copytree(release / "de", tmp_path / "de").parent
    table = copy / "de" / "dev.tsv"
    lines = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join([*lines[:3], "", "", *lines[3:-1], lines[-1].replace("\t", "\t\r", 1), ""]), newline="")
    for root in (copy, pack_tar(copy, tmp_path / "a.tar")):
        report = ReadingReport()
        assert len(list(read_common_voice(root, "dev", report))) == 7
        assert report.dropped == {"wrong number of columns": 2} and report.read == 9
        (note,) = report.notes
        assert "dev.tsv: 10 lines but 9 rows" in note


@pytest.mark.parametrize("layout", ["folder", "tar.gz", "parquet"])
def test_speakers_of_two_splits_are_told(layout, release, tmp_path):
    copy = shutil.copytree(release, tmp_path / "release")
    table = copy / "sv-SE" / "test.tsv"
    table.write_text(table.read_text(encoding="utf-8").replace("sv-SE-test-1", "sv-SE-train-1"), encoding="utf-8")
    clean, leaky = ReadingReport(), ReadingReport()
    for root, report in ((release, clean), (copy, leaky)):
        place = tmp_path / f"packed-{root.name}"
        place.mkdir()
        packed = root if layout == "folder" else LAYOUTS[layout](root, place)
        report_speaker_leaks(packed, report)
        report_speaker_leaks(packed, report)  # told once
    assert not clean.lines
    (line,) = leaky.lines
    assert line.endswith("train and test of sv-SE have 1 speakers in common, such as sv-SE-train-1")
    assert leaky.kept == 0 and not leaky.dropped


def test_names_of_languages():
    assert {to_locale(name) for name in ("sv", "sv_SE", "sv-se", "SV-SE")} == {"sv-SE"}
    assert to_locale("zh_hk") == "zh-HK"
    locales = "ab fy-NL ga-IE hy-AM nan-tw ne-NP nn-NO pa-IN rm-sursilv rm-vallader sv-SE zh-CN kmr".split()
    assert [to_locale(locale) for locale in locales] == locales


def test_no_name_of_a_row_leads_out_of_an_archive(release, tmp_path):
    copy = shutil.copytree(release / "de", tmp_path / "de").parent
    with open(copy / "de" / "dev.tsv", "a", encoding="utf-8") as file:
        file.writelines(f"x\t{path}\tab{chr(9) * 7}\n" for path in ("../dev.tsv", "../../x", "/etc/hostname", ".."))
    report = ReadingReport()
    rows = list(read_common_voice(pack_tar(copy, tmp_path / "a.tar"), "dev", report))
    assert len(rows) == 8 and report.dropped == {"path is not a file name": 3, "unreadable audio": 1}


ODD = ['"', "'", '"a', 'a"b', '""', "\u2028", "\x85", "\x0b", "\x1c", "\ufeff", " ", "\\", "#"]
ANY = st.characters(exclude_characters="\t\n\r\0", exclude_categories=["Cs"])
FIELD = st.text(ANY, max_size=12) | st.sampled_from(ODD)


@settings(
    max_examples=75, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    rows=st.lists(st.tuples(FIELD, FIELD, FIELD), max_size=6),
    order=st.permutations(["client_id", "path", "sentence", "accents", "variant"]),
    end=st.sampled_from(["\n", "\r\n"]),
    start=st.sampled_from(["", "\ufeff"]),
    last_end=st.booleans(),
)
def test_any_text_is_read_as_it_stands(rows, order, end, start, last_end, release, tmp_path):
    """Quotes, any Unicode, any order of columns, either line end, a byte order mark, no line end at the end."""
    root = tmp_path / "release"
    if not root.exists():
        shutil.copytree(release / "de" / "clips", root / "de" / "clips")
    clip = sorted(path.name for path in (root / "de" / "clips").iterdir())[0]
    fields = [dict(zip(("client_id", "sentence", "variant"), row, strict=True)) | {"path": clip} for row in rows]
    lines = ["\t".join(order), *("\t".join(values.get(column, "") for column in order) for values in fields)]
    (root / "de" / "train.tsv").write_bytes((start + end.join(lines) + end * last_end).encode())
    archive = tmp_path / "a.tar"
    archive.unlink(missing_ok=True)
    expected = [(values["client_id"], text) for values in fields if (text := normalize_text(values["sentence"]))]
    for place in (root, pack_tar(root, archive)):
        report = ReadingReport()
        read = list(read_common_voice(place, "train", report))
        assert [(row["speaker"], row["text"]) for row in read] == expected
        assert report.read == len(rows) and set(report.dropped) <= {"empty sentence"} and not report.notes


OLD = "client_id path sentence up_votes down_votes age gender accent locale segment"
GENERATIONS = {
    "5.0": "client_id path sentence up_votes down_votes age gender accent segment locale",
    "5.1 to 6.1": OLD,
    "7 to 12": OLD.replace("accent", "accents"),
    "13 to 16": "client_id path sentence up_votes down_votes age gender accents variant locale segment",
    "17 to 22": "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant "
    "locale segment",
}


@pytest.mark.parametrize("generation", GENERATIONS)
def test_tables_of_every_generation(generation, release, tmp_path):
    columns = GENERATIONS[generation].split()
    root = shutil.copytree(release, tmp_path / "release")
    for table in root.glob("*/*.tsv"):
        with open(table, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        lines = ["\t".join(columns), *("\t".join(row.get(name, "") for name in columns) for row in rows)]
        table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert without_audio(read(root)) == without_audio(read(release))
