"""Mutated tables, lists, texts and tokens files: none ends in a traceback, and each untouched row keeps its text.

Each form is written by Python's own csv and json, hence with known rows, and mutated two thousand times with fixed
seeds: bytes are changed, deleted, inserted and doubled, and files are cut. A read must end with rows and counted
drops, or with one line that names the file. Prints how many files ended how. Takes one to two minutes on one core.
"""

import csv
import io
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_mlpl.corpora.readers.folders import read_folder
from hf_mlpl.corpora.readers.hf_datasets import read_dataset
from hf_mlpl.corpora.readers.lists import read_fl_lists, read_list
from hf_mlpl.corpora.reading import ReadingReport
from hf_mlpl.model.text import read_tokens

from ..corpora.test_segmentations import EAF, MINIMAL, RTTM, SHORT, SRT, VTT

FILES = 2000  # of each form
SECONDS = 20  # for each form, at most
ROWS = 20
WORDS = ["null", "007", "ja, da", 'rekel "ne"', "č; š", "धीरे-धीरे", "it's", "你好"]
TEXTS = [f"{WORDS[i % len(WORDS)]} {i}" for i in range(ROWS)]
PIECES = [
    b'"',
    b"'",
    b"\0",
    b"\r",
    b"\n",
    b"\t",
    b",",
    b";",
    b"\\",
    b"{",
    b"\xff",
    b"\xc4",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
]
PIECES += [b" ", b"nan", b"../", b'""', b"\\ud800", b"x" * 140_000, b"\xe2\x80\xa8", b"9" * 5000]

pytestmark = pytest.mark.slow


def mutated(content: bytes, random_: random.Random) -> bytes:
    """Returns content after one mutation or two."""
    for _ in range(random_.choice([1, 1, 2])):
        begin = random_.randrange(len(content) + 1)
        end = min(begin + random_.choice([0, 1, 1, 2, 10, 100]), len(content))
        old = content[begin:end]
        new = random_.choice([random_.randbytes(len(old)), b"", random_.choice(PIECES) + old, old * 2])
        end = len(content) if random_.random() < 0.05 else end
        content = content[:begin] + new + content[end:]
    return content


def delimited(rows: list[list[str]], delimiter: str) -> str:
    if delimiter == "\t":
        return "".join("\t".join(row) + "\n" for row in rows)
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue()


def list_table(delimiter: str) -> str:
    rows = [[f"{i:03}.wav", text, "sl", "ana"] for i, text in enumerate(TEXTS)]
    return delimited([["path", "sentence", "language", "speaker"], *rows], delimiter)


def metadata() -> list[dict]:
    return [{"file_name": f"{i:03}.wav", "text": text, "language": "sl"} for i, text in enumerate(TEXTS)]


def json_lines() -> str:
    return "".join(json.dumps(row, ensure_ascii=i % 2 == 0) + "\n" for i, row in enumerate(metadata()))


def read_lists(path: Path, report: ReadingReport) -> list[dict]:
    return [row for rows in read_list(path, report).values() for row in rows]


def read_metadata(path: Path, report: ReadingReport) -> list[dict]:
    return list(read_dataset(path, report))


def read_flashlight(path: Path, report: ReadingReport) -> list[dict]:
    return list(read_fl_lists([path.name], "sl", report, path.parent))


