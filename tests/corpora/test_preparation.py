"""Preparation of corpora: parts and processes, resuming after a kill, and the report."""

import json
import multiprocessing
import os
import re
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_mlpl.corpora.preparation.normalizer import Normalizer
from hf_mlpl.corpora.preparation.prepare import (
    Part,
    Preprocessing,
    audio_name,
    prepare,
    read_normalizers,
    read_quarantine,
)
from hf_mlpl.corpora.preparation.report import plot_durations
from hf_mlpl.corpora.reading import ReadingReport
from hf_mlpl.data.utterances import read_utterances
from hf_mlpl.folder_lock import InUseError, claimed

TEXTS = {"de": "Straße", "sl": "Čas, \u201eteče\u201c.", "tr": "IĞDIR İl"}


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def read_locale(folder: Path, split: str, locale: str, report: ReadingReport):
    """Yields 30 utterances and drops two; kills its process if a file `kill` exists."""
    with open(folder / "reads", "a") as reads:
        reads.write(f"{split} {locale}\n")
    for number in range(30):
        report.read += 1
        if (folder / "kill").exists() and (split, locale, number) == ("train", "sl", 20):
            os.kill(os.getpid(), signal.SIGKILL)
        audio = {"path": f"/clips/{locale}/{split}-{number}.mp3", "start": None, "end": None}
        row = {"id": f"{locale}-{split}-{number}", "audio": audio, "duration_seconds": number / 4, "speaker": None}
        yield row | {"language": locale, "text": TEXTS[locale], "source": "human"}
    for number in range(2):
        report.read += 1
        report.drop("unreadable audio", f"{split}.tsv:{number}", f"/clips/{locale}/bad.mp3: is empty, at {split}")


def read_own(report: ReadingReport):
    return {"train": [], "unlabelled": list(read_locale(Path(os.devnull).parent, "x", "de", report))}


def parts(folder: Path) -> list[Part]:
    return [
        Part(f"{split} {locale}", partial(read_locale, folder, split, locale), split)
        for split in ("train", "test")
        for locale in TEXTS
    ]


def ids(path: Path) -> list[str]:
    return list(read_utterances([path])["id"])


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_report(tmp_path):
    report = prepare(parts(tmp_path), tmp_path / "data", known_characters="Straße")
    assert sorted(os.listdir(tmp_path / "data")) == [
        *("quarantine.tsv", "report.json", "report.txt", "test.parquet", "train.parquet")
    ]
    assert ids(tmp_path / "data" / "train.parquet") == [f"{locale}-train-{n}" for locale in TEXTS for n in range(30)]
    text = (tmp_path / "data" / "report.txt").read_text().splitlines()
    assert text[:6] == [
        "192 rows read, 180 kept; dropped: 12 unreadable audio",
        "hours  train  test",
        "de      0.03  0.03",
        "sl      0.03  0.03",
        "tr      0.03  0.03",
        "all     0.09  0.09",
    ]
    assert text[6].startswith("characters of train that the tokens file lacks: ")
    assert "(U+010C LATIN CAPITAL LETTER C WITH CARON) x 30" in text[6]
    assert text[8:] == [
        f"{split}.tsv:{n}: unreadable audio: /clips/{locale}/bad.mp3: is empty, at {split}"
        for split in ("train", "test")
        for locale in TEXTS
        for n in range(2)
    ]
    read = json.loads((tmp_path / "data" / "report.json").read_text())
    assert (read["read"], read["kept"], read["dropped"]) == (192, 180, {"unreadable audio": 12})
    assert read["splits"]["test"]["utterances"] == dict.fromkeys(sorted(TEXTS), 30)
    assert read["splits"]["test"]["seconds"]["sl"] == sum(range(30)) / 4
    assert read["unknown_characters"]["train"]["č"] == 30 and "ß" not in read["unknown_characters"]["train"]
    plot_durations(report, tmp_path / "durations.png")
    assert (tmp_path / "durations.png").read_bytes().startswith(b"\x89PNG")


