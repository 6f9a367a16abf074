"""Tests the command `hf-mlpl` as a separate process and in this one."""

import base64
import html
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import unicodedata
from argparse import ArgumentTypeError
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
import webvtt
from transformers import pipeline

from hf_mlpl import MlplTokenizer
from hf_mlpl.audio.reading import stream_audio
from hf_mlpl.cli.main import NAMES, command_parser, main

from ..inference.test_tiers import read_textgrid
from ..tones import RATE

HF_MLPL = Path(sys.executable).with_name("hf-mlpl")


@pytest.fixture(scope="module")
def clips(tone_corpus):
    """Returns two good clips, a wav and an mp3, and their transcripts."""
    clips = tone_corpus / "common-voice"
    paths = [clips / "de/clips/common_voice_de_test0.wav", clips / "sv-SE/clips/common_voice_sv-SE_test0.mp3"]
    sentences = [path.parents[1].joinpath("test.tsv").read_text().splitlines()[1].split("\t")[2] for path in paths]
    return paths, sentences


@pytest.fixture
def folder(clips, tmp_path):
    """Returns a folder of recordings, with subfolders and hidden files."""
    (good, other), _ = clips
    folder = tmp_path / "talks"
    for name in ("b/deep/c.d.MP3", "b/deep/a.mp3"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(other, folder / name)
    shutil.copy(good, folder / "z.wav")
    (folder / "._z.wav").write_bytes(b"metadata of macOS")
    (folder / ".hidden").mkdir()
    shutil.copy(good, folder / ".hidden" / "h.wav")
    return folder


@pytest.fixture
def transcribe(tone_run, capsys):
    """Runs `hf-mlpl transcribe` in this process; returns exit status, standard output, and lines of standard error."""

    def run(*arguments):
        status = main(["transcribe", "--model", str(tone_run / "model"), *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return run


def test_a_bad_file_gives_one_line_and_exit_status_1(clips, transcribe, tmp_path):
    (good, other), (sentence, another) = clips
    bad, lost = tmp_path / "bad.wav", tmp_path / "lost.wav"
    bad.write_bytes(b"RIFF, but no audio")
    status, out, errors = transcribe(good, bad, lost, other)
    assert status == 1
    assert out.splitlines() == [f"{good}\tde\t{sentence}", f"{other}\tsv-SE\t{another}"]
    assert errors == [
        f"error: {bad}: is not audio that can be decoded (wav, flac, mp3, ogg), or is damaged",
        f"error: {lost}: no such file",
    ]


def test_good_files_give_exit_status_0(clips, transcribe):
    (good, _), (sentence, _) = clips
    assert transcribe(good) == (0, f"{good}\tde\t{sentence}\n", [])


def test_a_file_that_the_features_refuse_gives_one_line(clips, transcribe, tmp_path):
    (good, other), (sentence, another) = clips
    loud = tmp_path / "loud.wav"
    soundfile.write(loud, np.full(RATE, 1e6, np.float32), RATE, subtype="FLOAT")
    status, out, errors = transcribe(good, loud, other)
    assert (status, out) == (1, f"{good}\tde\t{sentence}\n{other}\tsv-SE\t{another}\n")
    assert len(errors) == 1 and errors[0].startswith(f"error: {loud}: ") and "beyond 32768" in errors[0]


def test_folders_are_searched_in_order(folder, clips, transcribe):
    _, (sentence, another) = clips
    expected = [(folder / name, "sv-SE", another) for name in ("b/deep/a.mp3", "b/deep/c.d.MP3")]
    expected.append((folder / "z.wav", "de", sentence))
    lines = [f"{path}\t{language}\t{text}\n" for path, language, text in expected]
    (folder / "b" / "notes.txt").write_text("no audio")
    not_audio = f"1 file is not audio: {folder / 'b' / 'notes.txt'}"
    assert transcribe(folder, "--batch-size", 2) == (0, "".join(lines), [not_audio])
    (folder / "b" / "notes.txt").unlink()
    # a recording that is named twice, also by another path, is transcribed once
    assert transcribe(folder / "z.wav", folder / "b" / ".." / "z.wav", folder)[1] == "".join([lines[2], *lines[:2]])
    status, out, errors = transcribe(folder / ".hidden" / "nothing", folder / ".hidden")
    assert status == 1 and out.endswith(f"h.wav\tde\t{sentence}\n") and errors[0].endswith("nothing: no such file")


def test_a_folder_without_audio_is_an_error(transcribe, tmp_path, clips):
    status, out, errors = transcribe(tmp_path, clips[0][0])
    assert status == 1 and out.count("\n") == 1 and errors == [f"error: {tmp_path}: no audio in this folder"]
    for name in ("a.txt", "b.json", "c.xml", "d.py"):
        (tmp_path / name).write_text("{}")
    status, out, errors = transcribe(tmp_path, "--output", tmp_path / "out")
    names = ", ".join(str(tmp_path / name) for name in ("a.txt", "b.json", "c.xml"))
    assert status == 1 and errors[:2] == [
        f"4 files are not audio: {names} and 1 more",
        f"error: {tmp_path}: no audio in this folder",
    ]


def test_audio_is_recognised_by_its_content(clips, transcribe, tmp_path):
    (good, _), (sentence, _) = clips
    samples, rate = soundfile.read(good)
    shutil.copy(good, tmp_path / "talk 1.2")
    shutil.copy(good, tmp_path / "talk 1.3")
    shutil.copy(good, tmp_path / "page.html")
    for name, kind in (("a.w64", "W64"), ("b.sph", "NIST"), ("c.voc", "VOC"), ("d.rf64", "RF64"), ("e.bin", "FLAC")):
        soundfile.write(tmp_path / name, samples, rate, format=kind, subtype="PCM_16")
    names = sorted(path.name for path in tmp_path.iterdir())
    (tmp_path / "film.m4a").write_bytes(b"no film")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (tmp_path / "table.json").write_text("{}")
    os.mkfifo(tmp_path / "pipe.wav")  # nobody writes to it
    status, out, errors = transcribe(tmp_path)
    assert [line.split("\t") for line in out.splitlines()] == [
        [f"{tmp_path}/{name}", "de", sentence] for name in names
    ]
    assert status == 1 and len(errors) == 2 and errors[1].startswith(f"error: {tmp_path}/film.m4a: is not audio")
    assert errors[0] == "3 files are not audio: " + ", ".join(
        f"{tmp_path}/{name}" for name in ("photo.png", "pipe.wav", "table.json")
    )
    transcribe(tmp_path, "--output", tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"{name}.txt" for name in ("a", "b", "c", "d", "e.bin", "page.html", "talk 1.2", "talk 1.3")]


def test_links_are_followed_once(clips, transcribe, tmp_path):
    (good, other), (sentence, another) = clips
    disk, talks = tmp_path / "disk", tmp_path / "talks"
    (disk / "more").mkdir(parents=True)
    (talks / "z").mkdir(parents=True)
    shutil.copy(good, disk / "more" / "a.wav")
    shutil.copy(other, talks / "z" / "b.mp3")
    (disk / "back").symlink_to(talks)
    (talks / "linked").symlink_to(disk)
    (talks / "a-link-to-z").symlink_to(talks / "z")
    (talks / "up").symlink_to(tmp_path)
    (talks / "c.wav").symlink_to(clips[0][0])
    expected = [("c.wav", "de", sentence), ("linked/more/a.wav", "de", sentence), ("z/b.mp3", "sv-SE", another)]
    assert transcribe(talks) == (0, "".join(f"{talks}/{name}\t{lang}\t{text}\n" for name, lang, text in expected), [])


def test_standard_input_and_pipes(clips, transcribe, tmp_path, monkeypatch):
    paths, sentences = clips
    samples, _ = soundfile.read(paths[0], dtype="float32")
    soundfile.write(tmp_path / "long.wav", np.tile(samples, 100), RATE)  # so long that the pipe is read more than once
    expected = transcribe(tmp_path / "long.wav")[1].split("\t")[2]
    os.mkfifo(tmp_path / "pipe")
    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(reading))

    def write(path, content):
        with open(path, "wb") as file:
            file.write(content.read_bytes())

    for path, content in ((writing, tmp_path / "long.wav"), (tmp_path / "pipe", paths[1])):
        threading.Thread(target=write, args=(path, content)).start()
    status, out, errors = transcribe("-", tmp_path / "pipe", "-")
    assert len(expected) > 100 and out == f"-\tde\t{expected}{tmp_path / 'pipe'}\tsv-SE\t{sentences[1]}\n"
    assert (status, errors) == (0, [])


def test_any_error_of_a_decoder_gives_one_line(clips, transcribe, tmp_path, monkeypatch):
    (good, _), (sentence, _) = clips
    raised = {"a.wav": MemoryError(), "b.wav": RuntimeError("soxr: bad\nrate"), "c.wav": RecursionError("deep")}
    for name in (*raised, "d.wav"):
        shutil.copy(good, tmp_path / name)

    def stream(path, rate):  # no file is known that makes today's decoders do this
        if path.name in raised:
            raise raised[path.name]
        return stream_audio(path, rate)

    monkeypatch.setattr("hf_mlpl.inference.transcription.stream_audio", stream)
    status, out, errors = transcribe(tmp_path)
    assert (status, out) == (1, f"{tmp_path}/d.wav\tde\t{sentence}\n")
    reasons = ("a.wav: MemoryError", "b.wav: RuntimeError: soxr: bad rate", "c.wav: RecursionError: deep")
    assert errors == [f"error: {tmp_path}/{reason}" for reason in reasons]


def test_a_terminal_without_a_character_gives_one_line(clips, tone_corpus, transcribe, monkeypatch):
    rows = (tone_corpus / "common-voice/sv-SE/test.tsv").read_text().splitlines()[1:]
    name = next(row.split("\t")[1] for row in rows if "ö" in row.split("\t")[2])
    path = tone_corpus / "common-voice/sv-SE/clips" / name
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, encoding="ascii"))
    status, _, errors = transcribe(path, clips[0][0])
    assert screen.getvalue().decode() == f"{clips[0][0]}\tde\t{clips[1][0]}\n"
    assert status == 1 and len(errors) == 1
    assert errors[0].startswith(f"error: {path}: its transcript cannot be written: 'ascii' codec")


