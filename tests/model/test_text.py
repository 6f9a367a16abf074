"""Normalisation, vocabularies and tokens files, compared with the original's file and with the Unicode standard."""

import unicodedata
from collections import Counter

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from hf_mlpl.corpora.preparation.normalizer import INSIDE_WORDS, Normalizer
from hf_mlpl.data.utterances import write_utterances
from hf_mlpl.model.text import (
    build_vocabulary,
    characters_of,
    normalize_text,
    read_tokens,
    unknown_character_report,
    without_invisible,
    write_tokens,
)

from ..commands import run_command


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("", ""),
        (" \t\n", ""),
        ("  Guten\u00a0\u2003Tag,\u2028Welt!\u3000", "Guten Tag, Welt!"),
        ("E\u0301te\u0301", "\u00c9t\u00e9"),
        ("\u1112\u1161\u11ab\u1100\u1173\u11af", "\ud55c\uae00"),  # Hangul jamo compose to syllables
        ("\u0d28\u0d4d\u200d", "\u0d28\u0d4d\u200d"),  # the joiner of a Malayalam chillu is no white space
        # Byte order mark, soft hyphen, zero-width space, marks of direction, word joiner, variant of a Chinese letter
        ("\ufeffco\u00adop\u200b \u200e\u2067x\u2069\u2060 \u200b \u845b\U000e0100", "coop x \u845b"),
        ("Auf\u200clage x\ufe0f 1\ufe0f \u200cа\u200d", "Auflage x 1 а"),  # joiners of Latin and Cyrillic
        ("می\u200cخواهم ۲\u200cبعدی PDF\u200cها", "می\u200cخواهم ۲\u200cبعدی PDF\u200cها"),  # Persian
        ("می\u200c\u200cخواهم \u200cها", "می\u200cخواهم ها"),  # twice, and behind a space
        ("\u200d", ""),
        ("क्\u200dष र\u200d्य রʼ\u09b0\u200d\u09cd\u09af", "क्\u200dष र\u200d्य রʼ\u09b0\u200d\u09cd\u09af"),  # Indic
        ("ᠬᠠ\u180b\u180e ᠠ", "ᠬᠠ\u180b\u180e ᠠ"),  # Mongolian's variations and vowel separator
        ("❤\ufe0f 👩🏽\u200d👧 👩\u200d", "❤\ufe0f 👩🏽\u200d👧 👩"),  # emoji
    ],
)
def test_normalize_text(text, normalised):
    assert normalize_text(text) == normalised


@given(st.text(st.characters() | st.sampled_from("\u200b\u200c\u200d\u00ad\ufe0f\u034f\u0301\u093cबمe❤👩 ")))
def test_normalised_text_is_composed_and_single_spaced(text):
    normalised = normalize_text(text)
    assert normalize_text(normalised) == normalised
    assert unicodedata.is_normalized("NFC", normalised)
    assert [c for c in normalised if c.isspace()] == [" "] * (len(normalised.split()) - 1 if normalised else 0)


def test_vocabulary_of_the_alphabet_is_the_original_tokens_file(golden):
    texts = ["the quick brown fox jumps", "over the lazy dog's cafe\u0301"]
    assert build_vocabulary(texts) == (golden / "models" / "tokens.lst").read_text(encoding="utf-8").split("\n")[:-1]


def test_vocabulary_leaves_out_what_no_tokens_file_should_hold():
    assert build_vocabulary([]) == ["|"]
    assert build_vocabulary(["b|a\x00\x7f\u0085\u200d", "\ud800Z"]) == ["|", "Z", "a", "b"]
    assert build_vocabulary(["ب", "\u200c", "\u200b", "\ufeff"]) == ["|", "ب"]
    assert characters_of(["ب", "\u200c", " ", "|"]) == ["ب", "\u200c"]  # of normalised words


def test_invisible_characters_are_those_of_unicode():
    """Unicode calls them default ignorable, letters among them apart; anchors of annotations are none of these."""
    characters = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE1000)]))
    invisible = set(regex.findall(r"[\uFFF9-\uFFFB\p{DI}--\p{L}]", characters, regex.V1))
    assert {c for c in characters if without_invisible(f"a{c}b") == "ab"} == invisible
    letters = r"[[\p{InSC=Virama}\p{InSC=Invisible_Stacker}\p{JT=D}\p{JT=R}\p{JT=L}]&&[\p{L}\p{M}]]"
    joined = [c for c in regex.findall(letters, characters, regex.V1) if unicodedata.category(c) != "Cn"]
    assert len(joined) > 700
    assert [unicodedata.name(c) for c in joined if without_invisible(f"{c}\u200c") == c] == []


