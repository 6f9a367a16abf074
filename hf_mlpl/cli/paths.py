"""Refuses URLs of object storage as the values of options that take local files alone."""

import argparse
from pathlib import Path

# Options with a local path, or a name of another kind, as a text
LOCAL_TEXTS = {"am", "config", "datadir", "dataset", "lm", "model", "results", "stage", "tokens"}
WAY_OUT = "; give one, as docs/scale.md says what may be in object storage"


def local_path(text: str) -> Path:
    """Converts the value of an option to a Path. Raises ArgumentTypeError for a URL of object storage."""
    return Path(_local(text))


def local_text(text: str) -> str:
    """Returns the value of an option, as it is for addresses of the web and the Hub. Raises as `local_path` does."""
    return text if text.lower().startswith(("http://", "https://", "hf://")) else _local(text)


def _local(text: str) -> str:
    from ..storage import is_remote, parse_location, shown

    place = text.partition("=")[2] or text  # `hf-mlpl compare NAME=FILE`
    if is_remote(place):
        raise argparse.ArgumentTypeError(f"{shown(text)} is no local path{WAY_OUT}")
    try:
        location = parse_location(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return str(location) if text.lower().startswith("file:") else text  # which may be a setting with URLs


def keep_local(parser: argparse.ArgumentParser) -> None:
    """Lets each option of the type Path, and those of `LOCAL_TEXTS`, refuse URLs; other options take them."""
    for action in parser._actions:
        if action.type is Path:
            action.type = local_path
        elif action.dest in LOCAL_TEXTS and action.type is None:
            action.type = local_text
