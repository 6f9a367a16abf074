"""`hf-mlpl test` against what `fl_asr_test` printed and wrote, and where it does better."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
import torch

from hf_mlpl import MlplConfig, MlplForCTC, MlplTokenizer
from hf_mlpl.cli.main import main
from hf_mlpl.corpora.flashlight_lists import ListEntry, read_lists
from hf_mlpl.interop.flashlight import Checkpoint, write_checkpoint
from hf_mlpl.interop.flashlight_report import ErrorRate, Report, Sample, file_name, load_acoustic_model

from ..random_model import RATE, save_folder, sweep

HF_MLPL = Path(sys.executable).with_name("hf-mlpl")
RUNS = Path(__file__).resolve().parents[3] / "shared" / "golden" / "run" / "tiny40"
# The repaired batch of three is compared with in test_golden.py: ours are the single results.
LISTS = sorted(path.parent.name for path in RUNS.glob("*/stdout.txt") if path.parent.name != "batch3_bs3_fixbatch")
EIGHT_KHZ = "speech_fr_8k_wav"  # read at 16 kHz by the original
SAMPLE_LINE = re.compile(
    r"^\[sample: (\S+), WER: (.+)%, TER: (.+)%, total WER: (.+)%, total TER: (.+)%, progress .*\]$"
)


@pytest.fixture
def run(capsys):
    """Runs the command in this process: exit status, standard output, lines of standard error."""

    def run(*arguments):
        try:
            status = main(["test", *map(str, arguments)])
        except SystemExit as end:  # of argparse
            status = end.code
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return run


def blocks(out: str) -> dict[str, tuple[str, str, str]]:
    """Sample id -> its three lines, in the order of the output."""
    lines = out.splitlines()
    assert len(lines) % 3 == 0
    samples = list(zip(lines[::3], lines[1::3], lines[2::3], strict=True))
    return {SAMPLE_LINE.match(sample[2])[1]: sample for sample in samples}


# ------------------------------------------------------------------------------- what the original printed and wrote


@pytest.fixture
def golden_run(golden, run, monkeypatch):
    """Runs the command like the original, with a golden list in the folder to which its paths are relative."""
    monkeypatch.chdir(golden)
    am, tokens = "models/tiny40/model.bin", "models/tokens.lst"
    return lambda name, *more: run(f"--test=lists/{name}.lst", f"--am={am}", f"--tokens={tokens}", *more)


@pytest.mark.parametrize("name", LISTS or ["none"])
def test_golden_list(golden, golden_run, tmp_path, name):
    status, out, errors = golden_run(
        name, "--lexicon=models/lexicon.txt", "--datadir=", f"--emission_dir={tmp_path}", "--show"
    )
    expected = (RUNS / name / "stdout.txt").read_text(encoding="utf-8")
    ours, theirs = blocks(out), blocks(expected)
    assert list(ours) == list(theirs)
    assert status == (1 if name == "dur0" else 0)
    if name not in ("main", "dur0"):
        assert out == expected
    for sample, (target, letters, rates) in theirs.items():
        if name == "dur0":  # NaN in the original; what is right is in another list
            assert ours[sample][1] == blocks((RUNS / "main" / "stdout.txt").read_text(encoding="utf-8"))[sample][1]
        elif sample != EIGHT_KHZ:
            assert ours[sample] == (target, letters, rates)
        check_emissions(tmp_path / f"lists#{name}.lst" / f"{sample}.npz", name, sample)
    assert errors[-1 - (name == "dur0")].startswith(f"[Test lists/{name}.lst ({len(theirs)} samples) in ")


def test_golden_list_from_elsewhere(golden, run, tmp_path, monkeypatch):
    """With --datadir, and with the other flags of the original's notebook."""
    monkeypatch.chdir(tmp_path)
    model = ("--am", golden / "models" / "tiny40" / "model.bin", "--tokens", golden / "models" / "tokens.lst")
    logging = ("--logtostderr=1", "--minloglevel=0", "--arch=mling.so", "--emission_dir=")
    status, out, _ = run("--test=lists/target.lst", "--datadir", golden, *model, *logging, "--show")
    assert (status, out) == (0, (RUNS / "target" / "stdout.txt").read_text(encoding="utf-8"))


