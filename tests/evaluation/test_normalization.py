"""Normalised texts, compared with Unicode's properties and with transformers' copy of Whisper's program."""

import json
import unicodedata
from importlib.resources import files

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from hf_mlpl.corpora.preparation.normalizer import Normalizer
from hf_mlpl.evaluation.normalization import APOSTROPHES, leads_with_cer, score_text


@pytest.mark.parametrize(
    ("language", "texts", "normalised"),
    [
        (
            "fr",
            ["„L’été“, dit-il:  10 %…", "l'e\u0301te\u0301 dit il 10", "L´ÉTÉ, dit – il 10 €"],
            "lʼété dit il 10",
        ),
        ("de", ["STRASSE und/oder x...y", "Straße, und oder x y"], "strasse und oder x y"),
        ("de", ["2½ ㎏, m² ﬁn № 5", "2 1/2 kg m2 fin No 5"], "2 1 2 kg m2 fin no 5"),
        ("de", ["1'000 3,5 12:30", "1.000 3.5 12.30"], "1 000 3 5 12 30"),
        ("hi", ["धीरे-धीरे।", "धीरे धीरे"], "धीरे धीरे"),
        ("bn", ["দু'জন", "দু’জন!"], "দুʼজন"),
        ("uk", ["м'яч", "М’ЯЧ", "мʼяч"], "мʼяч"),
        ("uz", ["oʻzbek", "o‘zbek", "O'zbek"], "oʼzbek"),
        ("br", ["«C'hoar»", "‘c’hoar’"], "cʼhoar"),
        ("haw", ["ʻŌlelo Hawaiʻi"], "ʼōlelo hawaiʼi"),
        ("tr", ["IŞIK, İzmir", "ışık I\u0307ZM\u0130R"], "ışık izmir"),
        ("el", ["ΣΟΦΟΣ;", "σοφος", "σοφοσ"], "σοφοσ"),
        ("hy-AM", ["Ինչպե՞ս է, ո՛չ։", "ինչպես է ոչ"], "ինչպես է ոչ"),
        ("he", ['צה"ל צ׳ילי בית־ספר', "צה״ל צ'ילי בית ספר"], "צהל צʼילי בית ספר"),
        ("ar", ["نـعـم،لا؛ربما؟ ١٢٪", "نعم لا ربما ١٢"], "نعم لا ربما ١٢"),
        (
            "fa",
            ["می\u200cخواهم\u200f PDF\u200cها", "\ufeffمی\u200c\u200cخواهم pdf\u200cها"],
            "می\u200cخواهم pdf\u200cها",
        ),
        ("ml", ["അവന\u0d4d\u200d.", "അവന\u0d4d\u200d"], "അവന\u0d4d\u200d"),
        ("am", ["ሰላም፡ለዓለም።እንዴት", "ሰላም ለዓለም እንዴት"], "ሰላም ለዓለም እንዴት"),
        ("sl", ["so\u00adl\u200bza\u200d ❤\ufe0f 👩\u200d👧", "solza"], "solza"),
        ("zh-CN", ["他说：「好❤\ufe0f」 OK 吧！", "他 说好ok吧"], "他说好ok吧"),
        ("ja", ["か\u3099、ﾗｰﾒﾝ・カツ", "が ラーメンカツ"], "がラーメンカツ"),
        ("th", ["สวัสดี ครับ (ผม)", "สวัสดี\u200bครับผม"], "สวัสดีครับผม"),
        ("bo", ["བོད་སྐད།", "བོད་སྐད"], "བོད སྐད"),
        ("ko", ["大韓民國 만세!", "大韓民國 만세"], "大韓民國 만세"),
    ],
)
def test_forms_of_a_text_are_equal(language, texts, normalised):
    assert [score_text(text, language) for text in texts] == [normalised] * len(texts)


