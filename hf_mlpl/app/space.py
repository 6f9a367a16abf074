"""Makes the Space of a model on the Hub: a machine there that shows the app to everybody."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from ..installation import published_requirement, required_libraries

PACKAGE = Path(__file__).parents[1]
TEMPLATE = Path(__file__).parent / "templates" / "space_app.py"
LONGEST_TITLE = 60  # characters; the Hub does not say, and cuts what does not fit


def write_space(folder: Path, repo_id: str, license: str | None) -> None:
    """Writes the files of a Space, which is complete without any other: app.py, requirements.txt and README.md.

    If pip can install hf_mlpl from an address, requirements.txt has it. Otherwise the Space carries the package's own
    files, and requirements.txt has the libraries that they need.

    Args:
        folder: an empty folder.
        repo_id: of the model, which the Space loads when it starts.
        license: of the model, which is that of the card as well.

    Raises:
        ValueError: where nothing says which libraries are needed.
    """
    requirement = published_requirement("app")
    requirements = [requirement] if requirement else required_libraries("app")
    if not requirement:
        shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
    program = TEMPLATE.read_text(encoding="utf-8").replace('"MODEL"', repr(repo_id).replace("'", '"'))
    (folder / "app.py").write_text(program, encoding="utf-8")
    name = repo_id.rpartition("/")[2]
    metadata = {
        "title": name[:LONGEST_TITLE],
        "emoji": "🎙️",
        "colorFrom": "blue",
        "colorTo": "indigo",
        "sdk": "gradio",
        **_sdk_version(),
        "app_file": "app.py",
        "models": [repo_id],
        "license": license,
        "short_description": "Transcripts that play, word by word",
    }
    header = yaml.safe_dump(metadata, allow_unicode=True, sort_keys=False)
    text = (
        f"# {name}\n\nThis page shows the speech recognition model [{repo_id}](https://huggingface.co/{repo_id}): "
        "record or drop a recording,\nread its transcript, and click a word to hear it. It is written by "
        "`hf-mlpl publish --space`.\n"
    )
    (folder / "README.md").write_text(f"---\n{header}---\n\n{text}", encoding="utf-8")


def _sdk_version() -> dict[str, str]:
    """Returns the release of gradio that this machine has, with which the page was tried."""
    try:
        return {"sdk_version": version("gradio")}
    except PackageNotFoundError:
        return {}


def launch_space(model: str) -> None:
    """Shows a model until the process ends, where the variables GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say."""
    from .model import AppModel
    from .page import appearance, build_app

    build_app(AppModel.load(model)).launch(**appearance(), ssr_mode=False)