METADATA_CSV = delimited([list(metadata()[0]), *(list(row.values()) for row in metadata())], ",")
# Name -> content, number of lines before the first row, and the reader.
FORMS: dict[str, tuple[str, int, Callable]] = {
    "list.tsv": (list_table("\t"), 1, read_lists),
    "list.csv": (list_table(","), 1, read_lists),
    "semicolons.csv": (list_table(";"), 1, read_lists),
    "metadata.csv": (METADATA_CSV, 1, read_metadata),
    "metadata.jsonl": (json_lines(), 0, read_metadata),
    "train.lst": ("".join(f"{i:03} {i:03}.wav 50 {text}\n" for i, text in enumerate(TEXTS)), 0, read_flashlight),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("mutated")
    for i in range(ROWS):
        soundfile.write(root / f"{i:03}.wav", np.full(800, 0.1, np.float32), 16_000)
    return root


def read_mutated(path: Path, read: Callable, report: ReadingReport) -> list[dict] | None:
    """The rows, whose number fits that of the drops; None for a file that is refused in one line with its name."""
    try:
        rows = read(path, report)
    except ValueError as error:
        assert path.name in str(error) and "\n" not in str(error), repr(str(error))
        return None
    assert len(rows) == report.kept
    renamed = [line for line in report.lines if "is there already; kept as" in line]
    assert len(report.lines) == report.dropped.total() + len(report.notes) + len(renamed)
    assert not [line for line in report.lines if "\n" in line]
    "".join(row["id"] + row["language"] + (row["text"] or "") + (row["speaker"] or "") for row in rows).encode()
    return rows


@pytest.mark.parametrize("name", FORMS)
def test_mutated_tables(folder, name, capsys):
    content, header, read = FORMS[name]
    lines = content.encode().split(b"\n")[:-1]
    outcomes, path, started = Counter(), folder / name, time.monotonic()
    for seed in range(FILES):
        if time.monotonic() - started > SECONDS:
            break
        path.write_bytes(mutated(content.encode(), random.Random(seed)))
        report, left = ReadingReport(), path.read_bytes().split(b"\n")
        rows = read_mutated(path, read, report)
        outcomes["files"] += 1
        outcomes["refused"] += rows is None
        outcomes["rows kept"] += report.kept
        outcomes["rows dropped"] += report.dropped.total()
        if left[:header] != lines[:header]:
            continue  # other columns, or another delimiter
        if rows is None:
            assert not [line for line in left if line in lines[header:]], (seed, left)
            continue
        texts = defaultdict(set)
        for row in rows:
            texts[row["id"] if "/" not in row["id"] else Path(row["audio"]["path"]).stem].add(row["text"])
        for number, line in enumerate(lines[header:]):
            twice = f"'{number:03}'"
            if line in left and not any(twice in told for told in report.lines if "already" in told):
                outcomes["untouched rows"] += 1
                assert TEXTS[number] in texts[f"{number:03}"], (seed, number, report.lines)
    path.unlink()
    with capsys.disabled():
        print(f"\n{name}: {dict(outcomes)}")


def test_mutated_texts(folder, capsys):
    outcomes, path, started = Counter(), folder / "000.txt", time.monotonic()
    (folder / "001.txt").write_text(TEXTS[1], encoding="utf-8")
    for seed in range(FILES):
        if time.monotonic() - started > SECONDS:
            break
        data = mutated(TEXTS[5].encode(random.Random(seed).choice(["utf-8", "utf-16"])), random.Random(seed))
        path.write_bytes(data)
        report = ReadingReport()
        rows = {row["id"]: row["text"] for row in read_folder(folder, report, "sl")}
        assert len(rows) == report.kept and report.read == ROWS and rows["001.wav"] == TEXTS[1]
        outcomes["files"] += 1
        outcomes["dropped"] += "000.wav" not in rows
    with capsys.disabled():
        print(f"\ntexts: {dict(outcomes)}")


SEGMENTATIONS = {".eaf": EAF, ".TextGrid": MINIMAL, ".textgrid": SHORT, ".vtt": VTT, ".srt": SRT, ".rttm": RTTM}


@pytest.mark.parametrize("suffix", SEGMENTATIONS)
def test_mutated_segmentations(tmp_path, suffix, capsys):
    """Each file of segmentations costs its own recording at most, and what is not read has a line."""
    outcomes, started = Counter(), time.monotonic()
    for name in ("a", "film"):
        soundfile.write(tmp_path / f"{name}.wav", np.full(80_000, 0.1, np.float32), 8_000)
    (tmp_path / "film.txt").write_text(TEXTS[1], encoding="utf-8")
    for seed in range(FILES):
        if time.monotonic() - started > SECONDS:
            break
        random_, report = random.Random(seed), ReadingReport()
        content = (
            SEGMENTATIONS[suffix].replace("film.mp4", "a.mp4").encode(random_.choice(["utf-8", "utf-8", "utf-16"]))
        )
        (tmp_path / f"a{suffix}").write_bytes(mutated(content, random_))
        rows = read_mutated(tmp_path, lambda path, report: list(read_folder(path, report, "sl")), report)
        parts = [row for row in rows if row["id"].startswith("a.wav")]
        assert len(parts) == len(rows) - 1 and rows[-1]["text"] == TEXTS[1]
        assert all(0 < row["duration_seconds"] <= 10.0 for row in rows) and (parts or report.lines)
        outcomes.update({"files": 1, "intervals kept": len(parts), "left out": report.dropped.total()})
    with capsys.disabled():
        print(f"\n{suffix}: {dict(outcomes)}")


def test_mutated_tokens_files(tmp_path, capsys):
    entries = ["|", *(chr(code) for code in range(ord("a"), ord("z"))), "č", "ä", "日"]
    content, outcomes, path = "".join(entry + "\n" for entry in entries), Counter(), tmp_path / "tokens.lst"
    for seed in range(FILES):
        data = mutated(content.encode(), random.Random(seed))
        path.write_bytes(data)
        outcomes["files"] += 1
        try:
            lines = read_tokens(path)
        except ValueError as error:
            assert path.name in str(error) and "\n" not in str(error), repr(str(error))
            outcomes["refused"] += 1
            continue
        found = [entry for line in lines for entry in line]
        whole = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        assert [entry for entry in entries if entry.encode() in whole] == [
            entry for entry in found if entry.encode() in whole and entry in entries
        ]
    with capsys.disabled():
        print(f"\ntokens: {dict(outcomes)}")
