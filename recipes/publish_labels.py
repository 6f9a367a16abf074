"""Pushes pseudo-labels that are there, of as many languages as you like, to a data set on the Hub; needs no model.

    python recipes/publish_labels.py labels/* --repo user/voxpopuli-pl

makes a commit for each language in folders that recipes/pseudo_label.py has filled: its labels, and the card made anew
of all languages. Other languages, also those that somebody pushes at the same time, stay as they are, and what has not
changed is not sent again. A language whose labels are all empty is not pushed, and an error in the end. Log in with
`hf auth login` first, or set HF_TOKEN.

    from datasets import load_dataset
    load_dataset("user/voxpopuli-pl", "sl", split="train")

gives them back, and recipes/join_labels.py makes training data of them.
"""

import argparse
from pathlib import Path

from hf_mlpl.one_line_errors import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", nargs="+", type=Path, help="folders of recipes/pseudo_label.py")
    parser.add_argument("--repo", required=True, help="data set on the Hub, such as user/voxpopuli-pl")
    parser.add_argument("--private", action="store_true", help="if the data set has to be made")
    parser.add_argument("--with-audio", action="store_true", help="push the audio, too: some 60 MB an hour")
    parser.add_argument("--filters", type=Path, help="YAML file: what the column `kept` says")
    parser.add_argument("--allow-empty", action="store_true", help="push languages whose labels are all empty, too")
    arguments = parser.parse_args()
    # imported here: it takes seconds, and --help need not wait
    from hf_mlpl.label_filters import read_filters
    from hf_mlpl.label_sets import push_label_set, read_complete

    filters = read_filters(arguments.filters) if arguments.filters else []
    folders = [folder for folder in arguments.labels if folder.is_dir()]  # beside them lies a complete.json of all
    folder_of: dict[str, Path] = {}
    for folder in folders:
        for language in read_complete(folder)["languages"]:
            if language in folder_of:
                raise ValueError(f"{language} is in {folder_of[language]} and in {folder}; name one of them")
            folder_of[language] = folder
    if not folder_of:
        raise ValueError(f"{', '.join(map(str, arguments.labels))}: no folder of pseudo-labels")
    options = filters, arguments.with_audio, arguments.private, arguments.allow_empty
    refused = []
    for folder in folders:
        try:
            for line in push_label_set(folder, arguments.repo, *options):
                print(line, flush=True)
        except ValueError as error:  # the others are pushed all the same
            refused.append(str(error))
    if refused:
        raise ValueError("; ".join(refused))


if __name__ == "__main__":
    with one_line_errors():
        main()