def test_tokens_file_round_trip(golden, tmp_path):
    original = golden / "models" / "tokens.lst"
    lines = read_tokens(original)
    assert lines[0] == ["|"] and lines[-1] == ["\u00e9"] and len(lines) == 29
    write_tokens(tmp_path / "tokens.lst", [" ".join(entries) for entries in lines])
    assert (tmp_path / "tokens.lst").read_bytes() == original.read_bytes()


def test_tokens_file_splits_lines_where_flashlight_does(tmp_path):
    path = tmp_path / "tokens.lst"
    path.write_bytes("|\r\n\n  \na\tA  \u00e4\n\u00a0\n\u2028\n\u0085 #".encode())
    assert read_tokens(path) == [["|"], ["a", "A", "\u00e4"], ["\u00a0"], ["\u2028"], ["\u0085", "#"]]


def test_tokens_file_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "tokens.lst"
    path.write_bytes("\ufeffa\r\n|\r\n\ufeff".encode())
    assert read_tokens(path) == [["a"], ["|"], ["\ufeff"]]
    path.write_bytes("\ufeff\ufeff|\n\ufeffb\r\nc\ufeff d\n".encode())  # of files that were joined
    assert read_tokens(path) == [["|"], ["b"], ["c\ufeff", "d"]]
    for lines in (["\ufeffa", "|"], ["|", "\ufeffa"]):
        with pytest.raises(ValueError, match=r"tokens\.lst: an entry begins with U\+FEFF"):
            write_tokens(path, lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "tokens.lst: none of its 0 lines with entries starts with the word boundary"),
        (b"a\nb |\n", "tokens.lst: none of its 2 lines"),
        (b"|\na\n\nb a\n", "tokens.lst, line 4: entry 'a' is already in line 2"),
        (b"|\na a\n", "tokens.lst, line 2: entry 'a' is already in line 2"),
        (b"|\na\n<blank>\n", "tokens.lst, line 3: <blank> must not be in a tokens file"),
        (b"|\n\xff\n", "tokens.lst, line 2: .* is not UTF-8"),
    ],
)
def test_malformed_tokens_file(tmp_path, content, message):
    path = tmp_path / "tokens.lst"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_tokens(path)


@pytest.mark.parametrize("bad", ["", "a\nb", " a", "a  b", "c", "<blank>", "\ud800"])
def test_a_refused_write_leaves_the_old_file(tmp_path, bad):
    path = tmp_path / "tokens.lst"
    write_tokens(path, ["|", "old"])
    with pytest.raises(ValueError):
        write_tokens(path, ["|", "c", bad])
    assert path.read_bytes() == b"|\nold\n"
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_character_report():
    assert unknown_character_report(Counter()) == ""
    assert unknown_character_report(Counter({"ß": 12, "\x00": 1})) == (
        r"'ß' (U+00DF LATIN SMALL LETTER SHARP S) x 12, '\x00' (U+0000 without a name) x 1"
    )
    report = unknown_character_report(Counter("abcdefghijklmaa"))
    assert report.startswith("'a' (U+0061 LATIN SMALL LETTER A) x 3, ")
    assert report.count(" x 1, ") == 9 and report.endswith(" x 1, and 3 other characters")


# ---- normalisers

HYPHENS_BEHIND_MARKS = "धीरे-धीरे দু'জন ਹੌਲੀ-ਹੌਲੀ கொஞ்சம்-கொஞ்சம் ବାର-ବାର ހިތް-ވަރު"


