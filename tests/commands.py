"""Shell commands of scripts, pages and docstrings, compared with what there is, without running them."""

import dataclasses
import importlib.util
import re
import shlex
from pathlib import Path

from hf_mlpl.training_config import TrainingConfig

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = {"python", "accelerate", "$launch", "hf-mlpl", "make", "pip"}  # $launch stands for accelerate in run.sh


def read_commands(text: str) -> list[list[str]]:
    """The words of each line of a shell script, with what a backslash continues; comments are left out."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def check_command(words: list[str]) -> None:
    """Fails for a file of `recipes/`, an option, a setting, a target or an extra that is not there."""
    program, *arguments = words
    command = shlex.join(words)
    assert program in PROGRAMS, f"no program of this project: {command}"
    named = [word for word in arguments if word.startswith("recipes/") and "$" not in word]
    assert not [word for word in named if not (ROOT / word).exists()], command
    if program == "make":
        assert set(arguments) <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)), command
    elif program == "pip":
        extras = re.findall(r"^(\w+) = \[$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        assert set(re.findall(r"\[(\w+)\]", command)) <= set(extras), command
    else:
        script, options = _script(words)
        source = script.read_text()
        there = {*re.findall(r'"(--[\w-]+)"', source), "--help"}
        assert {word.partition("=")[0] for word in options if word.startswith("--")} <= there, command
        if script.name == "train.py":
            settings = {field.name for field in dataclasses.fields(TrainingConfig)}
            assert {word.partition("=")[0].partition(".")[0] for word in options if "=" in word} <= settings, command


def _script(words: list[str]) -> tuple[Path, list[str]]:
    """The file that reads a command's options, and these."""
    if words[0] == "hf-mlpl":
        subcommand = ROOT / "hf_mlpl" / "commands" / f"{words[1].replace('-', '_')}.py"
        return (subcommand, words[2:]) if subcommand.exists() else (ROOT / "hf_mlpl" / "cli.py", words[1:])
    if "-m" in words:
        module = words.index("-m") + 1
        return Path(importlib.util.find_spec(words[module]).origin), words[module + 1 :]
    script = next(i for i, word in enumerate(words) if word.endswith(".py"))
    subcommand = ROOT / "hf_mlpl" / "commands" / Path(words[script]).name
    return subcommand if subcommand.exists() else ROOT / words[script], words[script + 1 :]
