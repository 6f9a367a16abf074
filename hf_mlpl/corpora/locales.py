"""Converts the names that corpora have for languages to Common Voice's locale codes."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .reading import ReadingReport

# Locales of Common Voice with a region, for which others write the language alone.
WITH_REGION = {code.split("-")[0]: code for code in "fy-NL ga-IE hy-AM ne-NP nn-NO pa-IN sv-SE".split()}
# Locales of Common Voice without a region, to which others add one.
WITHOUT_REGION = frozenset(
    "ab af am ar as az be bg bn br ca cs cv cy da de dv el en eo es et eu fa fi fr gl ha he hi hr hsb hu ia id ig is"
    " it ja ka kab kk ko ky lg lo lt lv mk ml mn mr mt nl or pl ps pt ro ru rw sah sk sl sq sr sw ta te th tk tr tt ug"
    " uk ur uz vi vot yo".split()
)
WITH_BOTH = frozenset(["el-CY"])  # a locale of Common Voice beside `el`
CODE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*")
# Codes of languages that have other codes, too: former ones, and Norwegian for both of its written languages.
SAME_LANGUAGES = ({"he", "iw"}, {"id", "in"}, {"jv", "jw"}, {"yi", "ji"}, {"no", "nb"}, {"no", "nn"})
REGION = re.compile(r"[A-Z]{2}|[0-9]{3}")


def to_locale(code: str) -> str:
    """Returns Common Voice's code of a language: `sv`, `sv_se` and `sv-SE` are `sv-SE`, and `de-DE` is `de`.

    Other names, such as `Slovene`, stay as they are, without white space around them.

    >>> to_locale("zh_cn"), to_locale("rm-sursilv"), to_locale("sv"), to_locale("de_de")
    ('zh-CN', 'rm-sursilv', 'sv-SE', 'de')
    """
    code = code.strip()
    if not CODE.fullmatch(code):
        return code
    language, *rest = code.replace("_", "-").split("-")
    language = language.lower()
    if language == "nan":  # `nan-tw`, the one region in small letters
        rest = [part.lower() for part in rest]
    else:
        rest = [part.upper() if len(part) == 2 else part.lower() for part in rest]
    locale = "-".join([language, *rest])
    if language in WITHOUT_REGION and len(rest) == 1 and REGION.fullmatch(rest[0]) and locale not in WITH_BOTH:
        return language
    return locale if rest else WITH_REGION.get(language, language)


def noted_locale(name: str | None, report: ReadingReport) -> str:
    """Returns `to_locale` of a language's name in a table or folder, and notes it if that is another name."""
    locale = to_locale(name or "")
    if locale != (name or "").strip():
        report.note(f"the language {name!r} is called {locale}, as in Common Voice")
    return locale


def iso_code(locale: str) -> str:
    """Returns the ISO 639 code of a locale's language, for the field `language` of cards on the Hub.

    >>> iso_code("sv-SE"), iso_code("rm-vallader"), iso_code("hsb")
    ('sv', 'rm', 'hsb')
    """
    return locale.split("-")[0]


@lru_cache
def is_other_language(name: str, locale: str) -> bool:
    """Returns whether a name is the code of another language than a locale's.

    Names in words and codes of three letters say nothing, because a language has many of them.

    >>> is_other_language("de", "sl"), is_other_language("sv_SE", "sv-SE"), is_other_language("Slovene", "de")
    (True, False, False)
    """
    codes = {iso_code(to_locale(name)), iso_code(locale)}
    return len(codes) == 2 and all(len(code) == 2 for code in codes) and codes not in SAME_LANGUAGES
