"""Defines the options that name the columns and the form of tables, for all commands that read tables of anyone."""

import argparse
from collections.abc import Sequence

FOUND_OR_NAMED = "They are found by their usual names, or named:"
COLUMN_OPTIONS = {
    "ids": ["--id-column"],
    "recordings": ["--path-column", "--audio-column"],
    "texts": ["--text-column"],
    "languages": ["--language-column"],
    "speakers": ["--speaker-column"],
}


def add_column_arguments(group: argparse._ArgumentGroup, kinds: Sequence[str]) -> None:
    """Adds options that name columns; `given_columns` returns them by field."""
    for kind in kinds:
        names = COLUMN_OPTIONS[kind]
        group.add_argument(*names, dest=f"{names[-1][2:-7]}_column", metavar="NAME", help=f"column of the {kind}")


def given_columns(options: argparse.Namespace) -> dict[str, str]:
    """Returns the columns that options name, by field: `audio`, `text`, and so on."""
    fields = (names[-1][2:-7] for names in COLUMN_OPTIONS.values())
    columns = {field: getattr(options, f"{field}_column", None) for field in fields}
    return {field: column for field, column in columns.items() if column is not None}


def add_form_arguments(group: argparse._ArgumentGroup, tables: str, encoded: str) -> None:
    """Adds options for the delimiter of `tables` and the encoding of `encoded` files."""
    group.add_argument(
        "--delimiter", type=_delimiter, help=f"sign between the columns of {tables}, or tab; default: found"
    )
    group.add_argument(
        "--encoding",
        help=f"encoding of {encoded}, such as windows-1252; default: UTF-8, or UTF-16 with a byte order mark",
    )


def _delimiter(value: str) -> str:
    value = {"tab": "\t", "\\t": "\t"}.get(value, value)
    if len(value) != 1 or value == '"':
        raise argparse.ArgumentTypeError(f"{value!r} is not one sign, such as ',', ';', '|' or tab")
    return value