def test_characters_that_train_lacks(tmp_path):
    one, *_, other = parts(tmp_path)
    report = prepare([one, other], tmp_path / "data")
    assert report.unknown_characters() == {"test": {"I": 60, "Ğ": 30, "D": 30, "R": 30, "İ": 30, "l": 30}}
    assert any(line.startswith("characters of test that train lacks: ") for line in report.lines())


def test_a_killed_preparation_goes_on_and_reads_nothing_twice(tmp_path, capfd):
    prepare(parts(tmp_path), tmp_path / "whole")
    (tmp_path / "reads").unlink()
    (tmp_path / "kill").touch()
    process = multiprocessing.get_context("fork").Process(target=prepare, args=(parts(tmp_path), tmp_path / "data"))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not list(tmp_path.glob("data/[!.]*"))
    (tmp_path / "kill").unlink()
    prepare(parts(tmp_path), tmp_path / "data")
    assert (tmp_path / "reads").read_text().split("\n")[:-1] == [
        *("train de", "train sl"),
        *("train sl", "train tr", "test de", "test sl", "test tr"),
    ]
    assert content(tmp_path / "data") == content(tmp_path / "whole")
    assert "going on: 1 of 6 parts were finished before" in "".join(capfd.readouterr())
    (tmp_path / "reads").unlink()
    prepare(parts(tmp_path), tmp_path / "data")  # a finished one begins anew: the corpus may have changed
    assert len((tmp_path / "reads").read_text().splitlines()) == 6


def test_other_settings_do_not_take_finished_parts(tmp_path):
    (tmp_path / "kill").touch()
    process = multiprocessing.get_context("fork").Process(target=prepare, args=(parts(tmp_path), tmp_path / "data"))
    process.start()
    process.join()
    (tmp_path / "kill").unlink()
    prepare(parts(tmp_path), tmp_path / "data", Preprocessing(normalizers={"de": Normalizer(lowercase=True)}))
    assert read_utterances([tmp_path / "data" / "train.parquet"])[0]["text"] == "straße"
    assert not list(tmp_path.glob("data/.*"))


