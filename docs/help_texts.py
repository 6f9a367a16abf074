"""Adds to the page of commands what `hf-mlpl COMMAND --help` says, so that page and program have the same words."""

from __future__ import annotations

import os

from hf_mlpl.cli.main import COMMANDS, command_parser


def on_page_markdown(markdown: str, page, **kwargs) -> str:
    """MkDocs: for the text of each page."""
    if page.file.src_path != "commands.md":
        return markdown
    os.environ["COLUMNS"] = "92"  # of argparse: what fits into the page
    for group, commands in COMMANDS.items():
        markdown += f"\n## {group[0].upper()}{group[1:]}\n"
        for name in commands:
            parser = command_parser(name)
            markdown += f"\n### {name}\n\n{parser.description}\n"
            parser.description = None
            markdown += f"\n```text\n{parser.format_help()}```\n"
    return markdown
