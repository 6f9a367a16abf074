"""Makes short sentences for the synthetic corpus from Babel's names (CLDR) and num2words' spelled-out numbers.

A sentence is a few phrases in a row ("Montag neun Gramm Burundi"): a territory, language, unit, weekday, month, date
or amount. It says what a listener hears: no digits, no abbreviations, no punctuation but the
apostrophes and hyphens within words, letters of one script. Grammar goes no further than Babel's plural forms.
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
    """Holds the names of a language in Babel, espeak-ng and num2words, and how it is written."""

    babel: str
    voice: str
    num2words: str | None = None  # None: num2words does not know the language, its sentences have no numbers
    script: str = "LATIN"  # first word of the Unicode names of its letters
    characters_per_second: float = 17.0  # rounded, of espeak-ng at its normal speed
    space: str = " "


def _same(code: str, **differences) -> DemoLanguage:
    return DemoLanguage(**{"babel": code, "voice": code, "num2words": code} | differences)


# Those of the 60 locales of Common Voice 6.1 that both Babel and espeak-ng know; 27 of them num2words knows too.
# Left out because espeak-ng names some letters instead of reading them: Assamese (as), Odia (or), Japanese (ja).
DEMO_LANGUAGES = {
    "ar": _same("ar", script="ARABIC", characters_per_second=12),
    "ca": _same("ca"),
    "cs": _same("cs"),
    "cy": _same("cy"),
    "de": _same("de"),
    "en": _same("en", voice="en-us"),
    "eo": _same("eo"),
    "es": _same("es"),
    "fa": _same("fa", script="ARABIC", characters_per_second=12),
    "fi": _same("fi"),
    "fr": _same("fr", characters_per_second=20),
    "hu": _same("hu"),
    "id": _same("id"),
    "it": _same("it"),
    "lt": _same("lt"),
    "lv": _same("lv"),
    "nl": _same("nl"),
    "pl": _same("pl"),
    "pt": _same("pt", voice="pt-br", num2words="pt_BR"),
    "ro": _same("ro"),
    "ru": _same("ru", script="CYRILLIC", characters_per_second=20),
    "sl": _same("sl"),
    "sv-SE": _same("sv"),
    "th": _same("th", script="THAI", characters_per_second=10),
    "tr": _same("tr"),
    "uk": _same("uk", script="CYRILLIC", characters_per_second=12),
    "vi": _same("vi"),
    "cv": DemoLanguage("cv", "cv", script="CYRILLIC"),
    "el": DemoLanguage("el", "el", script="GREEK"),
    "et": DemoLanguage("et", "et"),
    "eu": DemoLanguage("eu", "eu"),
    "ga-IE": DemoLanguage("ga", "ga", characters_per_second=20),
    "hi": DemoLanguage("hi", "hi", script="DEVANAGARI"),
    "ia": DemoLanguage("ia", "ia"),
    "ka": DemoLanguage("ka", "ka", script="GEORGIAN"),
    "ky": DemoLanguage("ky", "ky", script="CYRILLIC"),
    "mt": DemoLanguage("mt", "mt"),
    "pa-IN": DemoLanguage("pa", "pa", script="GURMUKHI"),
    "ta": DemoLanguage("ta", "ta", script="TAMIL"),
    "tt": DemoLanguage("tt", "tt", script="CYRILLIC"),
    "zh-CN": DemoLanguage("zh_Hans_CN", "cmn", script="CJK", characters_per_second=5, space=""),
    "zh-HK": DemoLanguage("zh_Hant_HK", "yue", script="CJK", characters_per_second=6, space=""),
    "zh-TW": DemoLanguage("zh_Hant_TW", "cmn", script="CJK", characters_per_second=5, space=""),
}

# A text belongs to the split that owns its hash modulo 10, so no two splits ever share one, whatever their sizes.
SPLIT_BUCKETS = {"train": range(4), "dev": range(4, 5), "test": range(5, 6), "unlabelled": range(6, 10)}


def sentences(language: str, split: str, seed: int) -> Iterator[str]:
    """Yields distinct sentences (NFC, about 2 s of speech) that no other split of the same language can yield.

    The n-th one depends on the arguments alone. `split` is a key of `SPLIT_BUCKETS`.
    """
    spec = DEMO_LANGUAGES[language]
    rng = random.Random(f"{seed} {language} {split}")
    kinds = _phrase_kinds(spec, rng)
    seen = set()
    while True:
        text = ""
        while len(text) < 1.4 * spec.characters_per_second:
            phrase = _clean(rng.choice(kinds)())
            if _is_speakable(phrase, spec.script):
                text = f"{text}{spec.space}{phrase}" if text else phrase
        bucket = zlib.crc32(text.casefold().encode()) % 10
        if len(text) <= 2.6 * spec.characters_per_second and bucket in SPLIT_BUCKETS[split] and text not in seen:
            seen.add(text)
            yield text


def _phrase_kinds(spec: DemoLanguage, rng: random.Random) -> list[Callable[[], str]]:
    """Returns functions that each make a random phrase of one kind; some phrases are unspeakable."""
    locale = Locale.parse(spec.babel)
    territories, languages = _ranked(locale.territories), _ranked(locale.languages)
    units = _ranked(locale.unit_display_names)
    # Not `months["stand-alone"]`: in Babel 2.18 its aliases may lead into another language.
    weekdays, months = (list(names["format"]["wide"].values()) for names in (locale.days, locale.months))

    def frequent(codes: list[str]) -> str:
        return rng.choices(codes, weights=[rank**-1.3 for rank in range(1, len(codes) + 1)])[0]

    def unit() -> str:
        return get_unit_name(frequent(units), "long", locale) or ""

    kinds = [
        lambda: locale.territories[frequent(territories)],
        lambda: locale.languages[frequent(languages)],
        lambda: rng.choice(weekdays),
        lambda: rng.choice(months),
        unit,
    ]
    if spec.num2words is None:
        return kinds

    def spelled(number: int) -> str:
        return num2words(number, lang=spec.num2words).replace(",", "")

    def random_number() -> int:
        return rng.choice((rng.randint(2, 99), rng.randint(100, 9999)))

    def day() -> str:
        on = date(2020, 1, 1) + timedelta(days=rng.randrange(366))
        digits = format_decimal(on.day, locale=locale)
        text = format_skeleton("MMMMd", on, locale=locale)
        return text.replace(f"{digits}.", digits).replace(digits, spelled(on.day))

    def amount() -> str:
        number, unit_id = random_number(), frequent(units)
        text = format_unit(number, unit_id, "long", locale=locale)
        if unit_id in text or text == format_unit(number, unit_id, "short", locale=locale):
            return ""  # the long form is missing: Babel falls back to "duration-hour" or "km"
        return text.replace(format_decimal(number, locale=locale), spelled(number))

    return [*kinds, day, amount]


def _ranked(codes: Iterable[str]) -> list[str]:
    """Sorts codes in an arbitrary order that all languages share: what is frequent in one is frequent in the others.

    Frequencies fall with the rank as those of words do, somewhat faster than by Zipf's law, so that the fifty
    sentences of a low-resource language hold most of its words.
    """
    return sorted(codes, key=lambda code: (zlib.crc32(code.encode()), code))


def _clean(phrase: str) -> str:
    """Returns NFC with plain spaces and one kind of apostrophe."""
    text = unicodedata.normalize("NFC", phrase).replace("\u2019", "'").replace("\u02bc", "'")
    return " ".join(text.split())


def _is_speakable(phrase: str, script: str) -> bool:
    """Checks that a phrase is words of one script: no digits, abbreviations ("US-Dollar", "St.") or brackets."""
    words = phrase.replace("-", " ").split(" ")
    return all(
        any(char.isalpha() for char in word)
        and all(char == "'" or _is_letter(char, script) for char in word)
        and not any(first.isupper() and second.isupper() for first, second in pairwise(word))
        for word in words
    )


def _is_letter(char: str, script: str) -> bool:
    return unicodedata.category(char)[0] in "LM" and unicodedata.name(char).startswith(script)
