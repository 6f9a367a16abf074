"""Reads pages on label sets as a browser does: which labels they show, what is heard, and which filters they offer."""

import base64
import html
import io
import re
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import jiwer
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from huggingface_hub import HfApi

from hf_mlpl.atomic import write_json
from hf_mlpl.data.utterances import FEATURES, write_utterances
from hf_mlpl.labels import files as label_files
from hf_mlpl.labels.filtering import filter_labels
from hf_mlpl.labels.filters import read_filters
from hf_mlpl.labels.publishing import write_label_set
from hf_mlpl.labels.schema import LABEL_FEATURES, SCORES
from hf_mlpl.report import label_set
from hf_mlpl.report.clips import LEFT_OUT, LONGEST_SECONDS, left_out_line, read_clips
from hf_mlpl.report.label_set import label_set_report

from ..commands import run_command
from ..labels.test_filters import made_label

RATE, SECONDS = 16_000, 0.4
HOSTILE = """</script><script>alert(1)</script><img src=x onerror="alert(2)">'"""
COUNT = {"sl": 60, "ar": 5}
LOST = "u62"  # whose recording is missing


def pitch(number: int) -> float:
    """Returns the pitch of an utterance, in Hz."""
    return 400.0 + 30 * number


def tone(number: int, seconds: float = SECONDS) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * pitch(number) * np.arange(round(seconds * RATE)) / RATE)


@pytest.fixture(scope="module")
def made(tmp_path_factory, tone_corpus) -> Path:
    """Writes `labels/sl` and `labels/ar` as labelling does, and `unlabelled.parquet` with transcripts of sl alone.

    The labels of sl are parts of one recording, those of ar files, one of which is missing. Each has a tone of its
    own. The fewer blanks a label of sl has, the fewer errors; its other scores say nothing.
    """
    folder = tmp_path_factory.mktemp("made")
    soundfile.write(folder / "talk.wav", np.concatenate([tone(number) for number in range(COUNT["sl"])]), RATE)
    random, utterances = np.random.default_rng(0), []
    quality, order = random.permutation(COUNT["sl"]), random.permutation(COUNT["sl"])
    for language in COUNT:
        rows = []
        for number in range(COUNT["sl"] if language == "ar" else 0, COUNT["sl"] + (5 if language == "ar" else 0)):
            scores = dict.fromkeys(SCORES) | {"mean_log_prob": -number / 100}
            audio = {"path": str(folder / f"{number}.wav"), "start": None, "end": None}
            text, reference = "مرحبا", None
            if language == "sl":
                scores |= {"mean_log_prob": -float(order[number]) / 100, "blank_ratio": float(quality[number]) / 100}
                audio = {"path": str(folder / "talk.wav"), "start": number * SECONDS, "end": (number + 1) * SECONDS}
                reference = "a" * 60
                text = "b" * quality[number] + "a" * (60 - quality[number])
            elif f"u{number}" != LOST:
                soundfile.write(audio["path"], tone(number), RATE)
            if number == COUNT["sl"]:
                text = HOSTILE
            values = {"audio": audio, "language": language, "duration_seconds": SECONDS, "text": text}
            rows.append(made_label(number, **values, **scores, source="me/teacher@0123"))
            rows[-1]["predicted_language"] = None
            utterances.append({name: rows[-1][name] for name in FEATURES} | {"text": reference, "source": "reference"})
        write_utterances(rows, folder / "labels" / language / "labels.parquet", LABEL_FEATURES)
        counts = {"labels": len(rows), "empty": 0, "errors": 3, "hours": 1.0, "mean_log_prob": -1.0, "cer": None}
        content = {"teacher": "me/teacher@0123", "utterances": len(rows) + 3, "labels": len(rows), "errors": 3}
        source = {"name": "talks", "license": "cc0-1.0", "url": None}
        summary = content | {"languages": {language: counts}, "sources": [source]}
        write_json(folder / "labels" / language / "complete.json", summary)
    write_utterances(utterances, folder / "unlabelled.parquet")
    return folder


