"""Brings transformers' common test mixins, of exactly the installed version, from its source distribution.

`mixins("test_modeling_common")` imports a module of them. No wheel has these tests, and none of them is kept here. The
source distribution lacks some modules that the mixins import; of those, every name is an empty class.
"""

import importlib
import subprocess
import sys
import tarfile
import tempfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import transformers

PACKAGE = "transformers_tests"  # not `tests`, which are ours
FOLDER = Path(sys.prefix) / PACKAGE / transformers.__version__
MISSING = ("exporters.test_export", "generation.test_utils", "utils.test_configuration_utils")


def mixins(module: str) -> ModuleType:
    """Imports a module of transformers' tests, which it downloads first where that has not been done.

    Raises:
        RuntimeError: if the package registry does not give the source distribution.
    """
    if PACKAGE not in sys.modules:
        _download()
        package = ModuleType(PACKAGE)
        package.__path__ = [str(FOLDER)]
        sys.modules[PACKAGE] = package
        sys.modules["fetch_hub_objects_for_ci"] = files = ModuleType("fetch_hub_objects_for_ci")
        files.url_to_local_path = lambda url: url  # of pictures and videos, which our tests do not ask for
        for name in MISSING:
            for parent in (name.partition(".")[0], name):
                sys.modules[f"{PACKAGE}.{parent}"] = _empty_module(f"{PACKAGE}.{parent}")
    return importlib.import_module(f"{PACKAGE}.{module}")


def _download() -> None:
    if FOLDER.is_dir():
        return
    version = transformers.__version__
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
        done = subprocess.run([*command, "-d", scratch, f"transformers=={version}"], capture_output=True, text=True)
        archives = list(Path(scratch).glob("*.tar.gz"))
        if done.returncode or not archives:
            raise RuntimeError(f"pip did not download the source of transformers {version}: {done.stderr[-2000:]}")
        with tarfile.open(archives[0]) as archive:
            members = [member for member in archive if "tests" in Path(member.name).parts[1:2]]
            archive.extractall(scratch, members, filter="data")
        (next(Path(scratch).glob("*/tests")) / "__init__.py").touch()  # a mixin runs it
        FOLDER.parent.mkdir(parents=True, exist_ok=True)
        try:
            next(Path(scratch).glob("*/tests")).rename(FOLDER)
        except OSError:
            if not FOLDER.is_dir():  # else another process was quicker
                raise


def _empty_module(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__path__ = []
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__getattr__ = _empty_class
    return module


def _empty_class(name: str) -> type:
    if name.startswith("__"):  # of the module itself, such as __file__
        raise AttributeError(name)
    return type(name, (), {})