def test_names_in_another_unicode_form(clips, transcribe, tmp_path):
    (good, _), (sentence, _) = clips
    composed, decomposed = (unicodedata.normalize(form, "Göteborg.wav") for form in ("NFC", "NFD"))
    shutil.copy(good, tmp_path / decomposed)
    assert transcribe(tmp_path / composed) == (0, f"{tmp_path / decomposed}\tde\t{sentence}\n", [])
    shutil.copy(good, tmp_path / "two\nlines\t.wav")
    assert transcribe(tmp_path / "two\nlines\t.wav")[1] == f"{tmp_path}/two\\x0alines\\x09.wav\tde\t{sentence}\n"


def test_outputs_mirror_the_folder_and_stay_in_the_output_folder(folder, clips, transcribe, tmp_path, monkeypatch):
    _, (sentence, another) = clips
    out = tmp_path / "out"
    monkeypatch.chdir(folder / "b")
    outside = os.path.relpath(clips[0][0])  # begins with ..
    status, printed, messages = transcribe("..", outside, "--output", out)
    assert (status, printed, messages) == (0, "", [f"4 written to {out} (2 sv-SE, 2 de), 0 failed"])
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.txt")}
    assert written == {f"out/{name}.txt" for name in ("b/deep/a", "b/deep/c.d", "z", "common_voice_de_test0")}
    assert (out / "z.txt").read_text() == f"{sentence}\n" and (out / "b/deep/c.d.txt").read_text() == f"{another}\n"