SPELLINGS = files("whisper_normalizer") / "normalizers" / "english.json"
PHRASES = (
    "Mr. O'Neill won't,|y'all ain't gonna.|uh,|twenty five thousand dollars|and 7 cents|[noise] (laughs)|mm-hmm|it's|"
    "Stephen's colour|at 5 p.m.|one hundred and one|e-mails|double five oh|1,000,000|the 1960s|ten percent|"
    "3 and a half|Naïve œuvre —|don’t cancel|£20|grey|two-thirds|minus 4"
)


@given(st.lists(st.sampled_from(PHRASES.split("|"))).map(" ".join))
def test_english_is_normalised_as_by_whisper(text):
    """Compares with transformers' copy of Whisper's program, which has no table of spellings of its own."""
    expected = EnglishTextNormalizer(json.loads(SPELLINGS.read_text()))(text).strip()
    for language in ("en", "en_us", "eng_Latn"):
        assert score_text(f"\u200b{text}\ufeff", language) == expected


def test_english():
    text = "It's okay: Mr. Smith paid twenty-five dollars, um, for my favourite colour."
    assert score_text(text, "en") == "it is okay mister smith paid $25 for my favorite color"


def words(text: str) -> list[str]:
    return regex.findall(r"[\p{L}\p{M}\p{N}]+", text)


def test_no_letter_is_lost_and_no_words_are_joined_by_any_character_of_unicode():
    """Tries each punctuation, mark and digit, and some letters of all scripts, between two letters."""
    strip = Normalizer(strip_punctuation=True)
    ignorable = regex.compile(r"[\p{DI}\uFFF9-\uFFFB--\p{L}]", regex.V1)
    kinds = set()
    for number in range(0x20000):
        character = chr(number)
        category = unicodedata.category(character)
        if category in ("Cn", "Co", "Cs") or number % {"Lo": 64, "So": 16, "Ll": 4, "Lu": 4}.get(category, 1):
            continue
        kinds.add(category)
        text = f"q{character}q"
        if ignorable.match(character):
            assert strip(text) == score_text(text, "xx") == "qq", hex(number)
            continue
        assert words(strip(text)) == words(unicodedata.normalize("NFC", text)), hex(number)
        scored = score_text(text, "xx")
        assert score_text(scored, "xx") == scored and regex.sub(r"\p{Cf}", "", scored).split() == words(scored)
        form = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", character).casefold())
        if form in APOSTROPHES or unicodedata.normalize("NFC", character) in "´\u02bb":
            assert scored == "qʼq", hex(number)
        elif form[0] == " " and category[0] in "PS":
            assert scored == "q q", hex(number)  # NFKC puts a mark on a space
        else:
            expected = unicodedata.normalize("NFKC", f"q{form.lstrip() if category[0] in 'LM' else form}q")
            expected = regex.sub("[\u0640\u07fa\u180a]", "", expected)
            separator = " " if "⁄" in form else ""
            assert scored.split() == words(expected.replace("q", f"q{separator}", 1)), hex(number)
    assert len(kinds) == 27  # all others of Unicode's categories


@given(st.text(), st.sampled_from(["sl", "tr", "zh-CN", "fa"]), st.sampled_from(["NFC", "NFD"]))
def test_scores_do_not_depend_on_the_form(text, language, form):
    text = "".join(character for character in text if unicodedata.category(character) != "Cs")
    scored = score_text(text, language)
    assert score_text(unicodedata.normalize(form, text), language) == scored
    assert score_text(scored, language) == scored
    assert scored == " ".join(scored.split())


def test_languages_without_spaces():
    led = "zh-CN zh-TW zh_Hant yue nan-tw cmn_hans_cn ja ja_jp th lo km_kh my my-MM bo dz jpn tha_Thai jv-Java"
    others = "en ko vi jv id ka am bo-Latn ja-Latn zh-latn-pinyin Slovene mya-Latn tr hi Thai-English"
    assert [code for code in led.split() if not leads_with_cer(code)] == []
    assert [code for code in others.split() if leads_with_cer(code)] == []
