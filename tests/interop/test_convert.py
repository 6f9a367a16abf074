"""`hf-mlpl convert`: the original's checkpoint to a folder that the pipeline takes, and back."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, hf_hub_download
from transformers import AutoModelForCTC, Wav2Vec2Config, Wav2Vec2ForCTC, pipeline

from hf_mlpl import MlplForCTC, MlplProcessor
from hf_mlpl.cli.main import main
from hf_mlpl.inference.loading import load_model
from hf_mlpl.installation import install_command

from ..model.test_golden import printed_letters
from ..port_folder import save_port
from ..random_model import RATE, save_folder, sweep

PUSH = ["--push-to-hub=me/tiny", "--license=mit"]


@pytest.fixture
def original(golden):
    """Returns the options that name the original's small checkpoint."""
    models = golden / "models"
    return [
        "--from=flashlight",
        f"--checkpoint={models / 'tiny40' / 'model.bin'}",
        f"--tokens={models / 'tokens.lst'}",
    ]


def test_a_folder_for_the_pipeline_and_back(golden, original, tmp_path, capsys):
    folder, back = tmp_path / "folder", tmp_path / "back"
    assert main(["convert", *original, "--output", str(folder), "--languages", *"ab ar as br ca".split()]) == 0
    assert capsys.readouterr().out.startswith(
        f"{folder}: 23,285 parameters, 2 layers of 16, 30 classes, 5 languages\n"
    )
    recognize = pipeline("automatic-speech-recognition", model=str(folder))
    for sample, letters in printed_letters("main").items():
        stem, _, suffix = sample.rpartition("_")
        if not stem.endswith("_8k"):  # the original reads it as if it were at 16 kHz
            answer = recognize(golden / "wavs" / f"{stem}.{suffix}")
            assert answer["text"].split() == "".join(letters.split()).replace("|", " ").split()
            assert answer["language"] in "ab ar as br ca".split()

    assert main(["convert", "--to=flashlight", "--checkpoint", str(folder), "--output", str(back)]) == 0
    models = golden / "models"
    assert (back / "tokens-all.lst").read_bytes() == (models / "tokens.lst").read_bytes()
    ours, theirs = ((path).read_bytes() for path in (back / "checkpoint.bin", models / "tiny40" / "model.bin"))
    begin = b"\x10" + bytes(7) + b"slimIPL::myModel"  # behind the program's notes
    assert ours[ours.index(begin) :] == theirs[theirs.index(begin) :]


