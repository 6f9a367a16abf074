"""Pages and their templates: what strangers wrote stays text, and nothing is loaded from elsewhere."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import jinja2
import pytest
from markupsafe import Markup

from hf_mlpl.pages.difference import difference
from hf_mlpl.pages.document import document, render
from hf_mlpl.pages.transcript import transcript_view

HOSTILE = """</title></script><script>alert(1)</script>"' onerror=alert(1) x='<img src=http://evil/>&amp;{{ 7 * 7 }}"""


class Elements(HTMLParser):
    """Collects tags with their attributes, and text outside scripts and styles."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.text, self.inside = [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.inside[-1:]):
            self.text += data


def test_what_strangers_wrote_stays_text():
    result = {
        "text": HOSTILE,
        "chunks": [{"text": word, "timestamp": (0.0, 1.0)} for word in HOSTILE.split()],
        "languages": [{"language": HOSTILE, "probability": 0.5}],
    }
    view = transcript_view(result, HOSTILE, 1.0, name=HOSTILE, spectrogram=[HOSTILE], downloads={HOSTILE: HOSTILE})
    page = document(HOSTILE, view + difference(HOSTILE, "x"))
    harmless = document("a", transcript_view(result | {"text": "a", "chunks": []}, "", 1.0, name="a"))
    scripts = [tag for tag in Elements(page).tags if tag[0] == "script"]
    assert scripts == [tag for tag in Elements(harmless).tags if tag[0] == "script"]
    assert not [name for _, attributes in Elements(page).tags for name in attributes if name.startswith("on")]
    assert Elements(page).text.count(HOSTILE) == 7  # title, heading, name, language, text, link, difference
    (audio,) = [attributes for tag, attributes in Elements(page).tags if tag == "audio"]
    assert audio["src"] == HOSTILE and audio["aria-label"] == f"Recording {HOSTILE}"


def test_a_page_runs_our_scripts_alone():
    """The content security policy has the hash of each script, as the CSP standard computes it."""
    page = document("a", Markup("<p>b</p>"), scripts=["console.log('é')"])
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert len(scripts) == 3 and scripts[2] == "console.log('é')"
    allowed = re.search("script-src([^;]*);", policy)[1].split()
    assert allowed == [
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    ]
    assert "default-src 'none'" in policy and "http" not in policy
    assert not re.search(r"""(?:src|href)=(?!"data:)|url\(|@import""", re.sub("<script>.*?</script>", "", page))


def test_values_that_are_missing_or_plain_are_refused(tmp_path):
    with pytest.raises(TypeError, match="body is str; pass Markup, from `render`"):
        document("a", "<p>b</p>")
    (tmp_path / "a.html").write_text("{{ known }}{{ missing }}")
    with pytest.raises(jinja2.UndefinedError, match="missing"):
        render(tmp_path / "a.html", known=1)
    (tmp_path / "b.html").write_text('{{ "<" }}{{ probability | percent }} {% include "difference.html" %}')
    assert "&lt;12\N{NO-BREAK SPACE}% " in render(tmp_path / "b.html", probability=0.12, parts=[])
