"""Serves as a Python interpreter that has already imported the libraries, and forks instead of starting anew.

Importing torch, transformers and datasets takes most of the time of most scripts. `serve` imports them once, for all
processes of a test run. Its program `python` accepts a script, `-m MODULE` or `-c PROGRAM` like the interpreter, and
sends it to the server with its arguments, folder, environment and open files. `python` passes signals on to the
script, and exits with the script's exit status. On its way, the server forks another one, whose program `plain` is
the same but has imported transformers alone: tests of what works without this package start that.
"""

import atexit
import contextlib
import fcntl
import functools
import gc
import importlib.util
import json
import multiprocessing
import os
import pickle
import runpy
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

PLAIN = "torch transformers.pipelines transformers.dynamic_module_utils huggingface_hub.hf_api"
PRELOADED = (
    "hf_mlpl.training.loop hf_mlpl.labels.labelling hf_mlpl.evaluation.scoring hf_mlpl.inference.pipeline_mlpl "
    "hf_mlpl.report.run matplotlib.pyplot pytest"
)


GIVEN = os.environ.get("QUICK_PYTHON")  # in a process to which another one hands tests out
CALL = "import pickle, sys; function, arguments = pickle.loads(bytes.fromhex(sys.argv[1])); function(*arguments)"


@functools.cache
def quick_python() -> Path:
    """Returns the program; starts the server at the first call, which ends with this process and kills its own."""
    if GIVEN:
        multiprocessing.set_executable(GIVEN)
        return Path(GIVEN)
    folder = tempfile.mkdtemp()  # not tmp_path: the address of a socket must be short
    atexit.register(shutil.rmtree, folder)
    path, listeners = Path(folder, "python"), []
    for program in (path.with_name("plain"), path):
        address = str(program.with_suffix(".socket"))
        client = ["exec", sys.executable, "-IS", __file__, "ask", address]
        program.write_text(f'#!/bin/sh\n{shlex.join(client)} "$@"\n')
        program.chmod(0o755)
        listeners.append(socket.socket(socket.AF_UNIX))  # here, so that requests wait for the imports
        listeners[-1].bind(address)
        listeners[-1].listen()
    numbers = [listener.fileno() for listener in listeners]
    server = [sys.executable, __file__, "serve", path, *map(str, numbers)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(server, env=environment, stdin=-1, pass_fds=numbers, start_new_session=True)
    for listener in listeners:
        listener.close()
    atexit.register(process.communicate)  # closes its standard input, and waits
    os.environ["QUICK_PYTHON"] = str(path)
    multiprocessing.set_executable(str(path))  # of the processes that this one spawns
    return path


def plain_python() -> Path:
    """Returns the program that has imported transformers alone, for tests of what works without this package."""
    return quick_python().with_name("plain")


def start(function: Callable[..., None], *arguments) -> subprocess.Popen:
    """Calls a function of a module of the tests in a process of its own."""
    call = pickle.dumps((function, arguments)).hex()
    return subprocess.Popen([quick_python(), "-c", CALL, call], cwd=Path(__file__).parents[1])


def ask(address: str, *arguments: str) -> None:
    """Asks the server to run Python with the arguments, and exits with its exit status."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        given = [int(name) for name in os.listdir("/proc/self/fd")]
        given = [number for number in given if number != server.fileno() and _is_open(number)]
        request = json.dumps([given, arguments, os.getcwd(), dict(os.environ)]).encode()
        socket.send_fds(server, [len(request).to_bytes(8, "big")], given)
        server.sendall(request)
        answers = server.makefile()
        process = int(answers.readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os.kill(process, number))
        status = int(answers.readline())
    leave(status)


def _is_open(number: int) -> bool:
    """Returns whether a descriptor is more than the one by which the descriptors were listed."""
    with contextlib.suppress(OSError):
        return bool(os.fstat(number))
    return False


def serve(python: str, plain_number: str, number: str) -> None:
    """Forks a process for each request, in which it returns; exits in the servers when standard input is closed."""
    gc.disable()  # what modules make stays
    for module in PLAIN.split():
        __import__(module)
    if not os.fork():
        os.close(int(number))
        return _serve(str(Path(python).with_name("plain")), plain_number)
    os.close(int(plain_number))
    for module in PRELOADED.split():
        __import__(module)
    _serve(python, number)


def _serve(python: str, number: str) -> None:
    """Does what `serve` does with requests to one program."""
    gc.freeze()
    gc.enable()
    with socket.socket(fileno=int(number)) as listener:
        running: dict[int, socket.socket] = {}
        while True:
            readable, _, _ = select.select([0, listener, *running.values()], [], [], 0.01 if running else None)
            if listener in readable:
                client, _ = listener.accept()
                size, files, _, _ = socket.recv_fds(client, 8, 100)
                request = client.makefile("rb").read(int.from_bytes(size, "big"))
                if not (process := os.fork()):
                    break
                for file in files:
                    os.close(file)
                os.setpgid(process, process)
                with contextlib.suppress(OSError):
                    client.sendall(f"{process}\n".encode())
                running[process] = client
            for process, client in list(running.items()):
                if client in readable or 0 in readable:  # the client was killed
                    os.killpg(process, signal.SIGKILL)
                ended, status = os.waitpid(process, 0 if client in readable else os.WNOHANG)
                if ended:
                    with running.pop(process), contextlib.suppress(OSError):
                        client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
            if 0 in readable:
                sys.exit()
    for other in (client, *running.values()):
        other.close()
    _become(python, files, *json.loads(request))


def _become(
    python: str, files: list[int], numbers: list[int], arguments: list[str], folder: str, environment: dict[str, str]
) -> None:
    """Gives this process the open files and their numbers, the folder, environment and arguments of the client."""
    os.setpgid(0, 0)  # the server does the same, whichever is first
    high = [fcntl.fcntl(file, fcntl.F_DUPFD, 1 + max([*files, *numbers])) for file in files]  # none is overwritten
    for file in files:
        os.close(file)
    for number, file in zip(numbers, high, strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for name in ("huggingface_hub.constants", "datasets.config", "transformers.utils.hub"):  # the last reads the first
        if module := sys.modules.get(name):
            vars(module).update(settings_of_now(module))
    folder_of_code = sys.modules["transformers.utils.hub"].HF_MODULES_CACHE
    sys.modules["transformers.dynamic_module_utils"].HF_MODULES_CACHE = folder_of_code
    sys.modules["huggingface_hub.hf_api"].api.endpoint = sys.modules["huggingface_hub.constants"].ENDPOINT
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run behind a shell
    sys.executable = python  # so that processes it starts are as quick
    multiprocessing.set_executable(python)
    sys.argv = arguments


def settings_of_now(module: ModuleType) -> dict:
    """Returns the settings that a module, which reads the environment at its import, would read differently now."""
    spec = importlib.util.find_spec(module.__name__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    return {name: value for name, value in vars(fresh).items() if name.isupper() and value != getattr(module, name)}


def run() -> None:
    """Runs the script, module or program in `sys.argv`, as the interpreter would."""
    while sys.argv[0] in ("-u", "-B"):  # options that torchrun and multiprocessing pass
        del sys.argv[0]
    kind = sys.argv[0]
    if kind in ("-c", "-m"):
        sys.argv[:2] = sys.argv[1:2]
        sys.path[0] = ""
    if kind == "-c":
        exec(sys.argv[0], {"__name__": "__main__"})
    elif kind == "-m":
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(kind).parent)
        runpy.run_path(kind, run_name="__main__")


def end(run: Callable[[], None]) -> None:
    """Runs `run` and ends the process as the interpreter does, but without clearing modules, which takes seconds."""
    status = 0
    try:
        run()
    except SystemExit as exit:
        status = exit.code or 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = -signal.SIGINT if sys.exc_info()[0] is KeyboardInterrupt else 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    leave(status)


def leave(status: int) -> None:
    """Ends the process at once with an exit status, or with signal N for a status of -N."""
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    role, *given = sys.argv[1:]
    if role == "ask":
        ask(*given)
    serve(*given)
    end(run)
