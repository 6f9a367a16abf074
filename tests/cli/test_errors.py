"""Tests which errors end a command with one line, on one process and on two."""

import io
import os
import subprocess
import sys
import threading
from importlib.metadata import version

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets.exceptions import DatasetGenerationError
from huggingface_hub.errors import HTTPError, StrictDataclassError

from hf_mlpl import MlplConfig
from hf_mlpl.cli.errors import ANOTHER_FAILED, describe, exit_status
from hf_mlpl.cli.main import main
from hf_mlpl.model.missing_model import check_model
from hf_mlpl.training.problems import TrainingError


def raised(function, *arguments) -> Exception:
    with pytest.raises(Exception) as caught:
        function(*arguments)
    return caught.value


def test_errors_that_users_can_mend_are_one_line():
    assert describe(ValueError("a\n  b\n\nc")) == "a b c"
    assert describe(OSError("two  spaces are part of a name")) == "two  spaces are part of a name"
    assert describe(EOFError("x")) is None and describe(EOFError("x"), EOFError) == "x"
    assert describe(ValueError()) == "ValueError"  # never an empty line
    assert describe(ImportError("pip install it")) == "pip install it"
    assert describe(raised(__import__, "no_such_module")) is None
    for error in (pa.lib.ArrowNotImplementedError("lists of binaries"), HTTPError("no connection")):
        assert not isinstance(error, (OSError, ValueError)) and describe(error) == str(error)
    strict = raised(lambda: MlplConfig(hidden_size="x"))
    assert isinstance(strict, StrictDataclassError)
    assert describe(strict) == "Field 'hidden_size' expected int, got str (value: 'x')"
    generation = DatasetGenerationError("An error occurred while generating the dataset")
    generation.__cause__ = pa.lib.ArrowInvalid("the file is too short")
    assert describe(generation) == "the file is too short"


def test_faults_of_the_program_keep_their_traceback():
    for error in (KeyError("x"), TypeError("x"), AssertionError("x"), RuntimeError("x"), AttributeError("x")):
        assert describe(error) is None
    with pytest.raises(KeyError):
        exit_status(lambda: {}["x"])


def test_too_little_memory_has_a_remedy():
    for allocate in (torch.empty, np.empty):
        message = describe(raised(allocate, (2**45,)))
        assert message.startswith("not enough memory (") and "smaller batches" in message and "\n" not in message
    assert describe(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0")) == (
        "not enough memory (CUDA out of memory); smaller batches, shorter recordings or fewer workers need less"
    )


def test_a_lost_process_gives_no_traceback():
    for message in ("[gloo/x.cc:1] Connection closed by peer [127.0.0.1]:2", "Broken pipe"):
        assert describe(RuntimeError(message)) == ANOTHER_FAILED


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (OSError("a\nb"), 1, "error: a b"),
        (TrainingError("the loss is not finite"), 1, "error: the loss is not finite"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (BrokenPipeError(32, "Broken pipe", "server"), 1, "error: [Errno 32] Broken pipe: 'server'"),  # not our output
    ],
)
def test_a_command_ends_with_the_line(error, status, line, capsys):
    def run():
        raise error

    assert exit_status(run) == status
    assert capsys.readouterr().err == f"{line}\n"


# ---- several processes without a launcher that ends them

FAIL = """
import sys, time
from hf_mlpl.cli.errors import exit_status
delay, message = sys.argv[1:]
def run():
    time.sleep(float(delay))
    raise eval(message)
sys.exit(exit_status(run))
"""


def run_ranks(*ranks: tuple[float, str], port: str) -> list[tuple[int, str]]:
    """Returns exit status and stderr of processes that start together; each waits for a delay and raises an error."""
    environment = os.environ | {"WORLD_SIZE": str(len(ranks)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FAIL, str(delay), error],
            env=environment | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, (delay, error) in enumerate(ranks)
    ]
    return [(process.wait(60), process.stderr.read()) for process in processes]


