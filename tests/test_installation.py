"""A message names a command that installs an extra, and no text sends to the hf-mlpl of PyPI, which is not ours."""

import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from hf_mlpl import installation
from hf_mlpl.installation import install_command, published_requirement

from .test_structure import ROOT

MAKE_METADATA = (
    "import sys; from setuptools import build_meta; build_meta.prepare_metadata_for_build_wheel(sys.argv[1])"
)


@pytest.fixture(scope="module")
def site_packages(tmp_path_factory) -> Path:
    """Returns a folder with the metadata that setuptools makes of pyproject.toml."""
    pytest.importorskip("setuptools", minversion="77", reason="makes the package's metadata")
    folder = tmp_path_factory.mktemp("site-packages")
    done = subprocess.run([sys.executable, "-c", MAKE_METADATA, folder], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def metadata(site_packages, tmp_path, monkeypatch) -> Path:
    """Lets hf_mlpl be installed without a checkout, and returns the folder of its metadata."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(installation, "CHECKOUT", tmp_path)
    (source,) = site_packages.glob("*.dist-info")
    folder = tmp_path / source.name
    folder.mkdir()
    (folder / "METADATA").write_bytes((source / "METADATA").read_bytes())
    return folder


def required(extra: str, requirements: list[Requirement]) -> set[str]:
    """Returns the libraries that packaging, pip's library, takes of the requirements for an extra."""
    names = set()
    for requirement in requirements:
        if requirement.marker and requirement.marker.evaluate({"extra": extra}):
            ours = requirement.name == "hf-mlpl"
            names |= (
                set().union(*(required(e, requirements) for e in requirement.extras)) if ours else {requirement.name}
            )
    return names


def test_the_command_names_what_pip_would_install(metadata):
    text = (metadata / "METADATA").read_text()
    requirements = [Requirement(line) for line in re.findall("^Requires-Dist: (.*)", text, re.M)]
    extras = re.findall("^Provides-Extra: (.*)", text, re.M)
    assert {"app", "dev", "lm", "peft"} <= set(extras)
    for extra in extras:
        program, verb, *libraries = shlex.split(install_command(extra))
        assert (program, verb) == ("pip", "install")
        taken = {r.name for r in map(Requirement, libraries) if not r.marker or r.marker.evaluate()}
        assert taken == required(extra, requirements)
    assert install_command("peft") == "pip install 'peft>=0.19'"
    assert install_command("lm") == """pip install 'flashlight-text>=0.0.7; python_version < "3.13"'"""
    (metadata / "INSTALLER").write_text("uv\n")
    assert install_command("peft") == "uv pip install 'peft>=0.19'"


def test_a_checkout_is_installed_where_it_is(tmp_path, monkeypatch):
    assert install_command("peft") == f"pip install -e {shlex.quote(f'{ROOT}[peft]')}"
    checkout = tmp_path / "my code"
    checkout.mkdir()
    (checkout / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    monkeypatch.setattr(installation, "CHECKOUT", checkout)
    assert shlex.split(install_command("app"))[-2:] == ["-e", f"{checkout}[app]"]
    (checkout / "pyproject.toml").write_text('[project]\nname = "app-of-somebody"\n')  # hf_mlpl was copied into it
    monkeypatch.setattr(installation, "NAME", "hf-mlpl-without-metadata")
    assert install_command("app") == "the libraries that hf_mlpl's pyproject.toml lists for 'app'"
    assert published_requirement() is None


def test_a_folder_is_no_installed_package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "files_of_a_tracker").mkdir()
    assert importlib.import_module("files_of_a_tracker") and not installation.is_installed("files_of_a_tracker")
    assert installation.is_installed("torch") and not installation.is_installed("files_of_nobody")


def test_the_address_is_one_setting(metadata, tmp_path):
    assert published_requirement() is None
    text = (metadata / "METADATA").read_text()
    url = "https://example.org/hf_mlpl"
    (metadata / "METADATA").write_text(
        text.replace("Project-URL:", f"Project-URL: Repository, {url}\nProject-URL:", 1)
    )
    assert published_requirement("serve") == f"hf-mlpl[serve] @ git+{url}"
    assert Requirement(published_requirement("serve")).url == f"git+{url}"
    pyproject = (ROOT / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(pyproject)  # a checkout's own file is newer than its metadata
    assert published_requirement() is None
    (tmp_path / "pyproject.toml").write_text(pyproject.replace("\nPaper =", f'\nRepository = "{url}/2"\nPaper ='))
    assert published_requirement() == f"hf-mlpl @ git+{url}/2"


@pytest.mark.parametrize(
    ("url", "more", "address"),
    [
        ("https://u:secret@example.org/a/b.git", {}, "git+https://example.org/a/b.git@0a1b"),
        ("https://example.org/a", {"subdirectory": "c"}, "git+https://example.org/a@0a1b#subdirectory=c"),
        ("ssh://git@example.org/a", {}, None),  # nobody else may be able to read it
        ("file:///home/a", {}, None),
    ],
)
def test_the_address_is_where_hf_mlpl_came_from(url, more, address, metadata):
    record = {"url": url, "vcs_info": {"vcs": "git", "commit_id": "0a1b", "requested_revision": "main"}, **more}
    (metadata / "direct_url.json").write_text(json.dumps(record))
    assert published_requirement() == (address and f"hf-mlpl @ {address}")


def test_no_text_sends_to_a_strangers_package():
    listed = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout, so the project's own files cannot be told from what lies beside them")
    names = [name for name in listed.stdout.decode().split("\0") if name and name != "tests/test_installation.py"]
    sends = re.compile(rb"""(pip|uv|pipx)[\s"',]+(install|add|run)\b[^\n|;&`#]*?[ "'\\]hf[-_]mlpl(?!\w)(?!\S* @ )""")
    assert sends.search(b'"pip install -U \\"hf-mlpl[peft]\\"') and sends.search(b"%pip install --quiet hf-mlpl")
    for path in (ROOT / name for name in names):
        found = sends.search(path.read_bytes()) if path.is_file() else None
        assert found is None, f"{path.relative_to(ROOT)} contains {found.group().decode()!r}"