def test_existing_outputs_are_kept_and_a_run_can_be_repeated(folder, transcribe, tmp_path):
    out = tmp_path / "out"
    (out / "b" / "deep").mkdir(parents=True)
    (out / "b" / "deep" / "a.txt").write_text("mine")
    (folder / "bad.wav").write_text("bad")
    status, _, messages = transcribe(folder, "--output", out)
    assert status == 1 and messages[0] == f"1 skipped: already in {out}" and messages[1].endswith("or is damaged")
    assert messages[2:] == [f"2 written to {out} (1 sv-SE, 1 de), 1 failed"]
    assert (out / "b" / "deep" / "a.txt").read_text() == "mine"
    (folder / "bad.wav").unlink()
    assert transcribe(folder, "--output", out) == (0, "", [f"3 skipped: already in {out}"])
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]


def test_two_recordings_of_one_output(folder, clips, transcribe, tmp_path):
    shutil.copy(clips[0][1], folder / "z.mp3")
    status, _, messages = transcribe(folder, "--output", tmp_path / "out")
    assert status == 1
    assert (
        messages[0] == f"error: {folder / 'z.wav'}: its transcript would have the name of that of {folder / 'z.mp3'}"
    )
    assert (tmp_path / "out" / "z.txt").read_text() == f"{clips[1][1]}\n"
    status, out, errors = transcribe(folder)  # to standard output, where names do not matter
    assert (status, out.count("\n"), errors) == (0, 4, [])


