"""`hf-mlpl publish-labels`: pseudo-labels to a data set on the Hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from .pseudo_label import add_push_arguments

HELP = "push pseudo-labels to a data set on the Hub"
DESCRIPTION = """Pushes finished pseudo-labels, of any number of languages, to a data set on the Hub; needs no model.

    hf-mlpl publish-labels labels/* --repo user/voxpopuli-pl

makes a commit for each language in folders that `hf-mlpl pseudo-label` has filled: its labels, and the card made anew
of all languages. Other languages, also those that somebody pushes at the same time, stay as they are, and what has not
changed is not sent again. A language whose labels are all empty is not pushed, and an error in the end. Log in with
`hf auth login` first, or set HF_TOKEN.

    from datasets import load_dataset
    load_dataset("user/voxpopuli-pl", "sl", split="train")

gives them back, and `hf-mlpl join-labels` makes training data of them.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("labels", nargs="+", type=Path, help="folders of hf-mlpl pseudo-label")
    parser.add_argument("--repo", required=True, help="data set on the Hub, such as user/voxpopuli-pl")
    add_push_arguments(parser)


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Returns 0; raises `OSError` and `ValueError` for labels that cannot be read or pushed, once others are."""
    from ..labels.filters import read_filters  # what is imported here takes seconds, and --help need not wait
    from ..labels.publishing import push_label_set

    filters = read_filters(options.filters) if options.filters else []
    refused = []
    for folder in _folders_of_labels(options.labels):
        try:
            for line in push_label_set(
                folder, options.repo, filters, options.with_audio, options.private, options.allow_empty
            ):
                print(line, flush=True)
        except ValueError as error:  # the others are pushed all the same
            refused.append(str(error))
    if refused:
        raise ValueError("; ".join(refused))
    return 0


def _folders_of_labels(paths: list[Path]) -> list[Path]:
    """Returns the folders among paths; raises `ValueError` where there is none, or two have one language."""
    from ..labels.folder import read_complete

    folders = [path for path in paths if path.is_dir()]  # beside them lies a complete.json of all
    folder_of: dict[str, Path] = {}
    for folder in folders:
        for language in read_complete(folder)["languages"]:
            if language in folder_of:
                raise ValueError(f"{language} is in {folder_of[language]} and in {folder}; name one of them")
            folder_of[language] = folder
    if not folder_of:
        raise ValueError(f"{', '.join(map(str, paths))}: no folder of pseudo-labels")
    return folders
