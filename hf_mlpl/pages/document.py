"""Fills templates of HTML, and makes whole pages of them, which need no other file and no network."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"


def document(title: str, body: Markup, *, language: str = "en", scripts: Sequence[str] = ()) -> str:
    """
    Returns a whole HTML page with our styles and the script of the player.

    The page follows the light or dark setting of the reader's system, and fits a telephone. Its content security
    policy lets it load nothing from a network, and run no script but ours, whatever its texts contain.

    Args:
        title: of the page, plain text; also its first heading.
        body: content below the heading, from `render` or other functions of this package.
        language: language tag of the page's own words.
        scripts: JavaScript of further parts of the page. It runs when the page has been read.

    Raises:
        TypeError: for a body that is plain text, in which markup might be that of a stranger.
    """
    if not isinstance(body, Markup):
        raise TypeError(f"body is {type(body).__name__}; pass Markup, from `render`")
    scripts = [read_asset("player.js"), read_asset("page.js"), *scripts]
    return str(
        render(
            TEMPLATES / "page.html",
            title=title,
            body=body,
            language=language,
            styles=Markup(read_asset("page.css") + read_asset("player.css")),
            scripts=list(map(Markup, scripts)),
            hashes=list(map(_hash, scripts)),
        )
    )


def render(template: Path, **values) -> Markup:
    """
    Returns a template of HTML with its values.

    Every value is escaped, unless it is `Markup` already. A template can include or import those of this package. It
    must not write a value into a script or a style.

    Args:
        template: file, whose name ends with `.html`.

    Raises:
        jinja2.UndefinedError: for a value that the template needs and `values` lacks.
    """
    return Markup(_environment(template.parent).get_template(template.name).render(values))


def read_asset(name: str) -> str:
    """Returns the text of `player.js`, `player.css` or another file of this package's templates."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    environment.filters["clock"] = clock
    environment.filters["percent"] = percent
    environment.tests["language_tag"] = is_language_tag
    return environment


def clock(seconds: float) -> str:
    """Returns a time as a player shows it.

    ```python
    >>> clock(7.9), clock(3725)
    ('0:07', '1:02:05')

    ```
    """
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def percent(probability: float) -> str:
    """Returns a probability in per cent, and 100 only for what is 1; no line breaks within.

    ```python
    >>> [percent(probability).replace("\N{NO-BREAK SPACE}", " ") for probability in (0.123, 0.9999, 0.0001)]
    ['12 %', '99.9 %', '<0.1 %']

    ```
    """
    if 0 < probability < 0.001:
        number = "<0.1"
    elif 0.01 <= probability < 0.99 or probability in (0, 1):
        number = f"{100 * probability:.0f}"
    else:
        number = f"{min(100 * probability, 99.9):.1f}"
    return f"{number}\N{NO-BREAK SPACE}%"


def is_language_tag(text: str) -> bool:
    """Returns whether a browser understands the name of a language, such as `sl` or `zh-HK`, as its tag."""
    return re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", text) is not None


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
