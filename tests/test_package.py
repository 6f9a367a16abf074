"""The package shows its public names and types, declares its libraries, and removes its import hook."""

import ast
import importlib
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import hf_mlpl
from hf_mlpl.registration import ImportHook

from .test_structure import FILES, ROOT, theirs

# Whose name is not that of the import.
DISTRIBUTIONS = {"flashlight": "flashlight-text", "PIL": "pillow", "webvtt": "webvtt-py", "yaml": "pyyaml"}


@pytest.fixture
def project() -> dict:
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")  # pytest brings tomli
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_public_names_are_shown_and_load():
    assert set(hf_mlpl.__all__) <= set(dir(hf_mlpl))
    namespace = {}
    exec("from hf_mlpl import *", namespace)
    assert {name: namespace[name].__name__ for name in hf_mlpl.__all__} == {name: name for name in hf_mlpl.__all__}
    with pytest.raises(AttributeError, match="module 'hf_mlpl' has no attribute 'MlplForCtc'"):
        hf_mlpl.MlplForCtc  # noqa: B018


def test_type_checkers_see_what_is_loaded():
    statements = next(node for node in ast.parse(Path(hf_mlpl.__file__).read_text()).body if isinstance(node, ast.If))
    seen = {alias.asname: f"hf_mlpl.{node.module}" for node in statements.body for alias in node.names}
    assert sorted(seen) == hf_mlpl.__all__
    for name, module in seen.items():
        assert getattr(import_module(module), name) is getattr(hf_mlpl, name)


def test_files_that_are_no_modules_are_in_the_wheel(project):
    patterns, package = project["tool"]["setuptools"]["package-data"]["hf_mlpl"], ROOT / "hf_mlpl"
    files = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert package / "py.typed" in files
    assert files - {path for pattern in patterns for path in package.glob(pattern)} == set()


def test_every_imported_library_is_declared(project):
    extras = project["project"]["optional-dependencies"]
    user_extras = [extra for name, extra in extras.items() if name not in ("dev", "docs")]
    requirements = [project["project"]["dependencies"], *user_extras]
    declared = {re.match(r"[\w-]+", text)[0] for part in requirements for text in part}
    imported = {name for module in FILES for name in theirs(module) if name != "recipes"}
    undeclared = {name for name in imported if DISTRIBUTIONS.get(name, name.replace("_", "-")) not in declared}
    assert {"torch", "pyarrow", "num2words"} <= imported and not undeclared


def test_libraries_have_a_lower_bound_and_no_upper_one(project):
    extras = project["project"]["optional-dependencies"]
    requirements = sum((extra for name, extra in extras.items() if name not in ("dev", "docs")), start=[])
    requirements += project["project"]["dependencies"]
    requirements = [text for text in requirements if not text.startswith("hf-mlpl[")]  # other extras of ours
    assert not [text for text in requirements if not re.fullmatch(r"[\w-]+>=[\d.]+(; python_version .*)?", text)]


def test_the_workflow_makes_targets_on_every_python(project):
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]["make"]
    matrix = job["strategy"]["matrix"]
    prefix = "Programming Language :: Python :: 3."
    named = [text.rpartition(" ")[2] for text in project["project"]["classifiers"] if text.startswith(prefix)]
    assert matrix["python"] == named and project["project"]["requires-python"] == f">={named[0]}"
    assert {"python": named[0], "targets": "test-oldest"} in matrix["include"]
    runs = [step["run"] for step in job["steps"] if "run" in step]
    assert runs == ["make ${{ matrix.targets }} PYTHON=python"]
    made = {target for row in matrix["include"] for target in row["targets"].split()}.union(matrix["targets"])
    targets = set(re.findall("^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    commands = re.findall("^(?:nice )?make (.*)", (ROOT / ".ci" / "run").read_text(), re.M)
    assert made == targets.intersection(" ".join(commands).split())


def test_the_import_hook_acts_after_the_import_and_leaves(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("imported_before", "imported_later"):
        (tmp_path / f"{name}.py").write_text("value = 1\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
    import imported_before  # noqa: F401

    done = []
    actions = {n: lambda n=n: done.append(sys.modules[n].value) for n in ("imported_before", "imported_later")}
    hook = ImportHook(actions)
    hook.install()
    assert done == [1] and hook in sys.meta_path
    import imported_later  # noqa: F401

    assert done == [1, 1] and hook not in sys.meta_path


def test_the_import_hook_tries_again_after_a_failed_action(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "fails_once.py").write_text("")
    outcomes = iter([ValueError, None])

    def act():
        if error := next(outcomes):
            raise error

    hook = ImportHook({"fails_once": act})
    hook.install()
    with pytest.raises(ValueError):
        __import__("fails_once")
    __import__("fails_once")
    assert hook not in sys.meta_path
