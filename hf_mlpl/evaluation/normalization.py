"""Normalises texts for scores that do not depend on how a model writes capitals, punctuation and invisible characters.

English is normalised as by Whisper, which the Open ASR Leaderboard began with, and now goes beyond (names, compounds,
acronyms): no library has the own form of the leaderboard. All other languages, as `NORMALIZATION` says:

- Unicode's NFKC and case folding; in Turkish and its relatives, ı is the small letter of I.
- Letters, marks and digits of all scripts stay, and numbers stay as they are written, in digits or in words.
- Punctuation and symbols, by Unicode's categories P and S, become spaces: also hyphens, currencies and signs of
  mathematics, and what separates the digits of numbers. So no two words become one.
- Apostrophes inside of words stay, because they spell; all their forms become ʼ (U+02BC), a letter of Unicode. So does
  the okina, ʻ. Armenian's marks of tone and Hebrew's gershayim inside of words go, and so do Arabic's tatweel and its
  like, which only make words longer.
- In languages written without spaces between words, punctuation and spaces beside their letters go. Between the
  syllables of Tibetan, a space stays for each tsheg.

The categories are those of the Unicode version that Python has; characters that it does not know are kept as letters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache

from ..data.words import MARKS_OF_WORDS, is_unspaced
from ..model.text import JOINERS, normalize_text

NORMALIZATION = "hf-mlpl 1"  # another number for another rule, after which results cannot be compared

# Languages written without spaces between words, in codes of ISO 639-1 and 639-3, and scripts of that kind, ISO 15924.
CER_LANGUAGES = frozenset(
    "bo bod dz dzo ja jpn km khm lo lao my mya th tha zh zho"
    " cdo cjy cmn cpx czh czo gan hak hsn khb kht lzh mnp mnw nan nod rki shn sou tdd tts wuu yue".split()
)
CER_SCRIPTS = frozenset(
    "bali bopo hani hans hant hira hrkt jpan java kana khmr lana laoo mymr tale talu thai tibt".split()
)
DOTLESS_I = frozenset("tr tur az aze azj crh gag".split())  # languages in which ı is the small letter of I
ENGLISH = frozenset(["en", "eng"])

APOSTROPHES = "'’‘‛′`՚׳"
JOINER = re.compile(f"[{JOINERS}]")
ELONGATIONS = re.compile("[\u0640\u07fa\u180a]")  # of Arabic and Syriac, N'Ko and Mongolian


def score_text(text: str, language: str) -> str:
    """Returns the form in which texts of a language are compared for normalised scores, with single spaces.

    >>> score_text("„L’été“, dit-il: 10 %…", "fr"), score_text("धीरे-धीरे।", "hi"), score_text("他 说：「好」", "zh-CN")
    ('lʼété dit il 10', 'धीरे धीरे', '他说好')
    >>> score_text("Mr. Smith won't pay twenty-five dollars.", "en")
    'mister smith will not pay $25'
    """
    text = normalize_text(ELONGATIONS.sub("", text))
    code = _subtags(language)[0]
    if code in ENGLISH:
        return _english()(text).strip()
    if not unicodedata.is_normalized("NFKC", text):
        text = unicodedata.normalize("NFKC", "".join(map(_compatible, text)))
    if code in DOTLESS_I:
        text = text.replace("İ", "i").replace("I", "ı")
    return _without_punctuation(unicodedata.normalize("NFKC", text.casefold()), leads_with_cer(language))


def leads_with_cer(language: str) -> bool:
    """Returns whether a language is written without spaces between words, so that its word error rate says little.

    A script in the code decides, else the language; regions do not matter.

    >>> leads_with_cer("zh-TW"), leads_with_cer("cmn_hans_cn"), leads_with_cer("ja-Latn"), leads_with_cer("ko")
    (True, True, False, False)
    """
    code, *others = _subtags(language)
    scripts = [tag for tag in others if len(tag) == 4 and tag.isalpha()]
    return scripts[0] in CER_SCRIPTS if scripts else code in CER_LANGUAGES


def _subtags(language: str) -> list[str]:
    return language.strip().casefold().replace("_", "-").split("-")


@cache
def _english() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer  # reads a table of spellings, which others need not

    return EnglishTextNormalizer()


@cache
def _compatible(character: str) -> str:
    """Returns NFKC of a character, without what it puts below marks, and with a space before a fraction."""
    form = ELONGATIONS.sub("", unicodedata.normalize("NFKC", character))
    if character == "´":
        return "'"
    if form[0] == " " and unicodedata.category(character)[0] in "LM":
        return form[1:]
    return f" {form}" if "⁄" in form else " " if form[0] == " " else form


def _kind(character: str) -> str:
    """Returns the kind of a character: `w` a letter, `c` one of a script without spaces, `m` a mark, and so on."""
    category = unicodedata.category(character)
    if character in APOSTROPHES:
        return "a"
    if category[0] in "LM" and is_unspaced(character) and not unicodedata.name(character).startswith("TIBETAN"):
        return "c"
    if JOINER.match(character):
        return "j"
    if category[0] == "M":
        return "m"
    if category[0] in "PSZ" or category in ("Cc", "Cf"):
        return "p"
    return "n" if category[0] == "N" else "w"


class _Kinds(dict):
    """Holds the kinds of code points, for `str.translate`, from their first occurrence on."""

    def __missing__(self, code_point: int) -> str:
        return self.setdefault(code_point, _kind(chr(code_point)))


KINDS = _Kinds()
LETTER_APOSTROPHES = str.maketrans(dict.fromkeys(APOSTROPHES, "ʼ"))


def _without_punctuation(text: str, without_spaces: bool) -> str:
    """Replaces punctuation and symbols by a space, or by nothing where no words are separated."""
    text = MARKS_OF_WORDS.sub("", text).replace("ʻ", "ʼ")
    kinds = text.translate(KINDS)
    if "j" in kinds:  # joiners; those of emoji go with these
        kinds = re.sub(r"(?<=p)j+", lambda run: "p" * len(run[0]), kinds).replace("j", "m")
    if "a" in kinds:  # an apostrophe has a letter on one side at least: that between digits separates thousands
        kinds = re.sub(r"(?<=[wm])a(?=[wmn])|(?<=n)a(?=[wm])", "w", kinds).replace("a", "p")
        text = text.translate(LETTER_APOSTROPHES)
    if without_spaces:
        kinds = re.sub(r"(?<=c)[mp]+", lambda run: run[0].replace("m", "c").replace("p", "-"), kinds)
        kinds = re.sub(r"p+(?=c)", lambda run: "-" * len(run[0]), kinds)
    words = []
    for run in re.finditer("[^p]+", kinds):
        word = text[run.start() : run.end()]
        if "-" in run[0]:
            word = "".join(character for kind, character in zip(run[0], word, strict=True) if kind != "-")
        words.append(word)
    return normalize_text(" ".join(words))
