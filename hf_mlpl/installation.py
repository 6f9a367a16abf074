"""Says how to install what is missing; the name hf-mlpl on PyPI is not this project's, so no text may send there."""

from __future__ import annotations

import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

NAME = "hf-mlpl"
CHECKOUT = Path(__file__).resolve().parents[1]  # where hf_mlpl is imported from a checkout


def is_installed(package: str) -> bool:
    """Returns whether a package can be imported; a folder of that name, as wandb makes one for its files, is none."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def install_command(extra: str) -> str:
    """Returns the command that installs the libraries of an extra beside this hf_mlpl, for "... comes with COMMAND".

    In a checkout it is `pip install -e '/path/of/checkout[peft]'`. Where hf_mlpl was installed from a git address, a
    folder or a wheel, the command names the libraries, as in `pip install 'peft>=0.19'`: that needs no access to where
    hf_mlpl came from.
    """
    installed = _distribution()
    # environments that uv makes have no pip
    pip = "uv pip" if installed and (installed.read_text("INSTALLER") or "").strip() == "uv" else "pip"
    if _pyproject():
        return f"{pip} install -e {shlex.quote(f'{CHECKOUT}[{extra}]')}"
    if libraries := _libraries(_requires(), extra):
        return f"{pip} install {shlex.join(dict.fromkeys(libraries))}"
    return f"the libraries that hf_mlpl's pyproject.toml lists for {extra!r}"  # the folder hf_mlpl was copied alone


def published_requirement(extra: str = "") -> str | None:
    """Returns what pip installs on any machine, such as `hf-mlpl[serve] @ git+https://example.org/hf_mlpl`.

    The address is `Repository` in `[project.urls]` of pyproject.toml, or else the https address of the git repository
    that hf_mlpl was installed from, with that commit (PEP 610). Without such an address it returns None.
    """
    installed = _distribution()
    if text := _pyproject():
        urls = re.findall(r'^(\w+) = "(https://.+)"', text.partition("[project.urls]")[2].partition("\n[")[0], re.M)
    else:
        urls = [text.split(", ", 1) for text in installed.metadata.get_all("Project-URL", [])] if installed else []
    address = f"git+{repository}" if (repository := dict(urls).get("Repository")) else _origin(installed)
    return f"{NAME}{f'[{extra}]' if extra else ''} @ {address}" if address else None


def required_libraries(extra: str) -> list[str]:
    """Returns what pip must install where the folder hf_mlpl is copied, for the package and an extra.

    Raises:
        ValueError: where neither a checkout nor an installation says it.
    """
    requires = _requires()
    if not requires:
        raise ValueError(
            f"{CHECKOUT}: has no pyproject.toml, and hf_mlpl is not installed; install it from a checkout"
        )
    always = [requirement for requirement in requires if "extra ==" not in requirement]
    return sorted(set(always + _libraries(requires, extra)))


def _requires() -> list[str]:
    """Returns all requirements, as a distribution states them: those of an extra end with `extra == "name"`."""
    if text := _pyproject():
        lists = {
            name: re.findall(r'^  "(.+?)"', content, re.M)
            for name, content in re.findall(r"^([\w-]+) = \[\n(.*?)^\]", text, re.M | re.S)
        }
        extras = re.findall(
            r"^(\w+) = \[", text.partition("[project.optional-dependencies]")[2].partition("\n[")[0], re.M
        )
        of_extras = [
            f"{library} {'and' if ';' in library else ';'} extra == '{extra}'"
            for extra in extras
            for library in lists[extra]
        ]
        return lists["dependencies"] + of_extras
    installed = _distribution()
    return (installed.requires or []) if installed else []


def _pyproject() -> str:
    """Returns the text of the checkout's pyproject.toml, or "" if hf_mlpl is not in a checkout."""
    path = CHECKOUT / "pyproject.toml"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return text if f'\nname = "{NAME}"\n' in text else ""


def _distribution():
    """Returns the installed distribution, or None for a package that is only on Python's path."""
    from importlib.metadata import PackageNotFoundError, distribution  # takes as long as the whole `import hf_mlpl`

    try:
        return distribution(NAME)
    except PackageNotFoundError:
        return None


def _libraries(requirements: list[str], extra: str) -> list[str]:
    """Returns those of an extra, and of other extras of ours that it includes, with their other conditions."""
    libraries = []
    for requirement in requirements:
        library, _, marker = requirement.partition(";")
        condition, _, name = marker.rpartition("extra == ")
        if name.strip("\"' ") != extra:
            continue
        if others := re.fullmatch(rf"{NAME}\[(.+)\]", library.strip()):
            libraries += [text for other in others[1].split(",") for text in _libraries(requirements, other)]
        else:
            condition = condition.strip().removesuffix("and").strip()
            libraries.append(f"{library.strip()}; {condition}" if condition else library.strip())
    return libraries


def _origin(installed) -> str | None:
    """Returns `git+https://…@commit` if the distribution came from there, without a user name or token in it."""
    record = json.loads(installed and installed.read_text("direct_url.json") or "{}")
    address, source = urlsplit(record.get("url", "")), record.get("vcs_info", {})
    if address.scheme != "https" or source.get("vcs") != "git":
        return None
    folder = f"#subdirectory={record['subdirectory']}" if "subdirectory" in record else ""
    return f"git+https://{address.netloc.rpartition('@')[2]}{address.path}@{source['commit_id']}{folder}"