def test_several_processes_do_the_same(tmp_path):
    prepare(parts(tmp_path), tmp_path / "one")
    prepare(parts(tmp_path), tmp_path / "two", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_part_that_fails_does_not_affect_the_others(tmp_path, workers):
    """Tests an error that is no fault of the corpus: the same call later reads only the failed parts."""
    folder, data = tmp_path / "later", tmp_path / "data"
    report = prepare([*parts(tmp_path)[:2], *parts(folder)[2:4]], data, workers=workers)
    error = f"FileNotFoundError: [Errno 2] No such file or directory: '{folder / 'reads'}'"
    assert report.failed == [f"{name}: {error}" for name in ("train tr", "test de")]
    assert (data / "report.txt").read_text().count(error) == 2
    assert ids(data / "train.parquet") == [f"{locale}-train-{n}" for locale in ("de", "sl") for n in range(30)]
    folder.mkdir()
    report = prepare([*parts(tmp_path)[:2], *parts(folder)[2:4]], data)
    assert not report.failed and report.kept == 120 and not list(data.glob(".*"))
    assert (tmp_path / "reads").read_text().splitlines().count("train de") == 1


def test_a_reader_of_several_splits(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.read_locale", lambda *_: iter(()))
    one, *_ = parts(tmp_path)
    report = prepare([Part("own", partial(read_own))], tmp_path)
    assert list(report.splits) == ["train", "unlabelled"]
    assert report.kept == 0 and report.notes == ["own: there are no rows"] and not list(tmp_path.iterdir())


def read_with_notes(report: ReadingReport):
    for _ in range(2):
        report.note("\udcff.tsv: is empty")  # a name that is not UTF-8
    yield from ()


def test_repeated_notes_are_kept_once(tmp_path):
    report = prepare([Part("table", partial(read_with_notes), "train")], tmp_path / "data")
    assert report.notes == ["\\udcff.tsv: is empty"]


def test_quarantine(tmp_path):
    prepare(parts(tmp_path), tmp_path / "data")
    reasons = read_quarantine(tmp_path / "data" / "quarantine.tsv")
    assert reasons == {f"/clips/{locale}/bad.mp3": "is empty, at test" for locale in TEXTS}
    reasons["/clips/sl/train-7.mp3"] = "full of noise"
    report = prepare(parts(tmp_path), tmp_path / "data", Preprocessing(quarantine=reasons))
    assert "sl-train-7" not in ids(tmp_path / "data" / "train.parquet")
    assert report.dropped == {"unreadable audio": 12, "in quarantine": 1}
    again = read_quarantine(tmp_path / "data" / "quarantine.tsv")
    assert again["/clips/sl/train-7.mp3"] == "full of noise" and again.keys() == reasons.keys()
    with pytest.raises(ValueError, match="column audio, reason is missing"):
        (tmp_path / "list.tsv").write_text("path\n")
        read_quarantine(tmp_path / "list.tsv")


def test_names_of_audio():
    assert audio_name({"path": "a.mp3", "start": 1.0, "end": 2.0}) == "a.mp3"
    assert audio_name({"path": "a.tar", "offset": 512, "size": 3}) == "a.tar, byte 512"
    assert audio_name({"path": "a.parquet", "offset": 0, "size": None}) == "a.parquet, row 0"


def read_files(folder: Path, report: ReadingReport):
    for path in sorted(folder.glob("*.wav")):
        report.read += 1
        row = {"id": path.stem, "audio": {"path": str(path)}, "duration_seconds": 1.0, "language": "sl"}
        yield row | {"text": "Da.", "speaker": None, "source": "human"}


def test_decoding_finds_damage_behind_a_good_header(tmp_path):
    for name, seconds in (("good", 1), ("short", 0.5)):
        soundfile.write(tmp_path / f"{name}.wav", np.ones(int(16000 * seconds)) / 9, 16000)
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    part = Part("files", partial(read_files, tmp_path), "train")
    prepare([part], tmp_path / "headers")
    assert ids(tmp_path / "headers" / "train.parquet") == ["bad", "good", "short"]
    prepare([part], tmp_path / "decoded", Preprocessing(decode=True))
    seconds = read_utterances([tmp_path / "decoded" / "train.parquet"])["duration_seconds"]
    assert list(seconds) == [1.0, 0.5]
    text = (tmp_path / "decoded" / "report.txt").read_text()
    assert "short: kept with another duration: " in text and "0.50 s, not 1.00 s as its header says" in text
    assert list(read_quarantine(tmp_path / "decoded" / "quarantine.tsv")) == [str(tmp_path / "bad.wav")]


def test_normalizers(tmp_path):
    (tmp_path / "n.yaml").write_text(
        "'*': {lowercase: true}\nsl: {strip_punctuation: true, replace: {č: c, Č: C}}\n"
        "tr: {lowercase: true, dotless_i: true}\n"
    )
    preprocessing = Preprocessing(normalizers=read_normalizers(tmp_path / "n.yaml"))
    prepare(parts(tmp_path)[:3], tmp_path / "data", preprocessing)
    texts = read_utterances([tmp_path / "data" / "train.parquet"])["text"][::30]
    assert list(texts) == ["straße", "Cas tece", "ığdır il"]
    nothing = Preprocessing(normalizers={"de": Normalizer(replace={TEXTS["de"]: "."}, strip_punctuation=True)})
    report = prepare(parts(tmp_path)[:1], tmp_path / "nothing", nothing)
    assert report.dropped["sentence empty after normalisation"] == 30
    for wrong in ("sl: {upper: true}", "- a", "sl:", "a: [", ""):
        (tmp_path / "n.yaml").write_text(wrong)
        with pytest.raises(ValueError, match=r"n\.yaml: no normalisers by language"):
            read_normalizers(tmp_path / "n.yaml")


def read_table_lines(table: Path, report: ReadingReport):
    """Logs the table in the file `reads` beside it, and yields an utterance for each of its lines."""
    with open(table.parent / "reads", "a") as reads:
        reads.write(f"{table.name}\n")
    for text in table.read_text().splitlines():
        report.read += 1
        row = {"id": text.split()[0], "audio": {"path": "/a.mp3"}, "duration_seconds": 1.0, "language": "sl"}
        yield row | {"text": text, "speaker": None, "source": "human"}


def read_failing_disk(folder: Path, report: ReadingReport):
    report.read += 1
    raise OSError(5, "Input/output error") if not (folder / "mended").exists() else ValueError("no such table")


def interrupted(folder: Path, **preprocessing):
    """Prepares two tables, and a part that fails until the file `mended` exists, so that finished parts are kept."""
    tables = [
        Part(name, partial(read_table_lines, folder / name), "train", inputs=(folder / name, folder / "clips"))
        for name in ("one", "two")
    ]
    disk = Part("disk", partial(read_failing_disk, folder), "test")
    return prepare([*tables, disk], folder / "data", Preprocessing(**preprocessing))


def test_a_finished_part_is_read_again_when_its_inputs_have_changed(tmp_path, capfd):
    (tmp_path / "clips").mkdir()
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"{name} wrong\n")
    report = interrupted(tmp_path)
    assert report.failed == ["disk: OSError: [Errno 5] Input/output error"]
    before = (tmp_path / "one").stat()
    (tmp_path / "one").write_text("one right\n")  # as long as it was
    os.utime(tmp_path / "one", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    interrupted(tmp_path)
    assert (tmp_path / "reads").read_text().split() == ["one", "two", "one"]
    output = "".join(capfd.readouterr())
    assert f"one: is read again, because {tmp_path / 'one'} has changed" in output and "two: is read" not in output
    assert "going on: 1 of 3 parts were finished before" in output
    texts = read_utterances([tmp_path / "data" / "train.parquet"])["text"]
    assert list(texts) == ["one right", "two wrong"]

    interrupted(tmp_path, normalizers={"*": Normalizer(lowercase=True)})
    assert "two: is read again, because its preprocessing has changed" in "".join(capfd.readouterr())
    (tmp_path / "clips" / "a.mp3").touch()
    interrupted(tmp_path, normalizers={"*": Normalizer(lowercase=True)})
    assert f"two: is read again, because {tmp_path / 'clips'} has changed" in "".join(capfd.readouterr())
    (tmp_path / "data" / ".parts" / "two" / "train.parquet").write_bytes(b"")  # as after a power cut
    (tmp_path / "mended").touch()
    report = interrupted(tmp_path, normalizers={"*": Normalizer(lowercase=True)})
    assert (tmp_path / "reads").read_text().split()[3:] == ["one", "two"] * 2 + ["two"]
    assert report.notes == ["no such table"] and not report.failed and not list((tmp_path / "data").glob(".*"))


def test_recordings_that_could_not_be_used_are_tried_again_when_they_change(tmp_path):
    soundfile.write(tmp_path / "good.wav", np.ones(16000) / 9, 16000)
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    files = Part("files", partial(read_files, tmp_path), "train")
    parts = [files, Part("disk", partial(read_failing_disk, tmp_path), "test")]
    assert prepare(parts, tmp_path / "data", Preprocessing(decode=True)).dropped == {"unreadable audio": 1}
    soundfile.write(tmp_path / "bad.wav", np.ones(16000) / 9, 16000)
    report = prepare(parts, tmp_path / "data", Preprocessing(decode=True))
    assert not report.dropped and ids(tmp_path / "data" / "train.parquet") == ["bad", "good"]


def test_ids_that_come_twice_are_kept_once(tmp_path):
    (tmp_path / "one").write_text("a 1\nb 2\na 3\n")
    (tmp_path / "two").write_text("b 4\nc 5\n")
    soundfile.write(tmp_path / "a.wav", np.ones(160), 16000)  # another recording of that name
    parts = [Part(name, partial(read_table_lines, tmp_path / name), "train") for name in ("one", "two")]
    report = prepare([*parts, Part("files", partial(read_files, tmp_path), "train")], tmp_path / "data")
    *first, other = read_utterances([tmp_path / "data" / "train.parquet"])
    assert [row["text"] for row in first] == ["a 1", "b 2", "c 5"]
    assert re.fullmatch("a-[0-9a-f]{8}", other["id"]) and other["audio"]["path"] == str(tmp_path / "a.wav")
    assert report.dropped == {"id is there already": 2} and report.kept == 4
    assert report.splits["train"].seconds == {"sl": 4.0} and report.splits["train"].characters["3"] == 0
    lines = (tmp_path / "data" / "report.txt").read_text().splitlines()
    first = "; the first is /a.mp3 in train"
    assert lines[-3:-1] == [f"{name}: id is there already: /a.mp3 in train{first}" for name in "ab"]
    kept = f"{tmp_path / 'a.wav'} in train is kept as {other['id']}"
    assert lines[-1] == f"a: id of another utterance: {kept}{first}"


def test_ids_are_unique_in_all_splits(tmp_path):
    """What is in test stays there; `read_utterances` of several splits, as `hf-mlpl pseudo-label` has, works."""
    (tmp_path / "one").write_text("a 1\nb 2\n")
    (tmp_path / "two").write_text("b 2\nc 3\n")
    soundfile.write(tmp_path / "a.wav", np.ones(160), 16000)
    tables = [
        Part(name, partial(read_table_lines, tmp_path / name), split)
        for name, split in (("one", "train"), ("two", "test"))
    ]
    report = prepare([*tables, Part("files", partial(read_files, tmp_path), "unlabelled")], tmp_path / "data")
    files = [tmp_path / "data" / f"{split}.parquet" for split in ("train", "test", "unlabelled")]
    assert [ids(file) for file in files[:2]] == [["a"], ["b", "c"]] and report.dropped.total() == 1
    assert len(read_utterances(files)) == 4 and ids(files[2])[0].startswith("a-")
    assert report.splits["train"].utterances == {"sl": 1} and report.splits["train"].characters["2"] == 0


def test_two_preparations_into_one_folder(tmp_path):
    with claimed(tmp_path / "data"), pytest.raises(InUseError, match="data: another job works there .*; wait for its"):
        prepare(parts(tmp_path), tmp_path / "data")
    assert not (tmp_path / "reads").exists()


def test_files_of_an_earlier_preparation_are_kept_and_reported(tmp_path):
    all_parts = parts(tmp_path)
    prepare(all_parts, tmp_path / "data")
    before = (tmp_path / "data" / "test.parquet").read_bytes()
    for _ in range(2):  # also if the last report does not mention it
        report = prepare(all_parts[:3], tmp_path / "data")
        (note,) = report.notes
        assert note.startswith(f"{tmp_path / 'data' / 'test.parquet'}: is of an earlier preparation; ")
        assert note in (tmp_path / "data" / "report.txt").read_text().splitlines()
        assert json.loads((tmp_path / "data" / "report.json").read_text())["notes"] == [note]
        assert (tmp_path / "data" / "test.parquet").read_bytes() == before
    assert not prepare(all_parts, tmp_path / "data").notes


def read_and_die(folder: Path, report: ReadingReport):
    os.kill(os.getpid(), signal.SIGKILL)
    yield


def read_without_memory(report: ReadingReport):
    yield from ()
    raise MemoryError


@pytest.mark.slow  # processes that are started anew import everything again
def test_a_worker_that_dies_fails_only_its_part(tmp_path):
    killing = Part("killing", partial(read_and_die, tmp_path), "dev")
    hungry = Part("hungry", partial(read_without_memory), "dev")
    first, *others = parts(tmp_path)
    report = prepare([first, killing, hungry, *others], tmp_path / "data", workers=2)
    assert report.failed == [
        "killing: its process was killed, perhaps because there is too little memory",
        "hungry: MemoryError",
    ]
    prepare(parts(tmp_path), tmp_path / "expected")
    for split in ("train", "test"):
        assert ids(tmp_path / "data" / f"{split}.parquet") == ids(tmp_path / "expected" / f"{split}.parquet")
    before = (tmp_path / "reads").read_text().splitlines()
    report = prepare([first, *others], tmp_path / "data")
    assert not report.failed and (tmp_path / "reads").read_text().splitlines() == before
