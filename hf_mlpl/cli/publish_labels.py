"""Pushes finished pseudo-labels, of any number of languages, to a data set on the Hub; needs no model.

    hf-mlpl publish-labels labels/* --repo user/voxpopuli-pl

makes one commit for each language in folders of `hf-mlpl pseudo-label`: its labels, and a new card for all languages.
Other languages stay as they are, even if somebody pushes them at the same time, and unchanged files are not sent
again. A language whose labels have collapsed (nearly all are empty or the same text) is not pushed; the others are,
and the command then ends with an error. Log in with `hf auth login` first, or set HF_TOKEN. In Python,

    from datasets import load_dataset
    load_dataset("user/voxpopuli-pl", "sl", split="train")

loads the labels, and `hf-mlpl join-labels` turns them into training data.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .pseudo_label import add_push_arguments

if TYPE_CHECKING:
    from ..remote_path import AnyPath


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("labels", nargs="+", help="folders of `hf-mlpl pseudo-label`, also s3://BUCKET/FOLDER")
    parser.add_argument("--repo", required=True, help="data set on the Hub, such as user/voxpopuli-pl")
    add_push_arguments(parser)


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from ..labels.filters import DEFAULT_FILTERS, read_filters
    from ..labels.publishing import push_label_set

    filters = read_filters(options.filters) if options.filters else DEFAULT_FILTERS
    refused = []
    for folder in _folders_of_labels(options.labels):
        try:
            for line in push_label_set(
                folder, options.repo, filters, options.with_audio, options.private, options.allow_collapsed
            ):
                print(line, flush=True)
        except ValueError as error:  # which must not stop the others
            refused.append(str(error))
    if refused:
        raise ValueError("; ".join(refused))


def _folders_of_labels(names: list[str]) -> list[AnyPath]:
    """Returns the folders among paths; raises `ValueError` if there is none, or if two have the same language."""
    from ..labels.folder import read_complete
    from ..remote_path import as_path

    # language-finetune writes complete.json beside them
    folders = [path for path in map(as_path, names) if path.is_dir()]
    folder_of: dict[str, AnyPath] = {}
    for folder in folders:
        for language in read_complete(folder)["languages"]:
            if language in folder_of:
                raise ValueError(f"{language} is in {folder_of[language]} and in {folder}; name one of them")
            folder_of[language] = folder
    if not folder_of:
        raise ValueError(f"{', '.join(names)}: no folder of pseudo-labels")
    return folders
