"""Turns the references of pages and docstrings, [`MlplForCTC`] or [`~text.read_tokens`], into links.

Both are written as transformers writes them. MkDocs calls this module for pages, as a hook, and Griffe for docstrings,
as an extension, which also takes the backticks out of types.
"""

from __future__ import annotations

import importlib.util
import logging
import re

import griffe
import transformers

logger = logging.getLogger("mkdocs.hooks.cross_references")

REFERENCE = re.compile(r"\[`~?([\w.]+)`\](?![\[(])")
TYPE = re.compile(r"^( +[\w, ]+ \()(.*?)(?:, \*optional\*.*)?(\):)", re.MULTILINE)


def paths_of(package: griffe.Object) -> list[str]:
    """Dotted paths of all functions and classes of a package, and of its modules."""
    members = [member for member in package.members.values() if not member.is_alias and not member.is_attribute]
    return [package.path, *(path for member in members for path in paths_of(member))]


def link(text: str, paths: list[str], where: str) -> str:
    """Replaces references by links to the one path that ends with the name; names of other libraries become code."""

    def target(match: re.Match) -> str:
        name = match[1]
        found = [path for path in paths if path.endswith(f".{name}")]
        if len(found) == 1:
            return f"[`{name.rpartition('.')[2]}`][{found[0]}]"
        first = name.partition(".")[0]
        is_elsewhere = first in dir(transformers) or (first != name and importlib.util.find_spec(first))
        if found or not is_elsewhere:
            logger.warning("%s: [`%s`] refers to %s", where, name, " and ".join(found) or "nothing that there is")
        return f"`{name}`"

    return REFERENCE.sub(target, text)


class Docstrings(griffe.Extension):
    def on_package(self, *, pkg: griffe.Module, **kwargs) -> None:
        self._adapt(pkg, paths_of(pkg))

    def _adapt(self, item: griffe.Object, paths: list[str]) -> None:
        if item.docstring:
            text = link(item.docstring.value, paths, item.path)
            item.docstring.value = TYPE.sub(lambda match: match[1] + match[2].replace("`", "") + match[3], text)
        for member in item.members.values():
            if not member.is_alias:
                self._adapt(member, paths)


def on_config(config):
    """MkDocs: before anything else."""
    config.extra["paths"] = paths_of(griffe.load("hf_mlpl", search_paths=["."]))


def on_page_markdown(markdown: str, page, config, **kwargs) -> str:
    """MkDocs: for the text of each page."""
    return link(markdown, config.extra["paths"], page.file.src_path)
