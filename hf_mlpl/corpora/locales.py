"""The names of languages: whatever a corpus or its mirror calls them, here they have Common Voice's codes."""

from __future__ import annotations

# Locales of Common Voice that others call by the language alone.
WITH_REGION = {code.split("-")[0]: code for code in "fy-NL ga-IE hy-AM ne-NP nn-NO pa-IN sv-SE".split()}


def to_locale(code: str) -> str:
    """Common Voice's code of a language: `sv`, `sv_se` and `sv-SE` are `sv-SE`.

    >>> to_locale("zh_cn"), to_locale("rm-sursilv"), to_locale("sv")
    ('zh-CN', 'rm-sursilv', 'sv-SE')
    """
    language, *rest = code.strip().replace("_", "-").split("-")
    language = language.lower()
    if language == "nan":  # `nan-tw`, the one region in small letters
        rest = [part.lower() for part in rest]
    else:
        rest = [part.upper() if len(part) == 2 else part.lower() for part in rest]
    return "-".join([language, *rest]) if rest else WITH_REGION.get(language, language)


def iso_code(locale: str) -> str:
    """The ISO 639 code of a locale's language, as the `language` of cards on the Hub wants it.

    >>> iso_code("sv-SE"), iso_code("rm-vallader"), iso_code("hsb")
    ('sv', 'rm', 'hsb')
    """
    return locale.split("-")[0]