class Page(HTMLParser):
    """Reads a page: its `text`, its elements' names, and the lists of labels under their headings.

    Attributes:
        lists: for each list, the words of the heading.
        labels: for each list, ids, sources of sound and texts of its labels.
    """

    def __init__(self, content: str):
        super().__init__()
        content = str(content)  # Markup would escape what is added to its parts
        self.content, self.tags, self.text = content, [""], ""
        self.sources: dict[str, str] = {}
        self.feed(content)
        self.lists = {}
        for part in re.split(r'<h2 id="language-\d+">', content)[1:]:
            for found in part.split("<summary><h3>")[1:]:
                name = f"{part.split(chr(60))[0]}: {found.split('<')[0]}"
                self.lists[name] = [html.unescape(each) for each in re.findall(r"· ([^·<]*)</p>\n</li>", found)]

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        if tag == "audio":
            self.sources[values["aria-label"].removeprefix("recording of ")] = values["src"]

    def handle_data(self, data):
        if self.tags[-1] not in ("style", "script"):
            self.text += data

    def sound(self, name: str) -> tuple[np.ndarray, int]:
        return soundfile.read(io.BytesIO(base64.b64decode(self.sources[name].partition(",")[2])))


def loudest(samples: np.ndarray, rate: int) -> float:
    """Returns the frequency with most energy, in Hz."""
    return np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples)


def by_score(made: Path, language: str, score: str, reverse: bool) -> list[str]:
    rows = pq.read_table(made / "labels" / language / "labels.parquet").to_pylist()
    return [row["id"] for row in sorted(rows, key=lambda row: row[score], reverse=reverse)]


@pytest.fixture(scope="module")
def page(made) -> Page:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_files, "BLOCK", 7)
        return Page(label_set_report([made / "labels"], [made / "unlabelled.parquet"]))


def test_it_says_which_score_follows_the_errors(page, made):
    assert "orders labels by blank ratio, low values first" in page.text
    assert "Of all scores it follows the error rate best" in page.text
    assert "65 labels of < 0.01 hours of speech in 2 languages, by me/teacher@0123." in page.text
    assert "The speech is of talks (cc0-1.0)." in page.text
    assert "65 of the labels are of utterances that were named, and 60 are compared" in page.text
    rows = pq.read_table(made / "labels" / "sl" / "labels.parquet").to_pylist()
    cer = jiwer.cer(["a" * 60] * 60, [row["text"] for row in rows])
    assert re.search(rf'>sl</a></td><td class="number">60</td>.*<td class="number">{cer:.1%}</td></tr>', page.content)


def test_the_best_the_worst_and_some_labels_of_each_language(page, made):
    assert page.lists["sl: 20 best by blank ratio"] == by_score(made, "sl", "blank_ratio", False)[:20]
    assert page.lists["sl: 20 worst by blank ratio"] == by_score(made, "sl", "blank_ratio", True)[:20]
    assert len(set(page.lists["sl: 20 at random"])) == 20
    # ar has no blanks: another score orders its labels
    assert page.lists["ar: 3 best by mean log prob"] == ["u60", "u61", "u62"]
    assert page.lists["ar: 2 worst by mean log prob"] == ["u64", "u63"]
    assert sorted(page.lists["ar: 5 at random"]) == [f"u{number}" for number in range(60, 65)]


def test_each_label_has_its_own_sound(page):
    shown = {name for names in page.lists.values() for name in names}
    assert shown - page.sources.keys() == {LOST} and len(shown) > 40
    assert "no sound: 62.wav: no such file" in page.text and page.content.count("<audio") == len(shown) - 1
    for name in page.sources:
        samples, rate = page.sound(name)
        assert abs(loudest(samples, rate) - pitch(int(name[1:]))) < 12, name
        assert abs(len(samples) / rate - SECONDS) < 0.15


def test_strangers_texts_stay_texts(page):
    assert HOSTILE in page.text and page.tags.count("script") == 2 and "img" not in page.tags
    assert "onerror" not in [name for tag in re.findall(r"<audio[^>]*>", page.content) for name in tag.split()]
    assert "://" not in re.sub(r'xmlns="[^"]*"', "", page.content)
    assert '<p class="text" lang="ar" dir="auto">مرحبا</p>' in page.content


def test_its_filters_keep_what_it_says(page, made, tmp_path):
    offered = re.findall(r"<pre>(filter:\n  - [^<]*)</pre><p>keeps [\d.]+%: (\d+) labels", page.content)
    assert len(offered) == 2  # none keeps 95 %, because 8 % have no blanks
    paths = [made / "labels" / language / "labels.parquet" for language in COUNT]
    for text, kept in offered:
        (tmp_path / "filters.yaml").write_text(html.unescape(text))
        filter_labels(paths, read_filters(tmp_path / "filters.yaml"), tmp_path / "kept.parquet", allow_collapsed=True)
        assert pq.read_metadata(tmp_path / "kept.parquet").num_rows == int(kept) > 10
    command = f"hf-mlpl filter-labels {paths[1]} {paths[0]} --filters filters.yaml --output kept.parquet"
    assert command in html.unescape(page.content)


