"""Transcripts as HTML, and their script in a browser."""

import json
import re
from html import unescape

import pytest

from hf_mlpl.pages.audio import audio_source
from hf_mlpl.pages.document import document
from hf_mlpl.pages.spectrogram import Spectrogram
from hf_mlpl.pages.transcript import transcript_view

from ..browser import PHONE
from ..random_model import sweep

WORD = re.compile(r'<span class="word"([^>]*)>([^<]*)</span>')


def characters(text: str, seconds: float = 0.1, confidence: float | None = 0.5) -> list[dict]:
    """Returns chunks of characters, one after the other."""
    known = {} if confidence is None else {"confidence": confidence}
    return [{"text": c, "timestamp": (i * seconds, i * seconds + 0.03)} | known for i, c in enumerate(text)]


def words_in(markup: str) -> list[str]:
    text = re.search(r'<p class="transcript-text".*?</p>', markup, re.DOTALL)[0]
    return [unescape(word) for _, word in WORD.findall(text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("two words", ["two", "words"]),
        ("  two\n<b>", ["two", "<b>"]),
        ("a b ", ["a", "b"]),
        ("これは ABC です", [*"これは", "ABC", *"です"]),
        ("ที่นี่", ["ที่", "นี่"]),  # vowels and tones above a letter are not words
        ("هذا نص", ["هذا", "نص"]),
        ("e\u0301te\u0301", ["e\u0301te\u0301"]),
    ],
)
def test_words(text, words):
    markup = transcript_view({"text": text, "chunks": characters(text)}, "", 1.0)
    assert words_in(markup) == words
    shown = re.search(r'<p class="transcript-text"[^>]*>(.*?)</p>', markup, re.DOTALL)[1]
    assert unescape(re.sub("<[^>]*>", "", shown)) == text  # the text itself, with its spaces
    of_words = [{"text": word, "timestamp": (i, i + 1)} for i, word in enumerate(text.split())]
    assert words_in(transcript_view({"text": text, "chunks": of_words}, "", 1.0)) == text.split()


def test_what_is_known_of_words():
    chunks = characters("ab c", confidence=None)
    for chunk, confidence in zip(chunks, (0.9, 0.4, 1.0, 0.25), strict=True):
        chunk["confidence"] = confidence
    result = {"text": "ab c", "chunks": chunks, "language": "sl", "language_probability": 0.9996}
    markup = transcript_view(result, "a.mp3", 2.5, name="a b.wav", downloads={"a b.srt": "1\nä"})
    (first, _), (second, _), *_ = WORD.findall(markup)
    assert 'data-start="0.00" data-end="0.13" data-confidence="60\N{NO-BREAK SPACE}%"' in first  # sqrt(0.36)
    assert "--doubt: 0.40" in first and 'data-start="0.30"' in second and "--doubt: 0.75" in second
    assert 'dir="auto" lang="sl"' in markup and "99.9\N{NO-BREAK SPACE}%" in markup
    assert 'download="a b.srt" href="data:text/plain;charset=utf-8;base64,MQrDpA=="' in markup
    unsure = transcript_view({"text": "ab c", "chunks": characters("ab c", confidence=None)}, "", 1.0)
    assert "doubt" not in unsure and "lang=" not in unsure
    assert "No speech was recognised." in transcript_view({"text": " ", "chunks": []}, "", 1.0)
    assert ">plain</p>" in transcript_view({"text": "plain"}, "", 1.0)
    assert ">c</span> without a time</p>" in transcript_view(result | {"text": "ab c without a time"}, "", 1.0)


@pytest.mark.slow
def test_a_page_in_a_browser(browser, tmp_path):
    text = "one two <script>alert(1)</script> four five six"
    samples = sweep(6.0)
    spectrogram = Spectrogram(16_000)
    spectrogram.add(samples)
    result = {"text": text, "chunks": characters(text, 6.0 / len(text)), "language": "sl", "language_probability": 0.9}
    view = transcript_view(
        result,
        audio_source(samples, 16_000),
        6.0,
        spectrogram=spectrogram.finish(),
        downloads={"a.srt": "ä\n", "a.json": json.dumps({"text": text})},
    )
    (tmp_path / "a.html").write_text(document("A page", view))
    browser.open(tmp_path / "a.html")
    browser.run(
        "window.audio = document.querySelector('audio'); window.seconds = []; "
        "audio.onseeking = () => { seconds.push(audio.currentTime); audio.pause(); }"  # so that no test is too late
    )
    sought = "return seconds"
    words = browser.find_all(".transcript-text .word")
    starts = [float(word.get_attribute("data-start")) for word in words]
    assert [word.text for word in words] == text.split()
    assert browser.find(".transcript-language").text == "Slovenian (sl)"

    words[3].click()  # the word is lit in the text and below the spectrogram
    browser.wait(lambda: browser.run(sought) == [starts[3]])
    browser.wait(lambda: [each.text for each in browser.find_all(".transcript-label.now")] == ["four"])
    assert [word.text for word in browser.find_all(".word.now")] == ["four"]
    assert browser.find(".transcript-status").text.endswith("confidence 50 %")
    assert browser.run("return audio.duration") == pytest.approx(6.0, abs=0.05)

    from selenium.webdriver import ActionChains, Keys

    assert browser.run("return document.querySelectorAll('.word[tabindex]').length") == 1
    browser.run("document.querySelector('.word[tabindex]').focus()")
    ActionChains(browser.driver).send_keys(Keys.HOME, Keys.ARROW_RIGHT, Keys.ENTER).perform()
    browser.wait(lambda: browser.run(sought) == [starts[3], starts[1]])
    browser.run("audio.onseeking = null; audio.play()")  # which goes on to the next word
    browser.wait(lambda: [word.text for word in browser.find_all(".word.now")] == [text.split()[2]])
    browser.run("audio.pause(); audio.onseeking = () => { seconds.push(audio.currentTime); audio.pause(); }")

    # a place that is sought while nothing plays comes into sight
    browser.look(PHONE)
    strip = "document.querySelector('.transcript-strip')"
    browser.run(f"{strip}.scrollLeft = 0; audio.currentTime = 5")
    browser.wait(lambda: browser.run(f"return {strip}.scrollLeft + {strip}.clientWidth") > 500)
    assert browser.run("return audio.paused")
    browser.look()

    box = browser.run("return document.querySelector('.transcript-strip').getBoundingClientRect().toJSON()")
    scrolled = browser.run("return document.querySelector('.transcript-strip').scrollLeft")
    for kind in ("mousePressed", "mouseReleased"):
        where = {"x": box["x"] + 150, "y": box["y"] + 20}
        browser.command("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)
    browser.wait(lambda: browser.run("return seconds.at(-1)") == pytest.approx((150 + scrolled) / 100, abs=0.02))

    for link in browser.find_all(".transcript-files a"):
        link.click()
    browser.wait(lambda: {path.name for path in browser.downloads.glob("a.*")} == {"a.srt", "a.json"})
    assert (browser.downloads / "a.srt").read_text(encoding="utf-8") == "ä\n"
    assert json.loads((browser.downloads / "a.json").read_text()) == {"text": text}

    for width, dark in ((1200, False), (PHONE, True)):
        browser.open(tmp_path / "a.html", width, dark=dark)
        assert not browser.is_wider_than_window()
        colours = browser.run("const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]")
        brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours]
        assert (brightness[0] > brightness[1] + 400) if dark else (brightness[1] > brightness[0] + 400)
        browser.screenshot(f"transcript-{width}-{'dark' if dark else 'light'}")
    assert browser.errors() == browser.strangers() == []
