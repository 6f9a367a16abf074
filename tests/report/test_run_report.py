"""Reports of runs: numbers are those of the files, texts of strangers stay texts, and pages stay small."""

import base64
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from markupsafe import Markup

from hf_mlpl.cli.main import main
from hf_mlpl.evaluation import differences, scoring
from hf_mlpl.evaluation.hypotheses import HYPOTHESIS_FEATURES, write_hypotheses
from hf_mlpl.evaluation.results import rates_alone, read_results
from hf_mlpl.evaluation.scoring import score
from hf_mlpl.pages.document import document
from hf_mlpl.report import evaluations, run
from hf_mlpl.report.comparison import comparison_report
from hf_mlpl.report.run import run_report, write_run_report

HOSTILE = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Collects texts, headings, cells of tables, audio and the tags of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.sounds: list[str] = []
        self.text, self.open, self.ids = "", [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.open.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        assert not [name for name in attributes if name.startswith("on")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "audio":
            self.sounds.append(attributes["src"])

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data
            if {"td", "th"} & set(self.open):
                self.rows[-1][-1] += data.strip()

    def row(self, name: str, cells: int) -> list[str]:
        return next(row for row in self.rows if row[0] == name and len(row) == cells)


@pytest.fixture
def copied(tone_run, tmp_path, monkeypatch) -> Path:
    """Returns a copy of a finished run, with texts and names of a stranger; its 8 utterances a language are enough."""
    for module in (evaluations, scoring, differences):
        monkeypatch.setattr(module, "FEWEST_SAMPLED", 8)
    folder = tmp_path / "run"
    shutil.copytree(tone_run, folder, ignore=shutil.ignore_patterns("checkpoints", "model", "report.html"))
    (folder / "model").mkdir()
    results = json.loads((folder / "results.json").read_text())
    rows = pq.read_table(folder / "results.hypotheses.parquet").to_pylist()
    for row in rows[::2]:
        row["hypothesis"] += HOSTILE
    results |= {"sources": [{"name": HOSTILE}], **score(rows)}
    (folder / "results.json").write_text(json.dumps(results))
    write_hypotheses(rows, folder / "results.hypotheses.parquet")
    return folder


def test_the_page_of_a_run(copied, tone_run):
    html = run_report(copied)
    page, results = Page(html), read_results(copied / "results.json")
    assert HOSTILE not in html and HOSTILE in page.text
    assert page.tags.count("script") == document("", Markup()).count("<script>")
    assert len(page.ids) == len(set(page.ids))
    for language, scores in results["languages"].items():
        cells = page.row(language, 8)
        for cell, rates in ((cells[3], scores), (cells[6], scores["normalized"])):
            rate, low, high = (float(part) for part in cell.replace("(", " ").replace("–", " ").strip(")").split())
            assert rate == round(100 * rates["cer" if rates is scores else "wer"], 1) and low <= rate <= high
            assert low < high
        assert cells[1] == f"{scores['utterances']}" and cells[7] == f"{100 * scores['language_accuracy']:.1f}"
        kinds = page.row(language, 9)
        units = [(unit, kind) for unit in ("characters", "words") for kind in scores["edits"][unit]]
        assert kinds[1:7] == [f"{100 * scores['edits'][unit][kind] / scores[unit]:.1f}" for unit, kind in units]
    assert page.row("weighted by hours", 8)[3].startswith(f"{100 * results['by_hours']['cer']:.1f}")
    assert page.row("macro average", 8)[3].startswith(f"{100 * results['macro']['cer']:.1f}")
    rows = pq.read_table(copied / "results.hypotheses.parquet").to_pylist()
    wrong = [row for row in rows if row["edits"]]
    assert len(page.sounds) == len(wrong) and all(s.startswith("data:audio/mpeg;base64,") for s in page.sounds)
    assert all(row["id"] in page.text for row in wrong)
    titles = ("Training loss", "CER on dev", "WER on dev", "Learning rate", "Speed", "Norm of the gradient")
    assert all(title in page.text for title in titles) and page.tags.count("svg") >= len(titles) + 1
    record = json.loads((copied / "run.json").read_text())
    assert f"finished, {record['updates']} of {record['updates']} updates" in page.text
    assert record["sessions"][0]["hardware"] in page.text


def test_sound_is_that_of_the_utterance(copied, no_pictures):
    import io

    import soundfile

    from hf_mlpl.audio.reading import load_audio

    rows = pq.read_table(copied / "results.hypotheses.parquet").to_pylist()
    by_turns = run.by_turns(list(run.read_runs([copied])[0].evaluations[0].worst().values()))
    first, source = next(by_turns), Page(run_report(copied)).sounds[0]
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    expected = load_audio(next(row["audio"] for row in rows if row["id"] == first["id"]), rate)
    assert len(samples) == pytest.approx(len(expected), abs=0.15 * rate)
    peaks = [np.abs(np.fft.rfft(each[:4000])).argmax() for each in (samples, expected)]
    assert peaks[0] == pytest.approx(peaks[1], abs=2)  # the same tone


def test_a_page_says_what_is_missing(copied, no_pictures, monkeypatch):
    (copied / "results.hypotheses.parquet").rename(copied / "elsewhere.parquet")
    page = Page(run_report(copied))
    command = f"hf-mlpl evaluate --model {copied}/model --data"
    assert "Its transcripts were not kept." in page.text and command in page.text and not page.sounds
    (copied / "results.hypotheses.parquet").write_bytes(b"PAR1")
    assert "Its transcripts cannot be used: " in Page(run_report(copied)).text
    (copied / "elsewhere.parquet").rename(copied / "results.hypotheses.parquet")
    rows = pq.read_table(copied / "results.hypotheses.parquet").to_pylist()
    for row in rows:
        row["audio"]["path"], row["error"] = "/secret/folder/lost.wav", "/secret/folder/lost.wav: no such file"
    write_hypotheses(rows, copied / "results.hypotheses.parquet")
    page = Page(run_report(copied))
    assert not page.sounds and "lost.wav" in page.text and "/secret" not in page.text and "unreadable: " in page.text
    # going on: no model, no evaluation, and a row that is being written
    shutil.rmtree(copied / "model")
    (copied / "results.json").unlink()
    lines = (copied / "metrics.jsonl").read_text().splitlines()
    (copied / "metrics.jsonl").write_text("\n".join([*(line for line in lines[:4] if '"dev"' not in line), '{"upd']))
    (copied / "run.json").write_text(json.dumps(json.loads((copied / "run.json").read_text()) | {"updates": 2}))
    text = Page(run_report(copied)).text
    assert (
        "not finished: " in text and "not been evaluated on a development set yet" in text and "that are left" in text
    )
    (copied / "metrics.jsonl").unlink()
    record = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps(record | {"updates": 0}))
    text = Page(run_report(copied)).text
    assert "There are no numbers yet" in text and "not come to its first save point yet" in text


def test_a_page_has_as_much_as_there_is_room_for(copied, no_pictures, monkeypatch):
    whole = run_report(copied)
    without = len(whole) - sum(len(sound) for sound in Page(whole).sounds)
    monkeypatch.setattr(run, "PAGE_BYTES", without + sum(map(len, Page(whole).sounds[:4])) + 1000)
    page = Page(some := run_report(copied))
    assert 3 <= len(page.sounds) < len(Page(whole).sounds) and "no room" in page.text
    assert len(some.encode()) < run.PAGE_BYTES + 5000
    monkeypatch.setattr(run, "PAGE_BYTES", without - 2_000)
    few = run_report(copied)
    assert len(few) < without and "Up to 20 utterances" not in few


def test_results_belong_to_the_run(copied, tone_data, tone_run, error_of, tmp_path, capfd, no_pictures):
    data = ["--data", tone_data / "train.parquet", "--languages", "de"]
    output = tmp_path / "test.json"
    assert main(["evaluate", "--model", str(tone_run / "model"), *map(str, data), "--output", str(output)]) == 0
    pages = tmp_path / "page.html"
    assert main(["report", str(tone_run), "--results", str(output), "--output", str(pages)]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == f"report: {pages}"
    html = pages.read_text()
    titles = re.findall("<h2>Results: (.*)</h2>", html)
    assert ["train" in title for title in titles] == [True, False] and titles[1] == "dev.parquet, the development set"
    results = json.loads(output.read_text()) | {"revision": "run/model@0123456789ab"}
    output.write_text(json.dumps(results))
    assert "are not of" in error_of("report.py", tone_run, "--results", output)
    assert "no such file of results" in error_of("report.py", tone_run, "--results", tmp_path / "gone.json")
    output.write_text(json.dumps(results | {"model": "elsewhere/model"}))
    assert "has results of elsewhere/model; " in error_of("report.py", tone_run, copied, "--results", output)


def test_what_is_no_run_is_refused(error_of, tmp_path, copied):
    assert "no such file or folder" in error_of("report.py", tmp_path / "none")
    record = json.loads((copied / "run.json").read_text())
    for name in ("sessions", "sources"):
        (copied / "run.json").write_text(json.dumps(record | {name: [{"name": "x"}]}))
        assert f"run.json: {name} is [{{'name': 'x'}}]; it must be a list of objects" in error_of("report.py", copied)
    (copied / "config.yaml").unlink()
    assert "has no config.yaml" in error_of("report.py", copied)
    (tmp_path / "x.json").write_text("[]")
    assert "x.json: holds []" in error_of("report.py", tmp_path / "x.json")
    assert "given more than once" in error_of("report.py", tmp_path / "x.json", tmp_path / "x.json")
    assert "report one kind at a time" in error_of("report.py", tmp_path / "x.json", tmp_path)


def test_a_report_never_fails_a_finished_run(copied, caplog, no_pictures, monkeypatch):
    assert write_run_report(copied) == copied / "report.html"
    written = (copied / "report.html").stat().st_mtime_ns
    assert write_run_report(copied) and (copied / "report.html").stat().st_mtime_ns == written  # not twice
    os.utime(copied / "run.json", (2**32, 2**32))
    monkeypatch.setattr(run, "SOUND_BYTES", 10_000)
    page = Page(write_run_report(copied).read_text())
    assert 0 < len(page.sounds) < 8 and "No room on this page: " in page.text
    assert f"hf-mlpl report {copied} makes a page with as many as 10 MB hold" in page.text
    assert "makes a page with" not in Page(run_report(copied)).text
    os.utime(copied / "run.json", (2**32 + 9, 2**32 + 9))
    (copied / "metrics.jsonl").write_bytes(b"\0\n")
    assert write_run_report(copied) is None
    [message] = caplog.messages
    assert "no report was written" in message and "metrics.jsonl is damaged" in message and "\n" not in message


def test_two_runs_side_by_side(copied, tone_run, tmp_path, no_pictures):
    config = (copied / "config.yaml").read_text().replace("learning_rate: ", "learning_rate: 1")
    (copied / "config.yaml").write_text(config)
    html = comparison_report([tone_run, copied])
    page, runs = Page(html), [read_results(path / "results.json") for path in (tone_run, copied)]
    assert HOSTILE not in html and len(page.ids) == len(set(page.ids))
    names = ["data/run", f"{tmp_path.name}/run"]
    assert all(name in page.text for name in names)
    assert page.row("learning_rate", 3)[1] != page.row("learning_rate", 3)[2] and "Seeds of the runs" not in page.text
    for language in (*runs[0]["languages"], "macro average"):
        cers = [r["macro"]["cer"] if language == "macro average" else r["languages"][language]["cer"] for r in runs]
        cells = page.row(language, 5)
        assert [cell.partition(" ")[0] for cell in cells[1:3]] == [f"{100 * cer:.1f}" for cer in cers]
        # half of the transcripts became worse, and none better: the paired interval does not contain zero
        assert cells[3].startswith(f"{100 * (cers[1] - cers[0]):+.1f}") and cells[3].endswith("✓")
    assert "has made worse most" in page.text and "has improved most" not in page.text
    assert len(page.sounds) == 8  # half of 16
    # and results alone, of which one has no transcripts
    shutil.copy(tone_run / "results.json", tmp_path / "a.json")
    text = Page(comparison_report([tmp_path / "a.json", copied])).text
    assert "it has no interval" in text
    # a file of the same name with other utterances is other data
    results = json.loads((tmp_path / "a.json").read_text())
    next(iter(results["languages"].values()))["utterances"] += 1
    (tmp_path / "a.json").write_text(json.dumps(results))
    assert "no results on the same data" in Page(comparison_report([tmp_path / "a.json", copied])).text


def made_results(path: Path, edits: dict[str, list[int]]) -> Path:
    """Writes results with transcripts, of utterances of 10 characters, of which so many are wrong."""
    rows = [
        dict.fromkeys(HYPOTHESIS_FEATURES)
        | {"id": f"{language}-{number}", "language": language, "duration_seconds": 1.0, "predicted_language": language}
        | {"text": "e\u0301" + "a" * 9, "hypothesis": "b" * count + "\u00e9aaaaaaaaa"[count:]}
        for language, counts in edits.items()
        for number, count in enumerate(counts)
    ]
    path.write_text(json.dumps(score(rows) | {"data": ["test.parquet"]}))
    write_hypotheses(rows, path.with_suffix(".hypotheses.parquet"))
    return path


@pytest.mark.filterwarnings("error")
def test_languages_of_few_utterances_and_of_any_name(tmp_path):
    hostile = "a \"b\" <i>'c'</i> & $x$ \x01 日本 " + "d" * 99
    edits = {"sl": [1, 0] * 6, "fi": [0] * 12, "de": [3], hostile: [2]}
    html = run_report(made_results(tmp_path / "test.json", edits))
    page = Page(html)
    cells = {name: page.row(name, 8)[3] for name in (*edits, "macro average")}
    assert cells.pop("sl") == "5.0(2.5–7.5)"  # quantiles of the binomial distribution of 12 and 1/2: 3 and 9
    # one utterance says nothing of others, and no error does not mean that there never is one
    assert cells == {"fi": "0.0", "de": "30.0", hostile: "20.0", "macro average": "13.8"}
    assert f"CER {20:.1f} %" in page.text and "<i>" not in html and len(page.ids) == len(set(page.ids))
    assert "<del>" not in html.split("<h4>sl")[1].split("b</ins>")[1][:20]  # é is the same in both forms
    page = Page(run_report(made_results(tmp_path / "test.json", {"macro average": [4], "sl": [0]})))
    assert [row[3] for row in page.rows if row[0] == "macro average" and len(row) == 8] == ["40.0", "20.0"]


def test_results_of_older_versions(tmp_path, no_pictures):
    """Their intervals come from the transcripts, which lack the columns of today, too."""
    path = made_results(tmp_path / "test.json", {"sl": [1, 0] * 6, "fi": [0] * 12})
    results = rates_alone(json.loads(path.read_text())) | {"data": ["test.parquet"]}
    path.write_text(json.dumps(results))
    transcripts = tmp_path / "test.hypotheses.parquet"
    table = pq.read_table(transcripts)
    columns = [name for name in table.column_names if name != "speaker" and not name.startswith("normalized_")]
    pq.write_table(table.select(columns), transcripts)
    page = Page(run_report(path))
    assert page.row("sl", 6)[3] == "5.0(2.5–7.5)" and page.row("macro average", 6)[3].startswith("2.5(")
    assert "Kinds of errors" not in page.text and "ormalised" not in page.text and "weighted" not in page.text
    shutil.copy(path, tmp_path / "later.json")
    shutil.copy(transcripts, tmp_path / "later.hypotheses.parquet")
    page = Page(comparison_report([path, tmp_path / "later.json"]))
    assert page.row("sl", 5)[1] == "5.0 (2.5–7.5)" and page.row("sl", 5)[3] == "+0.0 (+0.0 to +0.0)"
    results["languages"]["fi"]["cer"], results["macro"]["cer"] = None, results["languages"]["sl"]["cer"]
    path.write_text(json.dumps(results))
    page = Page(run_report(path))  # the average is of the languages that have a rate
    assert page.row("fi", 6)[3] == "–" and page.row("macro average", 6)[3] == page.row("sl", 6)[3]


def test_pages_say_which_results_are_of_beam_search(tmp_path, no_pictures):
    paths = [tmp_path / f"{name}.json" for name in ("greedy", "other", "searched")]
    greedy, other, searched = (made_results(path, {"sl": [1, 0] * 6}) for path in paths)
    lm = {"name": "lm-0123456789ab-w0.8-b50", "files": {"sl": "sl.arpa"}, "lm_weight": 0.8, "word_score": 0.0}
    results = json.loads(searched.read_text()) | {"lm": lm | {"beam_size": 50}}
    searched.write_text(json.dumps(results))
    line = "beam search with language models, weight 0.8"
    assert Page(run_report(searched)).text.count(line) == 2 and line not in Page(run_report(greedy)).text
    assert f"Not all transcripts are greedy. searched: {line}." in Page(comparison_report([greedy, searched])).text
    assert line not in Page(comparison_report([greedy, other])).text


def test_seeds_side_by_side(copied, tone_run, tmp_path, no_pictures):
    config = (copied / "config.yaml").read_text()
    (copied / "config.yaml").write_text(re.sub("^seed: .*", "seed: 99", config, flags=re.MULTILINE))
    page = Page(comparison_report([tone_run, copied]))
    assert page.row("seed", 3)[2] == "99" and "hf-mlpl compare shows the means of runs" in page.text
    assert f"The change is that from data/run to {tmp_path.name}/run;" in page.text
    # a run, and a file of its name beside it
    shutil.copy(copied / "results.json", tmp_path / "run.json")
    assert [each.name for each in run.read_runs([copied, tmp_path / "run.json"])] == ["run", "run.json"]


@pytest.mark.slow
def test_the_page_in_a_browser(copied, browser, tmp_path):
    """It fits a telephone, loads nothing, runs no script of strangers, and its sounds play."""
    page = tmp_path / "page.html"
    page.write_text(run_report(copied))
    for width, dark in ((390, True), (1200, False)):
        browser.open(page, width, dark=dark)
        assert not browser.is_wider_than_window() and not browser.errors() and not browser.strangers()
        browser.screenshot(f"run-report-{width}")
    colours = [browser.run("return getComputedStyle(document.querySelector('svg text')).fill")]
    browser.look(dark=True)
    colours.append(browser.run("return getComputedStyle(document.querySelector('svg text')).fill"))
    assert colours[0] != colours[1]  # the text of pictures follows the page
    browser.find("h1").click()  # sounds play after the reader has done something
    browser.run("window.heard = document.querySelector('audio'); window.heard.play()")
    assert browser.wait(lambda: browser.run("return heard.currentTime > 0 && heard.duration"), 20) > 0.1
    other = copied.rename(tmp_path / "other")
    shutil.copytree(other, copied)
    page.write_text(comparison_report([copied, other]))
    browser.open(page, 390)
    assert not browser.is_wider_than_window() and not browser.errors()