def test_label_sets_with_and_without_audio(made, tmp_path, no_pictures):
    for name in ("with", "without"):
        write_label_set(made / "labels" / "ar", "ar", tmp_path / name, with_audio=name == "with")
    page = Page(label_set_report([tmp_path / "with"]))
    assert page.sources.keys() == {f"u{number}" for number in range(60, 65)} - {LOST}
    assert abs(loudest(*page.sound("u63")) - pitch(63)) < 12
    assert f"hf-mlpl join-labels --labels {tmp_path / 'with'} --all --output labels.parquet" in page.content
    silent = Page(label_set_report([tmp_path / "without"]))
    assert not silent.sources and "--utterances names utterance files that have the audio" in silent.text
    named = Page(label_set_report([tmp_path / "without"], [made / "unlabelled.parquet"]))
    assert named.sources.keys() == page.sources.keys() and named.lists["ar: 3 best by mean log prob"] == [
        "u60",
        "u61",
        "u62",
    ]
    assert abs(loudest(*named.sound("u63")) - pitch(63)) < 12


def test_labels_of_anyone(made, tmp_path, no_pictures):
    """A table without scores, a language in the name of its folder, and a row that is no label."""
    (tmp_path / "set" / "sl").mkdir(parents=True)
    table = "id,text,duration\nu0,aaa,1\nu1,,2\nu2,aaab,long\n"
    (tmp_path / "set" / "sl" / "labels.csv").write_text(table)
    page = Page(label_set_report([tmp_path / "set"], [made / "unlabelled.parquet"]))
    assert "2 labels of < 0.01 hours" in page.text and "No label with a text has a score" in page.text
    assert "Rows that hold no label: 1." in page.text and "duration_seconds is 'long'" in page.text
    assert sorted(page.lists["sl: 2 at random"]) == ["u0", "u1"] and abs(loudest(*page.sound("u1")) - pitch(1)) < 12
    (tmp_path / "set" / "sl" / "labels.csv").write_text("id,text\nu0,aaa\n")
    with pytest.raises(ValueError, match="labels.csv: has no column duration_seconds; `hf-mlpl join-labels` makes"):
        label_set_report([tmp_path / "set"])


def test_a_damaged_summary_costs_a_line(made, tmp_path, no_pictures):
    path = tmp_path / "labels.parquet"
    path.write_bytes((made / "labels" / "ar" / "labels.parquet").read_bytes())
    (tmp_path / "complete.json").write_text("{")
    page = Page(label_set_report([tmp_path]))
    assert f"{tmp_path}/complete.json: damaged" in page.text and len(page.sources) == 4
    (tmp_path / "complete.json").unlink()
    assert "by me/teacher@0123." in Page(label_set_report([path])).text  # by the labels themselves
    (tmp_path / "job.json").write_text("{}")
    assert "labels of a job that is not complete" in Page(label_set_report([path])).text
    rows = pq.read_table(path)
    with pytest.raises(ValueError, match="no labels$"):
        pq.write_table(rows.slice(0, 0), path)
        label_set_report([path])
    nulls = pa.nulls(len(rows), pa.string())
    pq.write_table(rows.set_column(rows.column_names.index("language"), "language", nulls), path)
    with pytest.raises(ValueError, match="labels.parquet: has rows without language"):
        label_set_report([path])


def test_the_command(page, made, tmp_path, error_of, no_pictures):
    output = tmp_path / "report.html"
    assert run_command("report", made / "labels", "--languages", "ar", "--output", output) == 0
    alone = Page(output.read_text(encoding="utf-8"))
    assert list(alone.lists) == ["ar: 3 best by mean log prob", "ar: 2 worst by mean log prob", "ar: 5 at random"]
    assert alone.lists["ar: 5 at random"] == page.lists["ar: 5 at random"] and "sl" not in alone.text.split()
    assert "Without transcripts it is not known which score follows the error rate" in alone.text
    assert "heard above" in alone.text and len(alone.sources) == 4  # a label that is shown twice is heard once
    assert error_of("report", made / "labels", "--languages", "fi").endswith("no labels of fi; there are ar, sl")
    assert "no such file or folder" in error_of("report", made / "lables")


