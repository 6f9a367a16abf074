"""The command `hf-mlpl`, as a process of its own and in this one."""

import subprocess
import sys
from pathlib import Path

import pytest

from hf_mlpl.cli import main

HF_MLPL = Path(sys.executable).with_name("hf-mlpl")


@pytest.fixture(scope="module")
def clips(tone_corpus):
    """Two good clips, one wav and one mp3, and what is said in them."""
    clips = tone_corpus / "common-voice"
    paths = [clips / "de/clips/common_voice_de_test0.wav", clips / "sv-SE/clips/common_voice_sv-SE_test0.mp3"]
    sentences = [path.parents[1].joinpath("test.tsv").read_text().splitlines()[1].split("\t")[2] for path in paths]
    return paths, sentences


def test_a_bad_file_costs_one_line_and_the_exit_status(clips, tone_run, tmp_path):
    (good, other), (sentence, another) = clips
    bad, lost = tmp_path / "bad.wav", tmp_path / "lost.wav"
    bad.write_bytes(b"RIFF, but no audio")
    done = subprocess.run(
        [HF_MLPL, "transcribe", "--model", tone_run / "model", good, bad, lost, other], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stdout.splitlines() == [f"{good}\tde\t{sentence}", f"{other}\tsv-SE\t{another}"]
    errors = done.stderr.splitlines()
    assert errors == [
        f"error: {bad}: is not audio that can be decoded (wav, flac, mp3, ogg), or is damaged",
        f"error: {lost}: no such file",
    ]


def test_good_files_give_exit_status_0(clips, tone_run, capsys):
    (good, _), (sentence, _) = clips
    assert main(["transcribe", "--model", str(tone_run / "model"), str(good)]) == 0
    assert capsys.readouterr().out == f"{good}\tde\t{sentence}\n"


def test_a_model_that_is_not_there_is_one_line(clips, capsys):
    assert main(["transcribe", "--model", "model/that/is/nowhere", str(clips[0][0])]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and "model/that/is/nowhere" in err and err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["transcribe"], ["transcribe", "a.wav"], ["translate", "a.wav"]])
def test_wrong_usage_is_told(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and "usage: hf-mlpl" in capsys.readouterr().err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0 and "hf-mlpl transcribe --model" in capsys.readouterr().out
