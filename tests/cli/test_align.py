"""Tests `hf-mlpl align` in this process, and training on the utterances that it writes."""

import io
import json
import shutil
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import webvtt

from hf_mlpl.cli.main import main
from hf_mlpl.data.utterances import FEATURES, read_utterances
from hf_mlpl.training.loop import train
from hf_mlpl.training_config import load_config

from ..inference.test_tiers import read_textgrid
from ..random_model import save_folder
from ..tones import RATE, speak

LINES = ["abc ea", "ßde dab"]


@pytest.fixture
def talks(tmp_path):
    """Returns a folder with two recordings of the same words, of which the one in a subfolder has no text."""
    noise = np.random.default_rng(0)
    folder = tmp_path / "talks"
    (folder / "sub").mkdir(parents=True)
    pause = 0.01 * noise.standard_normal(RATE // 2)
    samples = np.concatenate([pause, speak("abc ea", noise), pause, pause, speak("de dab", noise), pause])
    soundfile.write(folder / "a.wav", samples, RATE)
    shutil.copy(folder / "a.wav", folder / "sub" / "b.c.wav")
    (folder / "a.txt").write_text("\r\n".join(LINES), encoding="utf-16")  # as Windows writes it
    return folder


@pytest.fixture
def align(tone_run, capsys):
    """Runs `hf-mlpl align`; returns exit status, standard output, and lines of standard error."""

    def run(*arguments):
        try:
            status = main(["align", "--model", str(tone_run / "model"), *map(str, arguments)])
        except SystemExit as end:  # of the parser
            status = end.code
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return run


def table(out: str) -> list[list[str]]:
    header, *rows = [line.split("\t") for line in out.splitlines()]
    assert header == ["path", "start", "end", "score", "text"]
    return rows


def test_recordings_and_their_texts(talks, align, monkeypatch, tmp_path):
    character = "'ß' (U+00DF LATIN SMALL LETTER SHARP S) x 1"
    status, out, errors = align(talks / "a.wav")
    assert status == 0 and errors == [f"{talks / 'a.wav'}: skipped 1 character that the model lacks: {character}"]
    rows = table(out)
    assert [(row[0], row[4]) for row in rows] == [(str(talks / "a.wav"), line) for line in LINES]
    assert abs(float(rows[0][1]) - 0.5) < 0.2 and abs(float(rows[1][1]) - 1.98) < 0.2 and float(rows[1][3]) > 0.5
    other = tmp_path / "text.md"
    other.write_text("abc ea\nde\n \ndab\n")
    # a folder, a text of another name, standard input, and one recording that is named twice
    status, out, errors = align(talks, talks / "sub" / "b.c.wav", other)
    assert (status, [row[4] for row in table(out)]) == (0, [*LINES, "abc ea", "de", "dab"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc ea\nde dab")))
    status, out, errors = align(talks / "sub" / "b.c.wav", "-", "--segments", "paragraph")
    assert (status, [row[4] for row in table(out)], errors) == (0, ["abc ea de dab"], [])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((talks / "a.wav").read_bytes())))
    status, out, _ = align("-", talks / "a.txt", "--format", "json")
    assert status == 0 and json.loads(out)["file"] == "-" and len(json.loads(out)["segments"]) == 2
    status, out, errors = align(talks)
    assert (status, len(table(out))) == (0, 2)
    assert errors[0] == f"1 file is without a text beside it: {talks / 'sub' / 'b.c.wav'}"


def test_errors_are_one_line_each(talks, align, tmp_path):
    long, empty, binary, latin, bad = (tmp_path / name for name in ("l.txt", "e.txt", "b.txt", "t.txt", "bad.wav"))
    long.write_text("abcde " * 100)
    empty.write_text(" \n\n")
    binary.write_bytes(b"a\0b")
    latin.write_bytes("dé".encode("latin-1"))
    bad.write_bytes(b"RIFF, but no audio")
    shutil.copy(long, bad.with_suffix(".txt"))
    a, b, lost = talks / "a.wav", talks / "sub" / "b.c.wav", tmp_path / "lost.wav"
    copies = [shutil.copy(a, tmp_path / f"copy{i}.wav") for i in range(4)]
    texts = [long, empty, binary, latin]
    pairs = [path for pair in zip(copies, texts, strict=True) for path in pair]
    status, out, errors = align(*pairs, bad, lost, long, b, a)
    assert status == 1 and len(table(out)) == 2  # of a.wav
    too_long = f"error: {copies[0]}: the text is too long: its 599 letters and word boundaries take 17.97 s at least, "
    assert errors[0] == too_long + "and the recording has 2.96 s"
    assert errors[1:-1] == [
        f"error: {copies[1]}: the text is empty",
        f"error: {copies[2]}: {binary}: has NUL characters; is it text?",
        f"error: {copies[3]}: {latin}: is not UTF-8; convert it, for instance with iconv",
        f"error: {bad}: is not audio that can be decoded (wav, flac, mp3, ogg), or is damaged",
        f"error: {lost}: no such file",
        f"error: {b}: has no text; name it after the recording, or call it b.c.txt",
    ]
    for arguments, message in [
        ([long, a], f"error: {long}: a text follows its recording, but no recording is before it"),
        ([a, long, a, empty], f"error: {empty}: the recording has a text already, {long}"),
        (
            [a, tmp_path / "n.txt"],
            f"error: {a}: {tmp_path / 'n.txt'}: cannot be read: No such file or directory",
        ),
        ([talks / "sub"], f"error: {talks / 'sub'}: no recording has a text; a/b.wav has that of a/b.txt"),
        ([a, "--min-score", "2"], "--min-score is 2; it must be between 0 and 1"),
        ([a, "--max-seconds", "0"], "--max-seconds is 0; it must be more than 0"),
        (["-", long, "--utterances", "u.parquet"], "--utterances needs recordings in files, and - is standard input"),
        ([a, b, long, "--format", "srt"], "2 srt files need a folder: --output DIR"),
        ([a, "-", b, "-"], "error: -: standard input can be read once only; name files for the others"),
        ([a, long, "--utterances", talks], f"is {talks}, a folder; name a file, such as {talks / 'a.parquet'}"),
    ]:
        status, out, errors = align(*arguments)
        assert status in (1, 2) and not out and errors[-1].endswith(message), errors


def test_files_of_each_format(talks, align, tmp_path):
    out = tmp_path / "out"
    for output_format, suffix in {"vtt": "vtt", "textgrid": "TextGrid"}.items():
        status, printed, errors = align(talks, "--format", output_format, "--output", out)
        assert (status, printed, errors[-1]) == (0, "", f"1 written to {out}, 0 failed")
        content = (out / f"a.{suffix}").read_text(encoding="utf-8")
        if output_format == "vtt":
            assert [cue.text for cue in webvtt.from_buffer(io.StringIO(content), format="vtt")] == LINES
        else:
            assert [row[2] for row in read_textgrid(content)["segments"] if row[2]] == LINES
    status, printed, errors = align(talks, "--format", "vtt", "--output", out)
    assert (status, printed, errors[-1]) == (0, "", f"1 skipped: already in {out}")


def test_utterances_of_segments(talks, align, tmp_path):
    path = tmp_path / "data" / "talks.parquet"
    status, out, _ = align(talks, "--utterances", path, "--output", tmp_path / "out", "--language", "sv")
    assert status == 0 and out.splitlines() == [
        f"{path}: 2 utterances, 0.00 h of sv-SE",
        f"next: hf-mlpl train SETTINGS.yaml 'train=[{path}]'",
    ]
    assert len(table((tmp_path / "out" / "a.tsv").read_text(encoding="utf-8"))) == 2
    assert set(pq.read_schema(path).names) == {*FEATURES, "score"}
    rows = read_utterances([path])
    assert rows["text"] == LINES and rows.column_names == list(FEATURES) and set(rows["language"]) == {"sv-SE"}
    path.unlink()
    status, out, errors = align(talks, "--utterances", path, "--max-seconds", "0.1")
    assert status == 1 and not path.exists() and not out
    assert errors[-1].startswith(f"error: {path}: is not written, it would have 0 utterances")
    assert "longer than 0.1 s" in errors[-1]
    nameless = save_folder(tmp_path / "nameless", [])
    status, out, errors = align(talks, "--model", nameless, "--utterances", path)
    assert (status, errors[-1]) == (
        1,
        f"error: {nameless}: the model has no languages, so --utterances needs --language",
    )


@pytest.mark.slow
def test_training_reads_the_utterances(talks, align, tone_data, tmp_path, one_thread):
    (talks / "a.txt").write_text("abc ea\nde dab\n")
    shutil.copy(talks / "a.txt", talks / "sub" / "b.c.txt")
    path = tmp_path / "talks.parquet"
    status, out, errors = align(talks, "--utterances", path, "--min-score", "0.2")
    assert status == 0 and out.startswith(f"{path}: 4 utterances, 0.00 h of de") and not errors
    settings = [f"output_dir={tmp_path / 'run'}", f"train=[{path}]", "max_updates=2", "eval_every=2", "dev=[]"]
    train(load_config(tone_data / "tones.yaml", settings))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2 and np.all(np.isfinite(losses))