def test_a_set_on_the_hub(made, tmp_path, local_hub, quick_retries, error_of, no_pictures):
    for language in COUNT:
        write_label_set(made / "labels" / language, language, tmp_path / "set", with_audio=language == "ar")
    HfApi().create_repo("me/labels", repo_type="dataset")
    HfApi().upload_folder(folder_path=tmp_path / "set", repo_id="me/labels", repo_type="dataset")
    output = tmp_path / "report.html"
    assert run_command("report", "me/labels", "--languages", "ar", "--output", output) == 0
    page = Page(output.read_text(encoding="utf-8"))
    assert "Pseudo-labels: me/labels" in page.text and abs(loudest(*page.sound("u64")) - pitch(64)) < 12
    assert "hf-mlpl join-labels --labels me/labels --all --output labels.parquet" in page.text
    assert not [request for request in local_hub.requests if "sl/" in request.path and request.method == "GET"]
    assert "me/lost: is no file and no folder" in error_of("report", "me/lost", "--output", output)


def test_languages_of_any_name(tmp_path, no_pictures):
    names = ["all languages", "errors", 'a "b" <i>', "日本"]
    rows = [
        made_label(number, language=name, text=f"{number}", blank_ratio=0.1 * number)
        for number, name in enumerate(names)
    ]
    write_utterances(rows, tmp_path / "labels.parquet", LABEL_FEATURES)
    page = label_set_report([tmp_path / "labels.parquet"])
    links = dict(re.findall(r'<a href="#(language-\d)">([^<]*)</a>', page))
    assert links == dict(re.findall(r'<h2 id="(language-\d)">([^<]*)</h2>', page))
    assert list(map(html.unescape, links.values())) == sorted(names)
    assert "<h2>all languages</h2>" in page and "<i>" not in page


def test_pages_with_little_room(made, tmp_path, monkeypatch, no_pictures):
    """They leave out sound, then labels, then languages, and say so."""
    for language in COUNT:
        rows = pq.read_table(made / "labels" / language / "labels.parquet", columns=["id", "text", "duration_seconds"])
        (tmp_path / language).mkdir()
        pq.write_table(rows, tmp_path / language / "labels.parquet")  # without scores, so without pictures
    report = partial(label_set_report, [tmp_path], [made / "unlabelled.parquet"])
    whole = Page(report())
    assert len(whole.sources) == 24 and len(whole.lists["sl: 20 at random"]) == 20
    silent = re.sub('src="data:[^"]*"', "", whole.content)
    pages = {}
    for size in (len(whole.content) - 10_000, len(silent) - 3_000, 1):
        monkeypatch.setattr(label_set, "PAGE_BYTES", size)
        pages[size] = Page(report())
        assert len(pages[size].content.encode()) <= size or size == 1  # no page is as small as that
    loud, short, empty = pages.values()
    assert 15 < len(loud.sources) < 24 and len(loud.lists["sl: 20 at random"]) == 20
    assert f"{len(loud.sources)} of 25 recordings can be heard. Missing or unreadable: 1." in loud.text
    assert 0 < max(map(len, short.lists.values())) <= 10
    assert not empty.lists and "has no room for each of 2 languages" in empty.text


def test_clips_within_the_room_of_a_page(made, tmp_path):
    rows = [{"path": str(made / "talk.wav"), "start": number, "end": number + 1.0} for number in range(6)]
    [size] = {len(clip.source) for clip in read_clips(rows, 10**6)}
    missing = {"path": str(tmp_path / "missing.wav")}
    clips = read_clips([missing, None, *rows, missing], 3 * size)
    assert [len(clip.source or "") for clip in clips] == [0, 0, size, size, size, 0, 0, 0, 0]
    assert clips[0].problem == "missing.wav: no such file" and clips[1].problem == "no recording is known"
    assert clips[5:] == [LEFT_OUT] * 4  # the last one is not even looked for
    assert left_out_line(clips) == (
        "3 of 9 recordings can be heard. Missing or unreadable: 2. No room on this page: 4."
    )
    assert left_out_line(clips[2:5]) is None
    soundfile.write(tmp_path / "long.wav", tone(1, LONGEST_SECONDS + 5), RATE)
    [clip] = read_clips([{"path": str(tmp_path / "long.wav")}], 10**6)
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(clip.source.partition(",")[2])))
    assert clip.is_cut and abs(len(samples) / rate - LONGEST_SECONDS) < 0.2


@pytest.mark.slow
def test_in_a_browser(page, tmp_path, browser):
    path = tmp_path / "labels.html"
    path.write_text(page.content, encoding="utf-8")
    for name, width, dark in (("desktop", 1200, False), ("phone", 390, True)):
        browser.open(path, width, dark=dark)
        browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
        browser.screenshot(f"label-set-{name}")
        assert not browser.is_wider_than_window() and not browser.errors() and not browser.strangers()
        browser.find("h1").click()  # a page plays nothing before
        browser.run("document.querySelector('audio').play()")
        browser.wait(lambda: browser.run("return document.querySelector('audio').currentTime > 0.1"))
