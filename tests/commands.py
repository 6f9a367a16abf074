"""Checks shell commands of scripts, pages and docstrings against the commands that exist, without running them."""

import dataclasses
import importlib.util
import re
import shlex
from pathlib import Path

from hf_mlpl.cli.main import NAMES, command_parser, main
from hf_mlpl.training_config import TrainingConfig

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = {"python", "accelerate", "$launch", "hf-mlpl", "make", "pip"}  # $launch stands for accelerate in run.sh


def command_of(script: str) -> str:
    """Returns the command that a script of `recipes/` runs, such as filter-labels for filter_labels.py."""
    return script.removesuffix(".py").removesuffix("_model").replace("_", "-")


def run_command(script: str, *arguments) -> int:
    """Runs a script's command in this process, because starting one takes seconds; returns the exit status."""
    return main([command_of(script), *map(str, arguments)])


def read_commands(text: str) -> list[list[str]]:
    """Returns the words of each line of a shell script, joined where a backslash continues it, without comments.

    `exec` before a command is left out.
    """
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line.strip().removeprefix("exec "), comments=True))]


def check_command(words: list[str]) -> None:
    """Fails for a file of `recipes/`, an option, a setting, a target or an extra that does not exist."""
    program, *arguments = words
    command = shlex.join(words)
    if re.fullmatch(r"recipes/.*\.sh", program):
        assert (ROOT / program).is_file(), command
        script = (ROOT / program).read_text()
        assert all(word.partition("=")[0] in script for word in arguments if word.startswith("--")), command
        return
    assert program in PROGRAMS, f"no program of this project: {command}"
    paths = [word for word in arguments if word.startswith("recipes/") and "$" not in word]
    assert not [path for path in paths if not (ROOT / path).exists()], command
    if program == "make":
        assert set(arguments) <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)), command
    elif program == "pip":
        extras = re.findall(r"^(\w+) = \[$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        assert set(re.findall(r"\[(\w+)\]", command)) <= set(extras), command
    else:
        name, options = _command(words)
        accepted = set(command_parser(name)._option_string_actions) if name else {"--help", "--version"}
        assert {word.partition("=")[0] for word in options if word.startswith("--")} <= accepted, command
        if name == "train":
            settings = {field.name for field in dataclasses.fields(TrainingConfig)}
            assert {word.partition("=")[0].partition(".")[0] for word in options if "=" in word} <= settings, command


def parse_command(words: list[str]) -> None:
    """Parses the arguments of a command of this project; fails if they do not suffice, or are not accepted."""
    name, arguments = _command(words)
    if name:
        try:
            command_parser(name).parse_intermixed_args(arguments)
        except SystemExit as end:  # as --help does
            assert not end.code, shlex.join(words)


def _command(words: list[str]) -> tuple[str | None, list[str]]:
    """Returns the name of the `hf-mlpl` command in the words, or None if there is none, and its arguments."""
    if words[0] == "hf-mlpl" or "hf_mlpl" in words:
        name, *options = words[1:] if words[0] == "hf-mlpl" else words[words.index("hf_mlpl") + 1 :]
        if name.startswith("-"):
            return None, [name, *options]
    elif "-m" in words:
        module = words[words.index("-m") + 1]
        assert importlib.util.find_spec(module), f"no module {module}"
        return None, []
    else:
        index = next(i for i, word in enumerate(words) if word.endswith(".py"))
        if Path(words[index]).parent.name != "recipes":
            return None, []
        name, options = command_of(Path(words[index]).name), words[index + 1 :]
    assert name in NAMES, f"no command {name}"
    return name, options