@pytest.mark.parametrize(
    ("settings", "text", "normalised"),
    [
        ({}, "A  b\u0301, C!", "A b\u0301, C!"),
        ({"lowercase": True}, "ÀÉ \u1e9e ΣΑΣ IİX", "àé ß σας i" + "i\u0307x"),
        ({"lowercase": True, "dotless_i": True}, "IİI I\u0307", "ıiı i"),
        ({"strip_punctuation": True}, "„L'été – aujourd’hui“, dit-il… (c'h!) 'a' -b- col·lega ¿qué?", None),
        ({"strip_punctuation": True}, "、他说：「好」。١٢٪ अ।", "他说好١٢ अ"),
        ({"strip_punctuation": True}, "--- '' .", ""),
        ({"strip_punctuation": True}, HYPHENS_BEHIND_MARKS, HYPHENS_BEHIND_MARKS),
        ({"strip_punctuation": True}, "cafe\u0301-bar l'e\u0301te\u0301", "café-bar l'été"),
        (
            {"strip_punctuation": True},
            "yes...no and/or 3,5 ja--nein U.S. rock-'n'-roll",
            "yes no and or 3 5 ja nein U S rock n roll",
        ),
        ({"strip_punctuation": True}, "ሰላም፡ለዓለም።እንዴት نعم،لا؛ربما؟ بيت־ספר", "ሰላም ለዓለም እንዴት نعم لا ربما بيت ספר"),
        ({"strip_punctuation": True}, 'ինչպե՞ս, ո՛չ צה״ל צה"ל צ׳ילי o‘zbek', "ինչպես ոչ צהל צהל צ׳ילי o‘zbek"),
        ({"strip_punctuation": True}, "a՞b a״b ‘a’ e\u2011mail co\u00ad-op", "a b a b a e\u2011mail co-op"),
        ({"strip_punctuation": True}, "か。そう、ラーメン・カツ！OK，好", "かそうラーメンカツOK好"),
        ({"strip_punctuation": True}, "か゚、OK。か゚ ﾊﾟ･ﾊﾟ", "か゚OKか゚ ﾊﾟﾊﾟ"),  # marks that nothing composes
        ({"strip_punctuation": True}, "l‛été, ‛a‛ 北京－上海", "l‛été a 北京上海"),
        ({"replace": {"ё": "е", "е": "э"}}, "ёе", "ээ"),
        ({"replace": {"ß": "SS"}, "lowercase": True}, "Straße", "strasse"),
    ],
)
def test_normalizers(settings, text, normalised):
    expected = "L'été aujourd’hui dit-il c'h a b col·lega qué" if normalised is None else normalised
    assert Normalizer(**settings)(text) == expected


@given(st.text())
def test_normalizers_do_nothing_by_default_and_leave_no_punctuation_if_asked(text):
    assert Normalizer()(text) == normalize_text(text)
    strip = Normalizer(strip_punctuation=True)
    assert not [c for c in strip(text) if unicodedata.category(c).startswith("P") and c not in INSIDE_WORDS]


@given(st.text(), st.booleans())
def test_no_letter_is_lost_and_no_two_words_become_one(text, decompose):
    """Words are runs of letters, digits and marks here; no text is Chinese or Japanese, or has marks that spell."""
    others = r"[\p{Cn}\p{DI}\uFFF9-\uFFFB՛՜՞״\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}ー]"
    text = unicodedata.normalize("NFD" if decompose else "NFC", regex.sub(others, "", text))

    def words(text: str) -> list[str]:
        return regex.findall(r"[\p{L}\p{M}\p{N}]+", unicodedata.normalize("NFD", text))

    assert words(Normalizer(strip_punctuation=True)(text)) == words(text)


# ---- the vocabulary of Common Voice's languages

LOCALES = (
    "ab ar as br ca cnh cs cv cy de dv el en eo es et eu fa fi fr fy ga hi hsb hu ia id it ja ka kab ky lg lt lv mn mt"
    " nl or pa pl pt rm ro ru rw sah sl sv ta th tr tt uk vi vot zh zh_Hant"
).split()


def test_a_tokens_file_of_many_languages(tmp_path, monkeypatch):
    """Builds tokens files that flashlight itself reads from names in nearly all languages."""
    babel = pytest.importorskip("babel")
    dictionary = pytest.importorskip("flashlight.lib.text.dictionary")
    rows = []
    for locale in LOCALES:
        if babel.localedata.exists(locale):
            for number, name in enumerate(babel.Locale.parse(locale).languages.values()):
                row = {"id": f"{locale}{number}", "language": locale, "text": name, "duration_seconds": 1.0}
                rows.append(row | {"audio": None, "speaker": None, "source": "human"})
    assert len({row["language"] for row in rows}) > 50
    write_utterances(rows, tmp_path / "train.parquet")
    tokens = tmp_path / "tokens-all.lst"
    assert run_command("build_tokenizer.py", tmp_path / "train.parquet", "--output", tokens) == 0
    lines = tokens.read_text(encoding="utf-8").split("\n")
    assert lines[0] == "|" and lines[-1] == "" and "" not in lines[:-1]
    assert lines[1:-1] == sorted({c for row in rows for c in normalize_text(row["text"])} - {" ", "|"})
    theirs = dictionary.Dictionary(str(tokens))
    assert [theirs.get_entry(index) for index in range(theirs.index_size())] == lines[:-1]
    assert len(lines) > 1000  # from the names of languages alone; the original has 8064 lines