def check_emissions(path: Path, name: str, sample: str) -> None:
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file) == ["emissions", "id", "num_frames", "path"]
        emissions = file["emissions"]
        assert (str(file["id"]), int(file["num_frames"])) == (sample, len(emissions))
        assert str(file["path"]).startswith("wavs/")
    assert emissions.dtype == np.float32
    folder = RUNS / ("main" if name == "dur0" else name)
    theirs = np.load(folder / "emissions" / f"{sample}.npy")
    if sample == EIGHT_KHZ:
        assert len(emissions) > 1.9 * len(theirs)
        return
    assert emissions.shape == theirs.shape
    np.testing.assert_array_equal(emissions.argmax(-1), np.load(folder / "fwd" / f"{sample}.viterbi.npy"))
    if len(theirs) < 200:
        assert np.linalg.norm(emissions - theirs) < 1e-4 * np.linalg.norm(theirs)
    else:
        assert np.abs(emissions - theirs).max() < 1e-2


def test_golden_target_rates_are_those_of_another_program(golden_run, tmp_path):
    status, out, errors = golden_run("target", "--show", f"--sclite={tmp_path}")
    references, hypotheses = [], []
    for target, letters, rates in blocks(out).values():
        pairs = [line[5:].split() for line in (target, letters)]
        characters = jiwer.process_characters(*("".join(letters) for letters in pairs))
        texts = ["".join(letters).replace("|", " ") for letters in pairs]
        _, wer, ter, *_ = SAMPLE_LINE.match(rates).groups()
        assert float(ter) == pytest.approx(100 * characters.cer, abs=1e-3)
        assert float(wer) == pytest.approx(100 * jiwer.wer(*texts), abs=1e-3)
        references.append(texts[0])
        hypotheses.append(texts[1])
    assert f"WER: {100 * jiwer.wer(references, hypotheses):g}%, " in errors[-1]
    assert errors[-1].endswith("TER: 257.692%]") and status == 0
    for name, texts in (("lists#target.lst.viterbi.ref", references), ("lists#target.lst.hyp", hypotheses)):
        lines = [f"{text} ({sample})\n" for text, sample in zip(texts, blocks(out), strict=True)]
        assert (tmp_path / name).read_text(encoding="utf-8") == "".join(lines)


def test_golden_decoding(golden, tmp_path):
    """Letters and words of the original's label paths, through the report's own lines."""
    for surround, key in (("", ""), ("|", "_surround")):
        tokenizer = MlplTokenizer(golden / "models" / "tokens.lst", surround=surround)
        for example in json.loads((golden / "decode.json").read_text(encoding="utf-8")):
            entry = ListEntry("list", "a", "a.wav", 1.0, "")
            logits = np.eye(30, dtype=np.float32)[example["path"]]  # (S, 30)
            lines, words, _ = Report(tokenizer, 1).add(Sample(entry, logits=logits))
            assert lines.splitlines()[1] == f"|P|: {' '.join(example['letters' + key])}"
            assert words == example["words" + key]


def test_golden_recordings_that_the_original_cannot_read(golden_run):
    """Stereo, which it folds into time, and less than a frame, at which it aborts; ids that occur twice."""
    status, out, errors = golden_run("stereo", "--show")
    assert status == 0 and len(blocks(out)) == 1
    assert errors[0] == "note: lists/stereo.lst, line 1: wavs/stereo.wav has 2 channels, which are averaged"
    status, out, errors = golden_run("short399", "--show")
    assert status == 0 and len(blocks(out)) == 1
    assert errors[0].endswith("wavs/short399.wav is shorter than a frame and gets silence behind it")
    status, out, errors = golden_run("batch2same", "--show")
    assert status == 0 and out.count("[sample: t300_wav, ") == 2 and len(errors) == 1