def test_the_surround_of_a_tokenizer_goes_both_ways(tmp_path):
    source, converted, back = (tmp_path / name for name in ("source", "converted", "back"))
    save_folder(source, ["de", "sl"])
    config = source / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"surround": ""', '"surround": "|"'))
    model = AutoModelForCTC.from_pretrained(source)
    for name in ("attention_dropout", "activation_dropout"):
        assert getattr(model.config, name) == 0.0
    assert main(["convert", "--to=flashlight", "--checkpoint", str(source), "--output", str(converted)]) == 0
    arguments = [f"--checkpoint={converted / 'checkpoint.bin'}", f"--tokens={converted / 'tokens-all.lst'}"]
    assert main(["convert", "--from=flashlight", *arguments, "--output", str(back), "--languages", "de", "sl"]) == 0
    assert (back / "tokenizer_config.json").read_text() == config.read_text()
    assert (back / "config.json").read_text() == (source / "config.json").read_text()
    assert (back / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tokens={short}"], r"short.lst: has 2 lines with tokens, but the model needs 29"),
        (["--tokens={twice}"], r"twice.lst, line 3: entry 'a' is already in line 2"),
        (["--languages", "de"], r"model.bin: knows 5 languages, but 1 names were given"),
        (["--checkpoint={short}"], r"short.lst: ends after 4 bytes, .*; is it a complete checkpoint\?"),
        (
            ["--checkpoint={lost}"],
            r"lost.bin: no such file; the released one is https://.*/checkpoint_cv_finetune.bin$",
        ),
        (["--tokens={lost}"], r"lost.bin: no such file; the released one is https://.*/tokens-all.lst$"),
        (["--checkpoint=."], r"\.: is a folder; the released one is https://.*/checkpoint_cv_finetune.bin$"),
    ],
)
def test_what_cannot_be_converted_is_one_line(options, message, original, tmp_path, capsys):
    (tmp_path / "short.lst").write_text("|\na\n")
    (tmp_path / "twice.lst").write_text("|\na\na\n")
    files = {name: tmp_path / f"{name}.lst" for name in ("short", "twice")} | {"lost": tmp_path / "lost.bin"}
    options = [option.format(**files) for option in options]
    assert main(["convert", *original, *options, "--output", str(tmp_path / "folder")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"error: .*{message}", line)
    assert not (tmp_path / "folder").exists()


def test_a_model_of_the_old_port(local_hub, tmp_path, capsys, caplog):
    """Its folder by hand; ours says the same as the port's folder through the pipeline."""
    old, new = save_port(tmp_path / "old"), tmp_path / "new"
    assert main(["convert", "--from=mctct", "--checkpoint", str(old), "--output", str(new)]) == 0
    assert capsys.readouterr().out.startswith(f"{new}: ")
    assert "the old port has no language-ID head" in caplog.text
    sound = {"array": sweep(3), "sampling_rate": RATE}
    answers = [pipeline("automatic-speech-recognition", model=str(folder))(dict(sound)) for folder in (old, new)]
    assert answers[0] == answers[1] and answers[1]["text"] and list(answers[1]) == ["text"]
    (model, processor), (converted, _) = (
        load_model(str(old)),
        load_model(str(new)),
    )  # of `hf-mlpl evaluate`, and others
    torch.testing.assert_close(model.state_dict(), converted.state_dict(), rtol=0, atol=0)
    assert isinstance(model, MlplForCTC) and isinstance(processor, MlplProcessor)

    assert main(["convert", "--from=mctct", "--checkpoint", "nowhere", "--output", str(tmp_path / "other")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: nowhere: no such folder") and "speechbrain/m-ctc-t-large" in line

    (old / "model.safetensors").unlink(missing_ok=True)
    (old / "pytorch_model.bin").write_bytes(b"no weights")
    assert main(["convert", "--from=mctct", "--checkpoint", str(old), "--output", str(tmp_path / "other")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "pytorch_model.bin is damaged" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--from=flashlight"], "--from flashlight needs --tokens"),
        (["--to=flashlight", "--tokens=x"], "--tokens is for --from flashlight"),
        (["--from=mctct", "--languages", "x"], "--languages is for --from flashlight"),
        (["--to=onnx", "--push-to-hub=me/model"], "--push-to-hub is for --from"),
        (["--from=flashlight", "--tokens=x", "--output={there}"], "there exists already; name a new folder"),
        (
            ["--from=flashlight", "--tokens=x", "--push-to-hub=not/a/name"],
            "--push-to-hub: Repo id must be in the form",
        ),
        (["--from=flashlight", "--tokens=x", "--push-to-hub=me/model"], "--push-to-hub needs --license"),
        (["--from=flashlight", "--tokens=x", "--license=mit"], "--license and --private are for --push-to-hub"),
        (["--from=flashlight", "--tokens=x", "--private"], "--license and --private are for --push-to-hub"),
        (["--from=flashlight", "--to=flashlight"], "not allowed with argument --from"),
        ([], "one of the arguments --from --to is required"),
    ],
)
def test_wrong_use(options, message, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    options = [option.format(there=tmp_path / "there") for option in options]
    with pytest.raises(SystemExit) as status:
        main(["convert", "--checkpoint=x", f"--output={tmp_path / 'folder'}", *options])
    assert status.value.code == 2 and message in capsys.readouterr().err


def test_a_model_that_flashlight_cannot_hold(tmp_path, capsys):
    save_folder(tmp_path / "model", [])
    arguments = ["--checkpoint", str(tmp_path / "model"), "--output", str(tmp_path / "out")]
    assert main(["convert", "--to=flashlight", *arguments]) == 1
    assert "the model has no languages" in capsys.readouterr().err

    config = Wav2Vec2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    Wav2Vec2ForCTC(config).save_pretrained(tmp_path / "other")
    arguments[1] = str(tmp_path / "other")
    assert main(["convert", "--to=flashlight", *arguments]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'other'}: is a model of type 'wav2vec2', not of hf_mlpl\n"
    assert not (tmp_path / "out").exists()


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_onnx_without_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.delitem(sys.modules, "hf_mlpl.interop.onnx", raising=False)
    assert main(["convert", "--to=onnx", "--checkpoint", "a-model", "--output", str(tmp_path / "onnx")]) == 1
    line = f"error: export to ONNX needs onnxscript, which comes with {install_command('onnx')}\n"
    assert capsys.readouterr().err == line


def test_push_to_hub(golden, original, local_hub, quick_python, tmp_path):
    folder = tmp_path / "folder"
    local_hub.fail("POST", "/preupload/", status=503)  # is tried again, of which a process of its own shows all traces
    command = [quick_python, "-m", "hf_mlpl.cli.main", "convert", *original, "--output", folder]
    done = subprocess.run([*command, *PUSH], env=local_hub.env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"pushed to {local_hub.endpoint}/me/tiny"
    assert local_hub.token not in done.stdout
    assert local_hub.files("me/tiny").items() >= read_folder(folder).items()
    sample, letters = next(iter(printed_letters("main").items()))
    stem, _, suffix = sample.rpartition("_")
    answer = pipeline("automatic-speech-recognition", model="me/tiny")(golden / "wavs" / f"{stem}.{suffix}")
    assert answer["text"].split() == "".join(letters.split()).replace("|", " ").split()


@pytest.mark.parametrize("languages", [None, "ab ar language_2 br ca".split()])
def test_a_pushed_model_has_a_card_and_is_private_where_asked(languages, original, local_hub, tmp_path):
    more = ["--private"] if languages is None else ["--languages", *languages]
    assert main(["convert", *original, "--output", str(tmp_path / "folder"), *PUSH, *more]) == 0
    assert HfApi().repo_info("me/tiny").private is (languages is None)
    card = ModelCard.load(hf_hub_download("me/tiny", "README.md"))
    assert (card.data.license, card.data.pipeline_tag) == ("mit", "automatic-speech-recognition")
    assert card.data.language == (["ab", "ar", "br", "ca"] if languages else None)
    assert "made this folder of `model.bin`" in card.text and "23,285 parameters" in card.text
    assert ("tells 5 languages apart" if languages is None else ", ".join(languages)) in card.text
    assert "{" not in card.text and str(tmp_path) not in card.text


TOKEN = "give HF_TOKEN or `hf auth login` a token that may write to it, then "
RIGHTS = "You don't have the rights to create a model under the namespace 'you'"


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(
    ("repository", "token", "fault", "reason", "first"),
    [
        ("you/tiny", None, None, RIGHTS, TOKEN),
        ("me/tiny", "", None, "Invalid username or password", TOKEN),
        ("me/tiny", "hf_wrong", None, "Invalid credentials in Authorization header", TOKEN),
        ("me/tiny", None, ("POST", "/create$"), "Server disconnected without sending a response", ""),
        ("me/tiny", None, ("POST", "/commit/"), "Server disconnected without sending a response", ""),
        ("me/tiny", None, ("PUT", "/", 400), "a test wants this to fail", ""),  # the weights, on their way to LFS
        ("me/tiny", None, ("POST", "/create$", 500), "a test wants this to fail", ""),
    ],
)
def test_a_push_that_fails(repository, token, fault, reason, first, original, local_hub, tmp_path, monkeypatch, capfd):
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    if fault is not None:
        method, path, *status = fault
        local_hub.fail(method, path, status=status[0] if status else None, times=100)
    folder, whole = tmp_path / "a folder", tmp_path / "whole"
    assert main(["convert", *original, "--output", str(folder), *PUSH, "--push-to-hub", repository]) == 1
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    end = f"; {folder} is complete: {first}`hf upload {repository} '{folder}'` pushes it"
    assert line.endswith(end)
    assert re.fullmatch(rf"error: {repository}: cannot push to it \({reason}\)", line.removesuffix(end))
    assert "pushed to" not in out and local_hub.token not in out + err and "hf_wrong" not in out + err
    assert main(["convert", *original, "--output", str(whole)]) == 0
    more = read_folder(folder).items() - read_folder(whole).items()
    assert {name for name, _ in more} == {"README.md", "handler.py", "requirements.txt"}


@pytest.mark.usefixtures("quick_retries")
def test_a_push_that_fails_is_made_up_for(original, local_hub, tmp_path, monkeypatch, capfd):
    local_hub.fail("POST", "/commit/", times=7)
    assert main(["convert", *original, "--output", str(tmp_path / "folder"), *PUSH]) == 1
    assert list(local_hub.files("me/tiny")) == [".gitattributes"]
    program, *arguments = shlex.split(re.search("`(.+)` pushes it", capfd.readouterr().err)[1])
    command = [Path(sys.executable).with_name(program), *arguments]
    subprocess.run(command, env=local_hub.env, capture_output=True, check=True)
    assert local_hub.files("me/tiny").items() >= read_folder(tmp_path / "folder").items()


@pytest.mark.usefixtures("quick_retries")
def test_no_hub_in_reach(original, local_hub, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens at this port
    assert main(["convert", *original, "--output", str(tmp_path / "folder"), *PUSH]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: me/tiny: cannot push to it (") and line.endswith("pushes it")
