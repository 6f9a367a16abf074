"""Tests how the demo shows its progress: steps of a script that fails, is interrupted, and goes on."""

import os
import pty
import re
import signal
import subprocess
import time
from collections import defaultdict

import pytest

from .test_recipes import RECIPES, ROOT

DEMO = RECIPES / "demo" / "run.sh"
STEPS = f"""
set -euo pipefail
cd "$1"
source {RECIPES / "demo" / "steps.bash"} steps.sh logs
step 20 first "One is done"
echo chatter; echo "more chatter" >&2
say "a result"
step 60 second "Two is done"
printf 'hour 1\\rhour 2'
until [ -e mended ]; do
    if [ -t 3 ]; then sleep 0.1; else echo "Traceback"; echo "error: no.parquet: no such file"; false; fi
done
step 200 third "Three is done"
echo chatter
finish_step
echo "the end"
"""


@pytest.fixture
def run_steps(tmp_path):
    """Runs the script without a terminal; returns exit status, and the lines of standard output and error."""
    (tmp_path / "steps.sh").write_text(STEPS)

    def run() -> tuple[int, list[str], list[str]]:
        done = subprocess.run(["bash", tmp_path / "steps.sh", tmp_path], capture_output=True, text=True)
        return done.returncode, re.sub(r"\d+ s\b", "N s", done.stdout).splitlines(), done.stderr.splitlines()

    return run


def test_a_demo_that_fails_goes_on_where_it_stopped(run_steps, tmp_path):
    status, shown, errors = run_steps()
    assert (status, errors) == (1, ["error: no.parquet: no such file"])
    assert shown == [
        "[1 of 3, about 5 minutes left] One is done",
        "a result",
        "    took N s",
        "[2 of 3, about 4 minutes left] Two is done",
        "    stopped after N s; start it again, and it goes on here; logs/second.log has all output",
    ]
    assert (tmp_path / "logs" / "first.log").read_text() == "chatter\nmore chatter\n"
    assert (tmp_path / "logs" / "second.log").read_text().endswith("Traceback\nerror: no.parquet: no such file\n")

    # a machine of a third of the speed: 3 x 200 s are left after the second step
    (tmp_path / "logs" / "seconds").write_text("first 40 stopped\nfirst 20 done\n")
    (tmp_path / "mended").touch()
    status, shown, errors = run_steps()
    assert (status, errors) == (0, [])
    assert [line for line in shown if not line.startswith("    took ")] == [
        "[1 of 3, done before, about 13 minutes left] One is done",
        "a result",
        "[2 of 3, about 13 minutes left] Two is done",
        "[3 of 3, about 10 minutes left] Three is done",  # the second was so quick that it tells nothing of the speed
        "the end",
    ]
    assert (tmp_path / "logs" / "seconds").read_text().count("first") == 2  # its second run tells nothing
    assert run_steps()[1][-3] == "[3 of 3, done before] Three is done"


def test_a_terminal_shows_the_last_line_of_the_log(run_steps, tmp_path):
    process, terminal = pty.fork()
    if process == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where the tests run in the background of a shell
        os.execvp("bash", ["bash", str(tmp_path / "steps.sh"), str(tmp_path)])
    shown = b""
    while b"hour 2" not in shown:  # of the second step, which is at work until ^C
        shown += os.read(terminal, 1000)
    assert b"chatter" not in shown.replace(b"\r\033[K    more chatter", b"") and b"hour 1" not in shown
    os.write(terminal, b"\x03")
    while b"stopped after" not in shown:
        shown += os.read(terminal, 1000)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) in (130, -2)
    os.close(terminal)
    assert (tmp_path / "logs" / "seconds").read_text().splitlines()[1].startswith("second ")
    (tmp_path / "mended").touch()
    assert run_steps()[1][-1] == "the end"


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_commands_in_the_background_save_their_work(tmp_path, name):
    """In a script bash lets them ignore ^C, which the script itself obeys."""
    (tmp_path / "job.py").write_text("""
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.2), pathlib.Path("saved").touch(), sys.exit(75)))
time.sleep(0.5)  # until bash waits
pathlib.Path("begun").touch()
time.sleep(600)
""")
    (tmp_path / "steps.sh").write_text(f"""
set -euo pipefail
cd "$1"
source {RECIPES / "demo" / "steps.bash"} steps.sh logs
step 20 first "One is done"
python job.py &
wait_for $!
touch survived
""")
    process, terminal = pty.fork()
    if process == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execvp("bash", ["bash", str(tmp_path / "steps.sh"), str(tmp_path)])
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    os.write(terminal, b"\x03") if name == signal.SIGINT else os.kill(process, name)
    shown = b""
    while b"stopped after" not in shown:
        shown += os.read(terminal, 1000)
    assert (tmp_path / "saved").exists() and not (tmp_path / "survived").exists()
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) in (128 + name, -name)
    os.close(terminal)


def test_the_demo_is_planned():
    """A page to hear comes within five minutes, all pages name one time for the whole, and few lines end it."""
    script = DEMO.read_text()
    steps = re.findall(r'^step (\d+) (\w+) (?:\\\n    )?"([^"]+)"$', script, re.MULTILINE)
    assert len(steps) == len(re.findall(r"^step ", script, re.MULTILINE)) == len({name for _, name, _ in steps}) > 5
    names = [name for _, name, _ in steps]
    seconds = [int(seconds) for seconds, *_ in steps]
    assert sum(seconds[: names.index("first_page") + 1]) <= 300
    figures = defaultdict(list)
    files = [path for folder in ("docs", "hf_mlpl", "recipes") for path in (ROOT / folder).rglob("*.*")]
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile", *files]:
        if path.suffix in ("", ".md", ".py", ".sh"):
            text = re.sub(r"\s[#\s]*", " ", path.read_text())
            figures[path.name] += re.findall(r"about (\d+) minutes on two CPU cores", text)
    assert all(figures[name] for name in ("README.md", "CONTRIBUTING.md", "Makefile", "index.md", "run.sh"))
    assert {minutes for said in figures.values() for minutes in said} == {f"{sum(seconds) / 60:.0f}"}
    [end] = re.findall(r"^cat <<EOF\n(.*?)^EOF$", script, re.MULTILINE | re.DOTALL)
    assert script.endswith(f"{end}EOF\n") and end.count("\n") <= 15