@pytest.mark.parametrize("delays", [(0, 0), (0.4, 0)])
def test_an_error_of_both_processes_is_printed_once(delays, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    ended = run_ranks(*((delay, "ValueError('no setting')") for delay in delays), port="1")
    assert [status for status, _ in ended] == [1, 1]
    assert sorted(message for _, message in ended) == ["", "error: no setting\n"]
    # The next job of the same shell prints its error again.
    for mark in tmp_path.iterdir():
        os.utime(mark, (0, 0))
    assert sorted(message for _, message in run_ranks(*((0, "ValueError('b')"),) * 2, port="1")) == ["", "error: b\n"]


def test_a_process_that_fails_prints_its_error_and_one_that_loses_it_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    lost = "RuntimeError('Connection closed by peer')"
    ended = run_ranks((0.5, lost), (0, "OSError('a disk')"), port="1")
    assert ended == [(1, ""), (1, "error: a disk\n")]
    ended = run_ranks((0, lost), port="2")  # the other was killed
    assert ended == [(1, f"error: {ANOTHER_FAILED}\n")]


def test_a_process_does_not_end_before_another_one_has_printed(tmp_path, monkeypatch):
    """Lets the other process print its line, before the launcher ends it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("WORLD_SIZE", "2")
    written = []

    def fail():
        raise ValueError("a setting")

    class Errors(io.StringIO):
        def write(self, text):
            if not written:
                other.start()
                other.join(0.2)
                assert other.is_alive()
            written.append(text)

    other = threading.Thread(target=exit_status, args=[fail])
    monkeypatch.setattr("sys.stderr", Errors())
    assert exit_status(fail) == 1
    other.join()
    assert "".join(written) == "error: a setting\n"


LAUNCHED = """
import os, sys, torch.distributed as dist
from hf_mlpl.cli.errors import exit_status
def run():
    dist.init_process_group("gloo")
    if os.environ["RANK"] == sys.argv[1]:
        raise ValueError("refused")
    dist.barrier()
sys.exit(exit_status(run))
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_refusal_before_a_barrier_ends_all_under_torchrun(rank, quick_python, tmp_path):
    (tmp_path / "script.py").write_text(LAUNCHED)
    command = [quick_python, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, tmp_path / "script.py", str(rank)], capture_output=True, text=True, timeout=120, check=False
    )
    before, _, launcher = done.stderr.partition("Traceback")
    assert done.returncode == 1
    assert [line for line in before.splitlines() if line.startswith("error: ")] == ["error: refused"]
    assert "  traceback : error: refused\n" in launcher  # the lines that users see last


# ---- output that nobody reads, versions, missing models


@pytest.mark.parametrize("times", [1, 100_000])  # smaller and larger than the buffer of standard output
def test_a_closed_pipe_ends_quietly(times):
    script = (
        "import sys\nfrom hf_mlpl.cli.main import main\nfrom hf_mlpl.cli import convert\n"
        f"convert.run = lambda options, parser: print(*range({times}), sep='\\n')\n"
        "sys.exit(main(['convert', '--from=mctct', '--checkpoint=x', '--output=y']))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert (process.wait(60), process.stderr.read()) == (1, b"")


@pytest.mark.parametrize("unbuffered", ["", "1"])  # where it is, argparse from Python 3.11 on ignores the closed pipe
def test_help_that_nobody_reads(unbuffered):
    command, environment = [sys.executable, "-m", "hf_mlpl", "--help"], os.environ | {"PYTHONUNBUFFERED": unbuffered}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    ignored = unbuffered and sys.version_info >= (3, 11)
    assert (process.wait(60), process.stderr.read()) == (0 if ignored else 1, b"")


def test_version(capsys):
    for name in ("hf_mlpl", "hf_mlpl.cli.main"):
        done = subprocess.run([sys.executable, "-m", name, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == [
            f"hf_mlpl {__import__('hf_mlpl').__version__}",
            f"torch {version('torch')}",  # some builds name CUDA's version in `torch.__version__` alone
            f"transformers {__import__('transformers').__version__}",
        ]


@pytest.mark.parametrize("name", ["nowhere/at/all", "me/nothing", "", "{folder}", "{file}", "a b"])
def test_a_missing_model_names_the_two_ways_to_one(name, local_hub, tmp_path, capsys):
    (tmp_path / "file").touch()
    name = name.format(folder=tmp_path, file=tmp_path / "file")
    message = str(raised(check_model, name))
    assert message.startswith(f"{name}: ") and "\n" not in message
    assert "make demo" in message and "speechbrain/m-ctc-t-large" in message and "hf-mlpl convert" in message
    assert main(["convert", "--to=flashlight", f"--checkpoint={name}", f"--output={tmp_path / 'out'}"]) == 1
    assert capsys.readouterr().err == f"error: {message}\n"