def test_a_link_to_itself_gives_one_line(clips, transcribe, tmp_path):
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    status, out, errors = transcribe(tmp_path, clips[0][0])
    assert (
        status == 1
        and out.count("\n") == 1
        and errors == [f"error: {tmp_path}/loop.wav: Too many levels of symbolic links"]
    )


def test_the_progress_bar_counts_bad_ones_too_and_leaves_standard_output_alone(folder, transcribe, monkeypatch):
    (folder / "bad.wav").write_text("bad")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    status, out, errors = transcribe(folder)
    assert status == 1 and out.count("\n") == 3 and "4/4" not in out
    assert "4/4" in errors[-1] and "file/s" in errors[-1]


def test_an_output_that_cannot_be_written_is_an_error_of_its_recording(folder, transcribe, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b").touch()  # where a folder must be
    status, _, messages = transcribe(folder, "--output", tmp_path / "out")
    assert status == 1 and len(messages) == 3 and (tmp_path / "out" / "z.txt").exists()
    assert all("its transcript cannot be written: " in message for message in messages[:2])


def test_json(folder, clips, tone_run, transcribe, tmp_path):
    paths, sentences = clips
    status, out, _ = transcribe(*paths, "--format", "json")
    objects = [json.loads(line) for line in out.splitlines()]
    assert (
        status == 0 and [list(item) for item in objects] == [["file", "text", "language", "language_probability"]] * 2
    )
    recognize = pipeline("automatic-speech-recognition", model=tone_run / "model")
    for item, path, sentence in zip(objects, paths, sentences, strict=True):
        assert (item["file"], item["text"]) == (str(path), sentence)
        assert item["language"] == path.parents[1].name
        assert item["language_probability"] == pytest.approx(recognize(path)["language_probability"], abs=1e-4)

    transcribe(paths[0], "--format", "json", "--timestamps", "word", "--output", tmp_path / "out")
    item = json.loads((tmp_path / "out" / "common_voice_de_test0.json").read_text())
    chunks = recognize(paths[0], return_timestamps="word")["chunks"]
    assert item["text"] == sentences[0] and [word["word"] for word in item["words"]] == sentences[0].split()
    for word, chunk in zip(item["words"], chunks, strict=True):
        assert (word["start"], word["end"]) == pytest.approx(chunk["timestamp"])


def test_words_as_text(clips, transcribe):
    (good, _), (sentence, _) = clips
    lines = [line.split("\t") for line in transcribe(good, "--timestamps", "word")[1].splitlines()]
    assert [line[4] for line in lines] == sentence.split()
    assert all(line[:2] == [str(good), "de"] and 0 <= float(line[2]) < float(line[3]) < 1 for line in lines)


@pytest.mark.parametrize("kind", ["srt", "vtt"])
def test_subtitles(clips, transcribe, tmp_path, kind):
    (good, other), (sentence, another) = clips
    status, out, _ = transcribe(good, "--format", kind)
    assert status == 0
    assert " ".join(cue.text for cue in webvtt.from_buffer(io.StringIO(out), format=kind)) == sentence
    assert transcribe(good, other, "--format", kind, "--output", tmp_path)[0] == 0
    assert (tmp_path / f"{good.stem}.{kind}").read_text() == out
    with pytest.raises(SystemExit) as caught:
        transcribe(good, other, "--format", kind)
    assert caught.value.code == 2


def test_ctm_and_textgrid(clips, transcribe, tmp_path):
    """Each word of the transcript, at the times that --timestamps word prints."""
    (good, other), sentences = clips
    lines = [line.split("\t") for line in transcribe(good, other, "--timestamps", "word")[1].splitlines()]
    words = [(Path(name).stem, float(start), float(end), word) for name, _, start, end, word in lines]
    out = transcribe(good, other, "--format", "ctm")[1]
    rows = [line.split(" ") for line in out.splitlines()]
    assert [(row[0], row[1], row[4]) for row in rows] == [(name, "1", word) for name, _, _, word in words]
    for row, (_, start, end, _) in zip(rows, words, strict=True):
        assert (float(row[2]), float(row[2]) + float(row[3])) == pytest.approx((start, end))

    spaced = tmp_path / "in" / "a b" / 'of "ö".wav'
    spaced.parent.mkdir(parents=True)
    shutil.copy(good, spaced)
    assert transcribe(tmp_path / "in", "--format", "ctm")[1].startswith('a_b/of_"ö" 1 0.')
    shutil.copy(good, tmp_path / 'of "ö".mp3')  # its words would be taken for those of the other
    status, out, errors = transcribe(spaced, tmp_path / 'of "ö".mp3', "--format", "ctm")
    assert status == 1 and out.count("\n") == len(sentences[0].split())
    assert errors == [f'error: {tmp_path}/of "ö".mp3: its transcript would have the name of that of {spaced}']
    assert transcribe(tmp_path / "in", other, "--format", "textgrid", "--output", tmp_path / "out")[0] == 0
    content = (tmp_path / "out" / "a b" / 'of "ö".TextGrid').read_text(encoding="utf-8")
    tiers = read_textgrid(content)
    assert " ".join(text for _, _, text in tiers["segments"] if text) == sentences[0]
    assert [text for _, _, text in tiers["words"] if text] == sentences[0].split()
    assert tiers["words"][-1][1] == pytest.approx(soundfile.info(good).duration, abs=0.0005)
    assert transcribe(spaced, "--format", "textgrid")[1] == content
    with pytest.raises(SystemExit):
        transcribe(good, other, "--format", "textgrid")


def test_pages(clips, transcribe, tmp_path, monkeypatch):
    """The words, times and files of the other formats, and the sound, also of standard input."""
    (good, other), (sentence, _) = clips
    status, _, messages = transcribe(good, other, "--format", "html", "--output", tmp_path / "out")
    assert (status, messages) == (0, [f"2 written to {tmp_path / 'out'} (1 de, 1 sv-SE), 0 failed"])
    page = (tmp_path / "out" / f"{good.stem}.html").read_text(encoding="utf-8")
    found = re.findall(
        r'<span class="word"[^>]* data-start="([\d.]+)" data-end="([\d.]+)" data-confidence="[^"]*">([^<]*)', page
    )
    lines = [line.split("\t") for line in transcribe(good, "--timestamps", "word")[1].splitlines()]
    assert found == [(start, end, html.escape(word)) for _, _, start, end, word in lines]
    assert re.findall('class="transcript-language">([^<]*)', page)[0] == "de"
    assert len(re.findall('class="transcript-language">', page)) == 2  # of three, if the model had them
    files = dict(re.findall(r'download="([^"]*)" href="data:[^"]*;base64,([^"]*)"', page))
    files = {name: base64.b64decode(content).decode() for name, content in files.items()}
    assert list(files) == [f"{good.stem}.{kind}" for kind in ("srt", "vtt", "json")]
    for kind in ("srt", "vtt"):
        assert files[f"{good.stem}.{kind}"] == transcribe(good, "--format", kind)[1]
    with_confidence = json.loads(files[f"{good.stem}.json"])
    assert all(0 < word.pop("confidence") <= 1 for word in with_confidence["words"])
    assert with_confidence == json.loads(transcribe(good, "--format", "json", "--timestamps", "word")[1])
    (sound,) = re.findall('src="data:audio/mpeg;base64,([^"]*)"', page)
    samples, _ = soundfile.read(io.BytesIO(base64.b64decode(sound)))
    original = np.concatenate(list(stream_audio(good)))
    assert np.corrcoef(samples, original)[0, 1] > 0.95

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(good.read_bytes())))
    status, printed, _ = transcribe("-", "--format", "html")
    assert status == 0 and sound in printed and "<title>standard input</title>" in printed
    with pytest.raises(SystemExit):
        transcribe(good, other, "--format", "html")