def test_golden_durations_that_are_wrong(golden_run):
    status, out, errors = golden_run("main_dur1", "--show")
    main_list = blocks((RUNS / "main" / "stdout.txt").read_text(encoding="utf-8"))
    assert [block[1] for block in blocks(out).values()] == [main_list[sample][1] for sample in blocks(out)]
    assert status == 1 and len(errors) == 6 and "inf%" in errors[-2]
    assert errors[1] == (
        "warning: lists/main_dur1.lst, line 2: its duration is 1 ms in the list, but 3025 ms in wavs/t301.wav; only "
        "the order depends on it"
    )
    assert errors[-1] == "error: lines that failed: 0; with a wrong duration: 4"


# ---------------------------------------------------------------------------- other models, lists, tokens, recordings


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Makes a random model's folder, and beside it model.bin, with the flag --surround=|, and model.lst."""
    folder = save_folder(tmp_path_factory.mktemp("am") / "model", ["de", "sl"])
    checkpoint = Checkpoint.from_model(MlplForCTC.from_pretrained(folder), surround="|")
    write_checkpoint(checkpoint, folder.with_suffix(".bin"))
    return folder


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """Recordings of 2, 1 and 1.5 s, and a list of them, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, seconds in (("a.wav", 2), ("b.flac", 1), ("c.mp3", 1.5)):
        soundfile.write(name, sweep(seconds), RATE)
    Path("clips.lst").write_text("A a.wav 2000\nB b.flac 1000 abc def\nC c.mp3 1500\tgha\r\n\n")
    return tmp_path


def checkpoint(model: Path) -> tuple:
    return "--am", model.with_suffix(".bin"), "--tokens", model.with_suffix(".lst")


def test_a_checkpoint_and_a_folder_of_the_same_model(model, clips, run):
    status, out, errors = run("--test=clips.lst", "--am", model, "--show")
    assert status == 0 and list(blocks(out)) == ["A", "C", "B"]
    assert [block[0] for block in blocks(out).values()] == ["|T|: ", "|T|: g h a", "|T|: a b c | d e f"]
    assert errors[0] == "note: 1 of 3 recordings have no transcript: all that is recognised there counts as errors"
    assert errors[1].startswith("[Test clips.lst (3 samples) in ") and len(errors) == 2
    assert run("--test=clips.lst", *checkpoint(model), "--show=true", "--surround=")[:2] == (0, out)
    assert run("--test=clips.lst", "--am", model, "--tokens", model.with_suffix(".lst"), "--show=1")[:2] == (0, out)
    assert run("--test=clips.lst", "--am", model, "--show=false")[:2] == run("--test=clips.lst", "--am", model)[:2]


def test_surround_is_the_checkpoints_own_unless_it_is_given(model):
    files = [str(model.with_suffix(suffix)) for suffix in (".bin", ".lst")]
    surrounds = [load_acoustic_model(*files, surround)[1].tokenizer.surround for surround in (None, "", "|")]
    assert surrounds == ["|", "", "|"]
    surrounds = [load_acoustic_model(str(model), "", surround)[1].tokenizer.surround for surround in (None, "", "|")]
    assert surrounds == ["", "", "|"]
    assert load_acoustic_model(str(model), files[1], "|")[1].tokenizer.surround == "|"


def test_features_are_the_models_own_with_any_tokens(model, tmp_path):
    folder = tmp_path / "raw"
    shutil.copytree(model, folder)
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["feature_extractor"]["do_normalize"] = False
    (folder / "processor_config.json").write_text(json.dumps(settings))
    for tokens in ("", str(model.with_suffix(".lst"))):
        assert not load_acoustic_model(str(folder), tokens)[1].feature_extractor.do_normalize


def test_several_lists_in_one_order(model, clips, run):
    """Orders all lists by decreasing duration; equal durations keep their order."""
    (clips / "more").mkdir()
    Path("more/x.lst").write_text("X a.wav 1500\nZ b.flac 1000.5\n\tB2  a.wav\v2e3\n")
    status, out, errors = run("--test=clips.lst,more/x.lst,", "--am", model, "--show")
    assert status == 0 and list(blocks(out)) == ["A", "B2", "C", "X", "Z", "B"]
    assert errors[-1].startswith("[Test clips.lst,more/x.lst, (6 samples) in ")


def test_where_lists_and_recordings_are(model, clips, run, monkeypatch):
    """Lists are below --datadir, and recordings where the lists say; if nothing is there, they are below it, too."""
    expected = run("--test=clips.lst", "--am", model, "--show")[1]
    (clips / "elsewhere").mkdir()
    monkeypatch.chdir(clips / "elsewhere")
    assert run("--test=clips.lst", f"--datadir={clips}", "--am", model, "--show")[:2] == (0, expected)
    assert run("--test=clips.lst", "--datadir", "..", "--am", model, "--show")[:2] == (0, expected)
    text = (clips / "clips.lst").read_text()
    Path("absolute.lst").write_text(re.sub(r"(?m)^(\w) ", rf"\1 {clips}/", text))
    assert run("--test=absolute.lst", "--datadir=", "--am", model, "--show")[:2] == (0, expected)
    soundfile.write("a.wav", np.zeros(32000), RATE)  # what the list says comes first
    assert run("--test=clips.lst", "--datadir", "..", "--am", model, "--show")[1] != expected


def test_batches_change_nothing(model, clips, run, monkeypatch):
    """Emissions of recordings of many lengths, together and each alone."""
    lengths = [0.01, 0.025, 0.3, 0.31, 0.32, 1, 2.5, 7]
    for number, seconds in enumerate(lengths):
        soundfile.write(f"{number}.wav", sweep(seconds), RATE)
    Path("many.lst").write_text("".join(f"{i} {i}.wav 0{1000 * s}\n" for i, s in enumerate(lengths)))
    assert run("--test=many.lst", "--am", model, "--emission_dir=batched")[0] == 0
    monkeypatch.setattr("hf_mlpl.interop.flashlight_report.BATCH_SECONDS", 0.0)
    assert run("--test=many.lst", "--am", model, "--emission_dir=single")[0] == 0
    for number, seconds in enumerate(lengths):
        batched, single = (np.load(f"{folder}/many.lst/{number}.npz")["emissions"] for folder in ("batched", "single"))
        frames = 1 + max(round(seconds * RATE) - 400, 0) // 160
        assert batched.shape == single.shape == (-(-frames // 3), 17)
        np.testing.assert_allclose(batched, single, atol=2e-4)


def test_entries_that_share_a_line_of_the_tokens_file(model, clips, run):
    """Shows the first of the entries that share a line; empty lines are no tokens."""
    _, expected, _ = run("--test=clips.lst", *checkpoint(model), "--show")
    lines = model.with_suffix(".lst").read_text().split()
    Path("tokens.lst").write_text("".join(f"{line} {line.upper()}\n\n" if line != "|" else "|\n" for line in lines))
    text = Path("clips.lst").read_text()
    Path("clips.lst").write_text(text.replace("abc", "aBC").replace("gha", "GHA"))
    status, out, errors = run("--test=clips.lst", *checkpoint(model), "--tokens=tokens.lst", "--show")
    assert status == 0 and letters_of(out) == letters_of(expected) and len(errors) == 2


def letters_of(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("|")]


@pytest.mark.parametrize(
    ("transcript", "letters", "letters_surround"),
    [
        ("", "", ""),
        ("ab", "a b", "a b"),
        ("  ab \t c", "a b | c", "a b | c"),
        ("a?b", "a b", "a b"),  # unknown characters are skipped, as in the original
        ("a ?? b", "a | | b", "a | | b"),  # but not the boundary behind their word
        ("?? a ??", "a", "a"),
        ("a ?? ??", "a |", "a"),
        ("?", "", ""),
        ("| ab | c |", "a b | | | c |", "a b | | | c"),
        ("|ab|c|", "a b | c", "a b | c"),
        ("a|b", "a | b", "a | b"),
        ("a#b", "a # b", "a # b"),  # the original's name of the blank is in its dictionary
        ("Ab", "a b", "a b"),  # an entry beside another one
        ("no\u00a0n", "n o n", "n o n"),  # flashlight's white space is ASCII's
    ],
)
def test_letters_of_transcripts(tmp_path, transcript, letters, letters_surround):
    tokens, recordings = tmp_path / "tokens.lst", tmp_path / "a.lst"
    tokens.write_text("|\na A\nb\nc\nn\no\n")
    recordings.write_text(f"A a.wav 1 {transcript}\n")
    (entry,), _ = read_lists([str(recordings)])
    for surround, expected in (("", letters), ("|", letters_surround)):
        report = Report(MlplTokenizer(tokens, surround=surround), 1)
        assert report.reference_letters(entry.transcript) == expected.split()


def spoken(letters: str, transcript: str, tokens: Path) -> tuple[list[str], Report]:
    """Lines of a sample in which a model has said these letters, `-` being the blank."""
    tokenizer = MlplTokenizer(tokens)
    ids = [tokenizer.blank_token_id if letter == "-" else tokenizer.get_vocab()[letter] for letter in letters]
    report = Report(tokenizer, 1)
    logits = np.eye(tokenizer.vocab_size, dtype=np.float32)[ids]
    lines, _, _ = report.add(Sample(ListEntry("list", "id", "a.wav", 1.0, transcript), logits=logits))
    return lines.splitlines(), report


def test_words_of_transcripts_are_their_own(tmp_path):
    """Unknown characters make errors of words, and another Unicode form of the same word does not."""
    tokens = tmp_path / "tokens.lst"
    tokens.write_text("|\na\nb\n\u00e9\n")
    lines, report = spoken("|aa-b|\u00e9||-|a|", "ab \u00e9 a", tokens)
    assert lines[:2] == ["|T|: a b | \u00e9 | a", "|P|: a b | \u00e9 | | a"]
    assert lines[2].startswith("[sample: id, WER: 0%, TER: 16.6667%, ") and not report.unknown
    lines, report = spoken("ab|\u00e9|a", unicodedata.normalize("NFD", "ab|\u00e9 a?"), tokens)
    assert lines[2].startswith("[sample: id, WER: 33.3333%, TER: 20%, ")
    assert report.unknown == {"e": 1, "\u0301": 1, "?": 1}


def test_rates_as_the_original_prints_them():
    rates = [
        ErrorRate(46, 13),
        ErrorRate(1, 3),
        ErrorRate(0, 5),
        ErrorRate(2, 0),
        ErrorRate(),
        ErrorRate(40000, 3),
    ]
    assert [str(rate) for rate in rates] == ["353.846%", "33.3333%", "0%", "inf%", "0%", "1.33333e+06%"]


def test_rates_are_those_of_another_program():
    rng = np.random.default_rng(0)
    pairs = [[[f"{word}" for word in rng.integers(0, 4, rng.integers(1, 9))] for _ in "hr"] for _ in range(200)]
    total = ErrorRate()
    for hypothesis, reference in pairs:
        total.add(hypothesis, reference)
        assert str(ErrorRate().add(hypothesis, reference)) == f"{percent(hypothesis, reference):g}%"
    hypotheses, references = ([" ".join(words) for words in side] for side in zip(*pairs, strict=True))
    assert str(total) == f"{100 * jiwer.wer(references, hypotheses):g}%"


def percent(hypothesis: list[str], reference: list[str]) -> float:
    return 100 * jiwer.wer(" ".join(reference), " ".join(hypothesis))


def test_sampling_rates_and_channels(model, clips, run):
    soundfile.write("8k.wav", sweep(2, 8000), 8000)
    soundfile.write("stereo.flac", np.stack([sweep(2), 0 * sweep(2)], 1), RATE)
    soundfile.write("44k.mp3", np.stack([sweep(2, 44100)] * 2, 1), 44100)
    Path("x.lst").write_text("1 8k.wav 2000\n2 stereo.flac 2000\n3 44k.mp3 2000\n4 a.wav 2000\n")
    status, out, errors = run("--test=x.lst", "--am", model, "--emission_dir=out")
    assert (status, out) == (0, "")
    assert errors[:3] == [
        "note: x.lst, line 1: 8k.wav is at 8000 Hz and is resampled",
        "note: x.lst, line 2: stereo.flac has 2 channels, which are averaged",
        "note: of 4 recordings 2 resampled, 2 down-mixed to mono",
    ]
    lengths = [len(np.load(f"out/x.lst/{number}.npz")["emissions"]) for number in range(1, 5)]
    assert lengths == [66, 66, 66, 66]


def test_durations(model, clips, run):
    Path("x.lst").write_text("1 a.wav 2999\n2 a.wav 3001\n3 a.wav 2.04\n4 b.flac 0\n5 a.wav -1\n6 a.wav 20\n")
    status, out, errors = run("--test=x.lst", "--am", model, "--show")
    assert status == 1 and list(blocks(out)) == ["2", "1", "6", "3", "4", "5"] and "nan" not in out
    assert [line.partition(": its")[0] for line in errors if line.startswith("warning")] == [
        f"warning: x.lst, line {number}" for number in (2, 6, 4, 5)
    ]
    assert "note: x.lst, line 3: a.wav has its duration in seconds rather than milliseconds" in errors[2]
    assert errors[-1] == "error: lines that failed: 0; with a wrong duration: 4"


# ------------------------------------------------------------------------------------------------------- what is wrong


def test_bad_lines_cost_a_line_each(model, clips, run):
    soundfile.write("loud.wav", np.full(RATE, 1e6, np.float32), RATE, subtype="FLOAT")
    soundfile.write("empty.wav", np.zeros(0), RATE)
    Path("bad.wav").write_bytes(b"RIFF, but no audio")
    Path("none.lst").write_text("\n")
    Path("x.lst").write_bytes(
        b"1 a.wav\n2 lost.wav 1000\n3 a file.wav 1000\n4 a.wav 1000 \xff\n \n5 bad.wav 1000\n6 loud.wav 1000\n"
        b"7 empty.wav 0\n8 a.wav nan\n9\0 a.wav 2000\n10 . 1000\nX\xff a.wav 2000 a\n\xff gr\xfc.wav 1000\n"
    )
    status, out, errors = run("--test=x.lst,none.lst", "--am", model, "--show", "--emission_dir=out")
    assert status == 1 and list(blocks(out)) == ["X\\xff"] and "progress (thread 0): 14.2857%" in out
    varying = r"'|(?<=wav): .*(?=beyond)| \(wav, flac, mp3, ogg\)"  # the last one only without PyAV
    assert [re.sub(varying, "", line) for line in sorted(errors[:12])] == sorted(
        [
            "error: x.lst, line 1: has 2 of the columns that it needs: id, path, duration",
            "error: x.lst, line 2: lost.wav: no such file",
            "error: x.lst, line 3: its duration is file.wav, not a number (paths must not have spaces)",
            "error: x.lst, line 4: its transcript is not UTF-8",
            "error: x.lst, line 6: bad.wav: is not audio that can be decoded, or is damaged",
            "error: x.lst, line 7: loud.wavbeyond 32768; samples lie in about [-1, 1]",
            "error: x.lst, line 8: empty.wav: no samples",
            "error: x.lst, line 9: its duration is nan, not a number (paths must not have spaces)",
            "error: x.lst, line 10: has a NUL character; is it a text file?",
            "error: x.lst, line 11: .: is a folder",
            "error: x.lst, line 13: gr\\xfc.wav: no such file",
            "error: none.lst: has no lines",
        ]
    )
    assert errors[-1] == "error: lines that failed: 12; with a wrong duration: 0"
    assert os.listdir("out/x.lst,none.lst") == ["X#xff.npz"]


def test_what_cannot_be_used_at_all(model, clips, run, tmp_path):
    tokens, bin_file = model.with_suffix(".lst"), model.with_suffix(".bin")
    Path("long.lst").write_text(tokens.read_text() + "z\n")
    Path("twice.lst").write_text("|\na\na\n")
    Path("cut.bin").write_bytes(bin_file.read_bytes()[:2000])
    Path("file").touch()
    for arguments, expected in {
        ("--am", bin_file, "--tokens=long.lst"): "long.lst: has 17 lines with tokens, but the model needs 16: ",
        ("--am", model, "--tokens=long.lst"): "long.lst: has 17 lines with tokens, but the model needs 16: ",
        ("--am", bin_file, "--tokens=twice.lst"): "twice.lst, line 3: entry 'a' is already in line 2",
        ("--am", bin_file, "--tokens=lost.lst"): "lost.lst: No such file or directory",
        ("--am", bin_file, "--tokens=."): ".: Is a directory",
        ("--am", "lost.bin", "--tokens", tokens): "lost.bin: no such file",
        ("--am", "cut.bin", "--tokens", tokens): "cut.bin: ",
        ("--am", "file", "--tokens", tokens): "file: ",
        ("--am", "a/model/that/is/nowhere"): "",
        ("--am", model, "--test=lost.lst"): "lost.lst: No such file or directory",
        ("--am", model, "--test=clips.lst,."): ".: Is a directory",
        ("--am", model, "--sclite=file"): "file: File exists",
        ("--am", model, "--emission_dir=file"): "file/clips.lst: Not a directory",
    }.items():
        status, out, errors = run("--test=clips.lst", *arguments)
        assert (status, out, len(errors)) == (2, "", 1), errors
        assert errors[0].startswith(f"error: {expected}")


def test_a_folder_whose_tokens_are_not_its_heads(model, clips, run):
    shutil.copytree(model, "am")
    MlplForCTC(MlplConfig.tiny(19, ["de"], num_hidden_layers=1)).save_pretrained("am")
    status, out, errors = run("--test=clips.lst", "--am=am")
    assert (status, out, len(errors)) == (2, "", 1)
    assert errors[0].startswith("error: am: has 16 lines with tokens, but the model needs 18: its CTC head has 19")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--am=am"],
        ["--test=", "--am=am"],
        ["--test=a.lst", "--am=am", "--show=maybe"],
        ["--test=a.lst", "--am=am", "--surround=_"],
        ["--test=a.lst", "--am=am", "--lm=lm.bin"],
        ["--test=a.lst", f"--am={__file__}"],
    ],
)
def test_wrong_usage(run, arguments):
    status, out, errors = run(*arguments)
    assert (status, out) == (2, "") and "usage: hf-mlpl" in errors[0] and "error: " in errors[-1]


def test_help_teaches(run):
    status, out, _ = run("--help")
    assert status == 0 and "hf-mlpl test --am checkpoint.bin --tokens" in out and "greedy" in out


def test_ids_stay_in_their_folders(model, clips, run):
    ids = ["../../x", "/etc/y", "..", "a/b", "a#b", "a/b", "a#b.2", "\\..\\z"]
    Path("x.lst").write_text("".join(f"{name} a.wav 2000\n" for name in ids))
    status, out, errors = run(
        f"--test={clips}/x.lst", "--am", model, "--emission_dir=out/deep", "--sclite=out", "--show"
    )
    assert status == 0 and re.findall(r"\[sample: (\S+),", out) == ids
    assert errors[0].endswith(f"a.wav has the id of another one; its emissions are in {name_of(clips)}/a#b.2.npz")
    assert errors[1] == "note: of 8 recordings 3 with the id of another one"
    names = [file_name(name) for name in ids]
    names[4:] = ["a#b.2", "a#b.3", "a#b.2.2", "#..#z"]
    assert sorted(os.listdir(name_of(clips))) == sorted(f"{name}.npz" for name in names)
    for name, file in zip(ids, names, strict=True):
        assert str(np.load(f"{name_of(clips)}/{file}.npz")["id"]) == name
    written = {path.name for path in clips.rglob("*") if path.is_file()} - {f"{name}.npz" for name in names}
    stem = f"{clips}/x.lst".replace("/", "#")
    assert written == {"a.wav", "b.flac", "c.mp3", "clips.lst", "x.lst", f"{stem}.hyp", f"{stem}.viterbi.ref"}


def name_of(clips: Path) -> str:
    return "out/deep/" + f"{clips}/x.lst".replace("/", "#")


def test_emissions_that_cannot_be_written(model, clips, run):
    Path("x.lst").write_text(f"{'x' * 252} a.wav 2000\nB b.flac 1000\n")
    status, out, errors = run("--test=x.lst", "--am", model, "--emission_dir=out", "--show")
    assert status == 1 and len(blocks(out)) == 2 and os.listdir("out/x.lst") == ["B.npz"]
    assert errors[0].startswith("error: x.lst, line 1: its emissions cannot be written: ") and len(errors) == 3


def test_a_recording_that_does_not_fit_into_memory(model, clips, run, monkeypatch):
    forward = MlplForCTC.forward

    def small(self, input_features, **kwargs):
        if input_features.shape[1] > 150:
            raise torch.OutOfMemoryError("too much")
        return forward(self, input_features, **kwargs)

    monkeypatch.setattr(MlplForCTC, "forward", small)
    monkeypatch.setattr("hf_mlpl.interop.flashlight_report.BATCH_SECONDS", 1.0)
    status, out, errors = run("--test=clips.lst", "--am", model, "--show")
    assert status == 1 and list(blocks(out)) == ["C", "B"]
    assert errors[0].startswith("error: clips.lst, line 1: a.wav: its 2 s do not fit into memory")


def test_progress_is_on_standard_error(model, clips, run, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    status, out, errors = run("--test=clips.lst", "--am", model, "--show")
    assert status == 0 and len(blocks(out)) == 3 and any("3/3" in line for line in errors)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["interrupt", "kill", "closed pipe"])
def test_an_early_end_leaves_whole_files(model, clips, quick_python, end):
    soundfile.write("long.wav", sweep(60), RATE)
    Path("x.lst").write_text("".join(f"{number} long.wav 60000\n" for number in range(50)))
    process = subprocess.Popen(
        [quick_python, HF_MLPL, "test", "--test=x.lst", "--am", model, "--emission_dir=out", "--sclite=out", "--show"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        while not process.stdout.readline().startswith("[sample: 1,"):
            pass
        if end == "interrupt":
            process.send_signal(signal.SIGINT)
        elif end == "kill":
            process.kill()
        else:
            process.stdout.close()  # as `head -6` does
        errors = process.stderr.read()
    status = {"interrupt": (130, "interrupted\n"), "kill": (-signal.SIGKILL, ""), "closed pipe": (1, "")}
    assert (process.returncode, errors) == status[end]
    files = [path for path in Path("out").rglob("*") if path.is_file() and not path.name.startswith(".partial-")]
    assert 1 <= len(files) < 50 and all(path.suffix == ".npz" for path in files)
    assert all(len(np.load(path)["emissions"]) == 2000 for path in files)
    if end != "kill":
        assert not list(Path("out").rglob(".partial-*"))
