"""Makes short sentences for the synthetic corpus from Babel's names (CLDR) and num2words' spelled-out numbers.

A sentence is a few phrases in a row ("Montag neun Gramm Burundi"): a territory, language, unit, weekday, month, date
or amount. It is spelled as it is spoken: letters of one script, no digits, no abbreviations, no punctuation except
apostrophes and hyphens inside of words. Its only grammar is Babel's plural forms.
"""

import random
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

from babel import Locale
from babel.dates import format_skeleton
from babel.numbers import format_decimal
from babel.units import format_unit, get_unit_name
from num2words import num2words


@dataclass(frozen=True)
class DemoLanguage:
    """Holds the codes of a language in Babel, espeak-ng and num2words, and facts about its writing."""

    babel: str
    voice: str
    num2words: str | None = None  # None: num2words lacks the language, and its sentences have no numbers
    script: str = "LATIN"  # first word of the Unicode names of its letters
    characters_per_second: float = 17.0  # rounded, of espeak-ng at its normal speed
    space: str = " "


# Those of the 60 locales of Common Voice 6.1 that both Babel and espeak-ng know; 27 of them num2words knows too.
# Left out because espeak-ng names some letters instead of reading them: Assamese (as), Odia (or), Japanese (ja).
_LANGUAGES = {
    **{
        code: DemoLanguage(code, code, code)
        for code in "ca cs cy de eo es fi hu id it lt lv nl pl ro sl tr vi".split()
    },
    "ar": DemoLanguage("ar", "ar", "ar", "ARABIC", 12),
    "en": DemoLanguage("en", "en-us", "en"),
    "fa": DemoLanguage("fa", "fa", "fa", "ARABIC", 12),
    "fr": DemoLanguage("fr", "fr", "fr", characters_per_second=20),
    "pt": DemoLanguage("pt", "pt-br", "pt_BR"),
    "ru": DemoLanguage("ru", "ru", "ru", "CYRILLIC", 20),
    "sv-SE": DemoLanguage("sv", "sv", "sv"),
    "th": DemoLanguage("th", "th", "th", "THAI", 10),
    "uk": DemoLanguage("uk", "uk", "uk", "CYRILLIC", 12),
    **{code: DemoLanguage(code, code) for code in "et eu ia mt".split()},
    **{code: DemoLanguage(code, code, script="CYRILLIC") for code in "cv ky tt".split()},
    "el": DemoLanguage("el", "el", script="GREEK"),
    "ga-IE": DemoLanguage("ga", "ga", characters_per_second=20),
    "hi": DemoLanguage("hi", "hi", script="DEVANAGARI"),
    "ka": DemoLanguage("ka", "ka", script="GEORGIAN"),
    "pa-IN": DemoLanguage("pa", "pa", script="GURMUKHI"),
    "ta": DemoLanguage("ta", "ta", script="TAMIL"),
    "zh-CN": DemoLanguage("zh_Hans_CN", "cmn", script="CJK", characters_per_second=5, space=""),
    "zh-HK": DemoLanguage("zh_Hant_HK", "yue", script="CJK", characters_per_second=6, space=""),
    "zh-TW": DemoLanguage("zh_Hant_TW", "cmn", script="CJK", characters_per_second=5, space=""),
}
# Sorted by locale, those with numbers first
DEMO_LANGUAGES = dict(sorted(_LANGUAGES.items(), key=lambda item: (item[1].num2words is None, item[0])))

# The hash of a text modulo 10 decides on its split, so two splits never share a text, whatever their sizes.
SPLIT_BUCKETS = {"train": range(4), "dev": range(4, 5), "test": range(5, 6), "unlabelled": range(6, 10)}


def sentences(language: str, split: str, seed: int) -> Iterator[str]:
    """Yields distinct sentences (NFC, about 2 s of speech) that no other split of the language has.

    The n-th sentence is a function of the arguments alone. `split` is a key of `SPLIT_BUCKETS`.
    """
    spec = DEMO_LANGUAGES[language]
    rng = random.Random(f"{seed} {language} {split}")
    kinds = _phrase_kinds(spec, rng)
    seen = set()
    while True:
        text = ""
        while len(text) < 1.4 * spec.characters_per_second:
            phrase = unicodedata.normalize("NFC", rng.choice(kinds)()).replace("\u2019", "'").replace("\u02bc", "'")
            phrase = " ".join(phrase.split())  # plain spaces, and above one kind of apostrophe
            if _is_speakable(phrase, spec.script):
                text = f"{text}{spec.space}{phrase}" if text else phrase
        bucket = zlib.crc32(text.casefold().encode()) % 10
        if len(text) <= 2.6 * spec.characters_per_second and bucket in SPLIT_BUCKETS[split] and text not in seen:
            seen.add(text)
            yield text


def _phrase_kinds(spec: DemoLanguage, rng: random.Random) -> list[Callable[[], str]]:
    """Returns functions that make a random phrase of one kind each, which may be unspeakable."""
    locale = Locale.parse(spec.babel)
    territories, languages = _ranked(locale.territories), _ranked(locale.languages)
    units = _ranked(locale.unit_display_names)
    # Not `months["stand-alone"]`, whose aliases in Babel 2.18 may lead to another language.
    weekdays, months = (list(names["format"]["wide"].values()) for names in (locale.days, locale.months))

    def frequent(codes: list[str]) -> str:
        return rng.choices(codes, weights=[rank**-1.3 for rank in range(1, len(codes) + 1)])[0]

    kinds = [
        lambda: locale.territories[frequent(territories)],
        lambda: locale.languages[frequent(languages)],
        lambda: rng.choice(weekdays),
        lambda: rng.choice(months),
        lambda: get_unit_name(frequent(units), "long", locale) or "",
    ]
    if spec.num2words is None:
        return kinds

    def spelled(number: int) -> str:
        return num2words(number, lang=spec.num2words).replace(",", "")

    def day() -> str:
        day_of_year = date(2020, 1, 1) + timedelta(days=rng.randrange(366))
        digits = format_decimal(day_of_year.day, locale=locale)
        text = format_skeleton("MMMMd", day_of_year, locale=locale)
        return text.replace(f"{digits}.", digits).replace(digits, spelled(day_of_year.day))

    def amount() -> str:
        number, unit = rng.choice((rng.randint(2, 99), rng.randint(100, 9999))), frequent(units)
        text = format_unit(number, unit, "long", locale=locale)
        if unit in text or text == format_unit(number, unit, "short", locale=locale):
            return ""  # without a long form Babel falls back to "duration-hour" or "km"
        return text.replace(format_decimal(number, locale=locale), spelled(number))

    return [*kinds, day, amount]


def _ranked(codes: Iterable[str]) -> list[str]:
    """Sorts codes in an arbitrary order that all languages share, so that the same codes are frequent in each.

    Frequencies fall with the rank somewhat faster than by Zipf's law, so that the fifty sentences of a low-resource
    language contain most of its words.
    """
    return sorted(codes, key=lambda code: (zlib.crc32(code.encode()), code))


def _is_speakable(phrase: str, script: str) -> bool:
    """Checks that a phrase has words of one script only: no digits, abbreviations ("US-Dollar", "St.") or brackets."""
    letters = phrase.replace("-", "").replace(" ", "").replace("'", "")
    return all(
        any(char.isalpha() for char in word)
        and not any(one.isupper() and two.isupper() for one, two in pairwise(word))
        for word in phrase.replace("-", " ").split(" ")
    ) and all(unicodedata.category(char)[0] in "LM" and unicodedata.name(char).startswith(script) for char in letters)
