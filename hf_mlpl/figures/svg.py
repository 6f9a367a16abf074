"""Writes figures as SVG for HTML pages: they follow the page's colour of text, and their texts stay texts."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMESPACE = "http://www.w3.org/2000/svg"
BLACK = "#000000"  # matplotlib's colour of text and axes
NOT_XML = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # characters that no document can hold
REFERENCE = re.compile(r"url\(#([^)]*)\)|^#(.+)")


def to_svg(figure: Figure, title: str = "") -> str:
    """Returns an inline `<svg>` element, as wide as the figure or, if that is less, as its place on the page.

    What is black in the figure has the page's colour of text, in light and dark; there is no background. Equal
    figures with equal titles give equal text. Ids are different from those of other figures.

    Args:
        title: says to screen readers what the figure shows.
    """
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "hf_mlpl"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has fonts of all scripts
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    content = NOT_XML.sub("\N{REPLACEMENT CHARACTER}", file.getvalue())
    prefix = hashlib.sha256((title + content).encode()).hexdigest()[:12]
    root = ElementTree.fromstring(content)
    used = {name for element in root.iter() for value in element.attrib.values() for name in _references(value)}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{NAMESPACE}}}metadata", f"{{{NAMESPACE}}}style"):  # a style would rule the whole page
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{NAMESPACE}}}")
        element.attrib = {
            name.rpartition("}")[2]: f"{prefix}-{value}" if name == "id" else _on_page(value, prefix)
            for name, value in element.attrib.items()
            if name != "id" or value in used
        }
        if element.tag == "text":
            element.set("style", re.sub(r"(font:[^;]*px) [^;]*", r"\1 sans-serif", element.get("style", "")))
    width = root.get("width")
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("xmlns", NAMESPACE)
    root.set("style", f"width: {width}; max-width: 100%; fill: currentColor; stroke-linejoin: round")
    root.set("role", "img")
    if title:
        root.set("aria-label", title)
    return ElementTree.tostring(root, encoding="unicode")


def _references(value: str) -> list[str]:
    return [of_style or of_link for of_style, of_link in REFERENCE.findall(value)]


def _on_page(value: str, prefix: str) -> str:
    """Returns the value of an attribute with the page's colour of text, and with ids that begin with `prefix`."""
    value = value.replace(f"stroke: {BLACK}", "stroke: currentColor")
    return REFERENCE.sub(lambda match: match[0].replace("#", f"#{prefix}-"), value)