def test_text_of_one_language(clips, tone_run, tmp_path, capsys):
    (good, _), (sentence, _) = clips
    shutil.copytree(tone_run / "model", tmp_path / "model")
    tokenizer = MlplTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.learn_language_characters({"xx": ["abc"]})
    tokenizer.save_pretrained(tmp_path / "model")
    arguments = ["transcribe", "--model", str(tmp_path / "model"), str(good), "--language"]
    assert set(sentence) - set("abc ")
    assert main([*arguments, "xx"]) == 0
    _, language, text = capsys.readouterr().out.removesuffix("\n").split("\t")
    assert set(text) <= set("abc ") and language == "de"  # the identified language stays the same
    assert main([*arguments, "hu"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and "'hu'" in err and err.count("\n") == 1


def test_a_long_recording_is_transcribed_in_pieces(clips, tone_run, transcribe, tmp_path):
    samples, _ = soundfile.read(clips[0][0], dtype="float32")
    soundfile.write(tmp_path / "long.wav", np.tile(samples, 100), RATE)
    recognize = pipeline("automatic-speech-recognition", model=tone_run / "model")
    expected = recognize(tmp_path / "long.wav", chunk_length_s=25)["text"]
    status, out, _ = transcribe(tmp_path / "long.wav")
    assert status == 0 and out.split("\t")[2] == f"{expected}\n" and len(expected) > 100


def test_a_name_that_is_not_utf_8(clips, transcribe, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/Gr\xfc\xdfe.wav"))
    shutil.copy(clips[0][0], path)
    assert transcribe(tmp_path) == (0, f"{tmp_path}/Gr\\xfc\\xdfe.wav\tde\t{clips[1][0]}\n", [])
    transcribe(tmp_path, "--output", tmp_path / "out")
    assert (tmp_path / "out" / path.with_suffix(".txt").name).read_text() == f"{clips[1][0]}\n"
    path.write_text("bad")
    status, _, errors = transcribe(path)
    assert status == 1 and errors[0].startswith(f"error: {tmp_path}/Gr\\xfc\\xdfe.wav: is not audio")


def test_a_missing_model_gives_one_line(clips, capsys):
    assert main(["transcribe", "--model", "model/that/is/nowhere", str(clips[0][0])]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and "model/that/is/nowhere" in err and err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("end", ["interrupt", "closed pipe"])
def test_an_early_end_is_clean(tone_run, tmp_path, end):
    samples = np.random.default_rng(0).standard_normal(305 * RATE).astype(np.float32) / 10
    soundfile.write(tmp_path / "0.wav", samples, RATE)  # each fills a window
    for i in range(1, 4):
        os.link(tmp_path / "0.wav", tmp_path / f"{i}.wav")
    process = subprocess.Popen(
        [HF_MLPL, "transcribe", "--model", tone_run / "model", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run behind a shell
    )
    with process:
        assert process.stdout.readline().startswith(f"{tmp_path / '0.wav'}\t")
        if end == "interrupt":
            process.send_signal(signal.SIGINT)
        else:
            process.stdout.close()  # as `head -1` does
        errors = process.stderr.read()
    assert (process.returncode, errors) == ((130, "interrupted\n") if end == "interrupt" else (1, ""))


@pytest.mark.parametrize("arguments", [[], ["transcribe"], ["transcribe", "--model", "x"], ["translate", "a.wav"]])
def test_wrong_usage_shows_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and "usage: hf-mlpl" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["transcribe", "--help"]])
def test_help_shows_examples(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0 and "hf-mlpl transcribe --model" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_finite(name):
    kinds = {action.type for action in command_parser(name)._actions if action.type} - {int, str, Path}
    for kind in kinds:
        for text in ("nan", "inf", "-inf"):
            with suppress(ArgumentTypeError, ValueError):
                assert not isinstance(kind(text), float), (kind, text)


def test_a_number_that_is_not_finite_gives_the_usage(capsys):
    with pytest.raises(SystemExit):
        main(["pseudo-label", "--model", "m", "--data", "d", "--output", "o", "--lm", "l", "--lm-weight", "nan"])
    assert "--lm-weight: 'nan' is no finite number, such as 0.5" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["x", "--metric", "wer", "a=b"], ["--metric", "wer", "--", "-x", "a=b"]])
def test_files_stand_before_and_after_options(arguments, capsys):
    with pytest.raises(SystemExit):
        main(["compare", *arguments])
    assert re.search("'-?x' is not of the form NAME=FILE", capsys.readouterr().err)
