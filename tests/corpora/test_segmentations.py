"""Segmentations beside recordings: eaf of ELAN, TextGrid of Praat, WebVTT, SubRip and RTTM become utterances."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from praatio import textgrid as praatio
from pympi import Eaf

from hf_mlpl.cli.main import main
from hf_mlpl.corpora.listing import state_of
from hf_mlpl.corpora.readers.folders import read_folder
from hf_mlpl.corpora.readers.lists import read_list
from hf_mlpl.corpora.reading import ReadingReport
from hf_mlpl.data.utterances import read_utterances
from hf_mlpl.inference.subtitles import to_srt, to_vtt
from hf_mlpl.inference.tiers import Interval, to_textgrid
from hf_mlpl.installation import install_command

RATE = 8_000


def record(path: Path, seconds: float = 10.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, size=round(seconds * RATE))
    soundfile.write(path, noise.astype(np.float32), RATE)
    return path


def read(root: Path, report: ReadingReport | None = None, **settings) -> list[tuple]:
    rows = read_folder(root, report or ReadingReport(), "sl", **settings)
    return [(row["audio"]["start"], row["audio"]["end"], row["text"], row["speaker"]) for row in rows]


def only_line(root: Path, **settings) -> str:
    """Returns the report's line about the one row that is left out."""
    report = ReadingReport()
    assert read(root, report, **settings) == [] and report.read == 1
    (line,) = report.lines
    return line


# ---- Praat

# Praat's manual, "TextGrid file formats": the example of the full text format, and the same in the shortest one.
MINIMAL = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0 
xmax = 2.3 
tiers? <exists> 
size = 3 
item []: 
    item [1]:
        class = "IntervalTier" 
        name = "Mary" 
        xmin = 0 
        xmax = 2.3 
        intervals: size = 3 
        intervals [1]:
            xmin = 0 
            xmax = 0.7 
            text = "" 
        intervals [2]:
            xmin = 0.7 
            xmax = 1.6 
            text = "hi everyone, \u201cha\u201d ""said"" he
to Zo\u00eb" 
        intervals [3]:
            xmin = 1.6 
            xmax = 2.3 
            text = " " 
    item [2]:
        class = "IntervalTier" 
        name = "John" 
        xmin = 0 
        xmax = 2.3 
        intervals: size = 1 
        intervals [1]:
            xmin = 0 
            xmax = 2.3 
            text = "" 
    item [3]:
        class = "TextTier" 
        name = "bell" 
        xmin = 0 
        xmax = 2.3 
        points: size = 1 
        points [1]:
            number = 1.2 
            mark = "ding" 
"""  # noqa: W291 - Praat writes these spaces
SHORT = """"ooTextFile"
"TextGrid"
0 2.3 ! the time domain
<exists>
3 tiers
"IntervalTier" "Mary" 0 2.3 3 intervals coming
0 0.7 ""
0.7 1.6 "hi everyone, \u201cha\u201d ""said"" he
to Zo\u00eb"
1.6 2.3 " "
"IntervalTier" "John" 0 2.3 1 0 2.3 ""
"TextTier" "bell" 0 2.3 1 1.2 "ding"
"""
SAID = 'hi everyone, \u201cha\u201d "said" he to Zo\u00eb'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("content", [MINIMAL, SHORT])
def test_textgrids_in_every_form(tmp_path, content, encoding):
    record(tmp_path / "a.wav", 2.3)
    (tmp_path / "a.TextGrid").write_bytes(content.replace("\n", "\r\n").encode(encoding))
    report = ReadingReport()
    assert read(tmp_path, report) == [(0.7, 1.6, SAID, None)]
    assert report.summary() == "1 rows read, 1 kept" and not report.lines
    assert only_line(tmp_path, tiers=["bell"]).endswith(
        "tier bell has points, which are no intervals; there are Mary, John"
    )
    assert only_line(tmp_path, tiers=["Ann"]).endswith("a.TextGrid: no tier Ann; there are Mary, John")


# Praat 6.1 reads each as the text of one interval. Readers that search for words in the file find other tiers in it.
LABELS = [
    "see item [2] here",
    "intervals [2]: x",
    'class = "IntervalTier"',
    "a! b",
    "ooTextFile short",
    "text = 5",
    "<exists>",
]


def test_labels_that_look_like_the_format(tmp_path):
    record(tmp_path / "a.wav", 4.0)
    for label in LABELS:
        content = MINIMAL.replace('"hi everyone', '"' + label.replace('"', '""') + " hi everyone")
        (tmp_path / "a.TextGrid").write_text(content)
        assert read(tmp_path) == [(0.7, 1.6, f"{label} {SAID}", None)]
    (tmp_path / "a.TextGrid").write_text(MINIMAL.replace("hi everyone", 'B\\a""r'))
    assert "letters as Praat's symbols: '\\\\a\"'; use Convert to Unicode in Praat" in only_line(tmp_path)
    (tmp_path / "a.TextGrid").write_text(MINIMAL.replace("1.6", "0.70000000000001"))  # as programs that shift borders
    assert only_line(tmp_path).endswith("a.TextGrid:Mary:2: not a part of a recording: it starts and ends at 0.7 s")


def test_textgrids_of_praatio(tmp_path):
    """Two people who speak at once, as another program writes them."""
    record(tmp_path / "a.wav")
    grid = praatio.Textgrid()
    spoken = {"ana": [(0.5, 2.25, "ena dva"), (3.0, 4.0, "tri")], "ben": [(1.0, 2.0, 'rekel je "da"')]}
    for name, entries in spoken.items():
        grid.addTier(praatio.IntervalTier(name, entries, 0, 10))
    expected = [(start, end, text, name) for name, entries in spoken.items() for start, end, text in entries]
    for form in ("long_textgrid", "short_textgrid"):
        grid.save(str(tmp_path / "a.TextGrid"), form, includeBlankSpaces=True)
        assert read(tmp_path, tiers=["ana", "ben"]) == expected
        assert read(tmp_path, tiers=["ben"]) == [(1.0, 2.0, 'rekel je "da"', None)]
        assert only_line(tmp_path).endswith("has the tiers ana, ben; choose by --tier which of them are read")


def test_damaged_textgrids_cost_their_recording(tmp_path):
    record(tmp_path / "b.wav").with_suffix(".txt").write_text("dober dan")
    path = record(tmp_path / "a.wav").with_suffix(".TextGrid")
    contents = {
        b"ooBinaryFile\x08TextGrid\0": "is a binary file of Praat; save it as text file",
        MINIMAL[:700].encode(): "is damaged: there is its end instead of a number",
        MINIMAL.replace("= 0.7", "= x").encode(): 'there is "" instead of a number',
        MINIMAL.replace('"TextGrid"', '"Pitch 1"').encode(): "is no TextGrid, but another file of Praat",
        b"\xff\xfe" + b"a": "truncated data; --encoding names its encoding",
        b"": "there is its end instead of a text",
        SHORT.replace("3 tiers", "1e999").encode(): "it has the number inf",
    }
    for content, message in contents.items():
        path.write_bytes(content)
        report = ReadingReport()
        assert read(tmp_path, report) == [(None, None, "dober dan", None)]
        assert report.dropped == {"segmentation cannot be read": 1} and report.read == 2
        assert f"{path}: " in report.lines[0] and message in report.lines[0], report.lines


# ---- ELAN

# The layout of ELAN 5 and later, by "EAF Annotation Format" 3.0: a tier for each speaker, with words, a gloss of each
# word and a translation below it, slots without a time, and a sound that begins half a second before the film.
EAF = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" DATE="2020-03-13T10:43:59+12:00" FORMAT="3.0" VERSION="3.0"
    xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
    xsi:noNamespaceSchemaLocation="http://www.mpi.nl/tools/elan/EAFv3.0.xsd">
    <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">
        <MEDIA_DESCRIPTOR MEDIA_URL="file:///U:/some/film.mp4" MIME_TYPE="video/mp4" RELATIVE_MEDIA_URL="./film.mp4"/>
        <MEDIA_DESCRIPTOR MEDIA_URL="file:///U:/some%20where/s%C3%B3und.wav" MIME_TYPE="audio/x-wav"
            RELATIVE_MEDIA_URL="../s%C3%B3und.wav" TIME_ORIGIN="500"/>
        <PROPERTY NAME="lastUsedAnnotationId">250</PROPERTY>
    </HEADER>
    <TIME_ORDER>
        <TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="0"/>
        <TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="820"/>
        <TIME_SLOT TIME_SLOT_ID="ts3"/>
        <TIME_SLOT TIME_SLOT_ID="ts4" TIME_VALUE="1899"/>
        <TIME_SLOT TIME_SLOT_ID="ts5" TIME_VALUE="2911"/>
    </TIME_ORDER>
    <TIER ANNOTATOR="RF" LINGUISTIC_TYPE_REF="utterance" PARTICIPANT="Max" TIER_ID="M-Spch">
        <ANNOTATION>
            <ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
                <ANNOTATION_VALUE>yeah &amp; no</ANNOTATION_VALUE>
            </ALIGNABLE_ANNOTATION>
        </ANNOTATION>
        <ANNOTATION>
            <ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="ts4" TIME_SLOT_REF2="ts5">
                <ANNOTATION_VALUE></ANNOTATION_VALUE>
            </ALIGNABLE_ANNOTATION>
        </ANNOTATION>
    </TIER>
    <TIER LINGUISTIC_TYPE_REF="words" PARENT_REF="M-Spch" TIER_ID="M-Words">
        <ANNOTATION>
            <REF_ANNOTATION ANNOTATION_ID="a5" ANNOTATION_REF="a1" PREVIOUS_ANNOTATION="a4">
                <ANNOTATION_VALUE>no</ANNOTATION_VALUE>
            </REF_ANNOTATION>
        </ANNOTATION>
        <ANNOTATION>
            <REF_ANNOTATION ANNOTATION_ID="a4" ANNOTATION_REF="a1">
                <ANNOTATION_VALUE>yeah</ANNOTATION_VALUE>
            </REF_ANNOTATION>
        </ANNOTATION>
    </TIER>
    <TIER LINGUISTIC_TYPE_REF="gloss" PARENT_REF="M-Words" TIER_ID="M-Gloss">
        <ANNOTATION>
            <REF_ANNOTATION ANNOTATION_ID="a6" ANNOTATION_REF="a4">
                <ANNOTATION_VALUE>AFF</ANNOTATION_VALUE>
            </REF_ANNOTATION>
        </ANNOTATION>
    </TIER>
    <TIER LINGUISTIC_TYPE_REF="parts" PARENT_REF="M-Spch" TIER_ID="M-Parts">
        <ANNOTATION>
            <ALIGNABLE_ANNOTATION ANNOTATION_ID="a7" TIME_SLOT_REF1="ts2" TIME_SLOT_REF2="ts3">
                <ANNOTATION_VALUE>y</ANNOTATION_VALUE>
            </ALIGNABLE_ANNOTATION>
        </ANNOTATION>
    </TIER>
    <TIER LINGUISTIC_TYPE_REF="utterance" PARTICIPANT="Agent 99" TIER_ID="A-Spch">
        <ANNOTATION>
            <ALIGNABLE_ANNOTATION ANNOTATION_ID="a3" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
                <ANNOTATION_VALUE>Oh,
max</ANNOTATION_VALUE>
            </ALIGNABLE_ANNOTATION>
        </ANNOTATION>
    </TIER>
    <TIER LINGUISTIC_TYPE_REF="utterance" TIER_ID="empty"/>
    <LINGUISTIC_TYPE GRAPHIC_REFERENCES="false" LINGUISTIC_TYPE_ID="utterance" TIME_ALIGNABLE="true"/>
    <LINGUISTIC_TYPE CONSTRAINTS="Symbolic_Subdivision" LINGUISTIC_TYPE_ID="words" TIME_ALIGNABLE="false"/>
    <LINGUISTIC_TYPE CONSTRAINTS="Symbolic_Association" LINGUISTIC_TYPE_ID="gloss" TIME_ALIGNABLE="false"/>
    <LINGUISTIC_TYPE CONSTRAINTS="Time_Subdivision" LINGUISTIC_TYPE_ID="parts" TIME_ALIGNABLE="true"/>
    <CONSTRAINT DESCRIPTION="1-1 association with a parent annotation" STEREOTYPE="Symbolic_Association"/>
</ANNOTATION_DOCUMENT>
"""


def test_eaf(tmp_path):
    path = record(tmp_path / "film.wav").with_suffix(".eaf")
    path.write_text(EAF)
    report, both = ReadingReport(), [(0.0, 0.82, "yeah & no", "Max"), (1.899, 2.911, None, "Max")]
    both.append((0.0, 0.82, "Oh, max", "Agent 99"))
    rows = list(read_folder(tmp_path, report, "sl"))
    assert read(tmp_path) == both and report.summary() == "3 rows read, 3 kept"
    assert [row["id"] for row in rows] == ["film.wav_0.0-0.82", "film.wav_1.899-2.911", "film.wav_0.0-0.82-2"]
    assert [row["duration_seconds"] for row in rows] == pytest.approx([0.82, 1.012, 0.82])
    assert read(tmp_path, tiers=["utterance"]) == both and read(tmp_path, tiers=["A-Spch"]) == both[2:]
    assert read(tmp_path, tiers=["M-Words"]) == [(0.0, 0.82, "yeah no", "Max")]
    assert read(tmp_path, tiers=["gloss"]) == [(0.0, 0.82, "AFF", "Max")]
    assert "annotation without times: align it in ELAN" in only_line(tmp_path, tiers=["M-Parts"])
    # The offset of the sound, by its name, from an eaf of another name in a folder below.
    (tmp_path / "eaf").mkdir()
    path.rename(tmp_path / "eaf" / "session 1.eaf")
    sound = record(tmp_path / "film.wav").rename(tmp_path / "s\u00f3und.wav")
    assert read(tmp_path)[0] == (0.5, 1.32, "yeah & no", "Max")
    # Of the recordings that it links, the sound is read, and not the film.
    (tmp_path / "eaf" / "film.mp4").write_bytes(sound.read_bytes())
    report = ReadingReport()
    assert len(read(tmp_path, report)) == 3
    assert report.dropped == {"another recording of its segmentation is read": 1}
    (tmp_path / "eaf" / "film.mp4").unlink()
    # An eaf of the recording's name goes before others that link it, such as older versions.
    sound.with_suffix(".eaf").write_text(EAF.replace("yeah", "new"))
    report = ReadingReport()
    assert read(tmp_path, report)[0] == (0.5, 1.32, "new & no", "Max")
    other = tmp_path / "eaf" / "session 1.eaf"
    assert report.lines == [f"{sound}: is segmented by s\u00f3und.eaf, and not by what links it: {other}"]


def test_eaf_whose_tiers_must_be_named(tmp_path):
    path = record(tmp_path / "film.wav").with_suffix(".eaf")
    for before, after in [("Agent 99", "Max"), ('"utterance" PARTICIPANT="A', '"other" PARTICIPANT="A')]:
        path.write_text(EAF.replace(before, after))
        assert only_line(tmp_path).endswith(
            "film.eaf: has the tiers M-Spch, A-Spch; choose by --tier which of them are read"
        )
    numbered = EAF.replace("yeah &amp; no", "ref.001").replace("Oh,\nmax", "ref.002").replace(">AFF<", ">yes it is<")
    path.write_text(numbered)  # as the numbers of Toolbox, with the sentences in a tier below
    assert "has the tiers M-Spch, M-Words, M-Gloss, M-Parts, A-Spch; choose by --tier" in only_line(tmp_path)
    assert only_line(tmp_path, tiers=["ft"]).endswith(
        "no tier or type ft; there are M-Spch, M-Words, M-Gloss, M-Parts, A-Spch, empty, gloss, parts, utterance, "
        "words"
    )


def test_eaf_of_pympi(tmp_path):
    """The times and texts that another program writes, and reads again."""
    record(tmp_path / "a.wav")
    eaf = Eaf(author="")
    for name, intervals in {
        "ana": [(0, 1500, "ena"), (2000, 2500, "dva")],
        "ben": [(1000, 3000, "tri \u0161tiri")],
    }.items():
        eaf.add_tier(name, part=name.title())
        for start, end, text in intervals:
            eaf.add_annotation(name, start, end, text)
    eaf.remove_tier("default")
    eaf.to_file(str(tmp_path / "a.eaf"))
    again = Eaf(str(tmp_path / "a.eaf"))
    for name in ("ana", "ben"):
        expected = [(start / 1000, end / 1000, text) for start, end, text in again.get_annotation_data_for_tier(name)]
        assert [row[:3] for row in read(tmp_path) if row[3] == name.title()] == sorted(expected)


def test_damaged_eafs_cost_their_recording(tmp_path):
    path = record(tmp_path / "film.wav").with_suffix(".eaf")
    bomb = "".join(f'<!ENTITY x{n + 1} "{f"&x{n};" * 10}">' for n in range(9))
    contents = {
        EAF[:900]: "is damaged, or no XML: unclosed token",
        f'<!DOCTYPE a [<!ENTITY x0 "lol">{bomb}]><a>&x9;</a>': "is damaged, or no XML: ",
        f'<!DOCTYPE a [<!ENTITY x SYSTEM "{path}">]><a>&x;</a>': "is damaged, or no XML: undefined entity &x;",
        EAF.replace("UTF-8", "UTFF-8"): "is damaged, or no XML: unknown encoding",
        "<html><body/></html>": "is no document of ELAN, but XML with the element html",
        EAF[: EAF.index("<TIER")] + "</ANNOTATION_DOCUMENT>": "has no intervals with speech",
        EAF.replace("milliseconds", "PAL-frames"): "has times in PAL-frames; milliseconds are accepted",
        EAF.replace("film.mp4", "a.mp4"): "has the offsets 0, 500, and names no film.wav; link it in ELAN",
    }
    for content, message in contents.items():
        path.write_text(content)
        line = only_line(tmp_path)
        assert f"{path}: {message}" in line
    wrong = {'"1899"': '"3000"', '"2911"': '"12911"', 'VALUE="0"': 'VALUE="zero"'}
    path.write_text(EAF)
    for before, after in wrong.items():
        path.write_text(path.read_text().replace(before, after))
        report = ReadingReport()
        assert len(read(tmp_path, report)) == (0 if "zero" in after else 2)
        assert (
            report.lines[0].startswith(f"{path}:M-Spch:a") and report.kept + report.dropped.total() == report.read == 3
        )


# ---- subtitles

VTT = """WEBVTT - talk
Kind: captions

NOTE
a comment

STYLE
::cue { color: red }

1
00:01.000 --> 00:02.500 align:start position:0%
<v.loud Ana Maria>Hello &amp; <i>good</i> day &lt;x&gt;
<00:01.900>second line</v>

a name, which is no text
00:00:03.000 --> 00:00:04.000
<c.yellow>a</c>&nbsp;b

00:04.000 --> 00:03.000
backwards

00:05.000 --> 00:06.000
<v Ana>Yes.</v> <v Ben>No.</v>

00:07.000 --> 00:12.000
too long

00:08.000 --> 00:09.000
<i></i>
"""
SRT = """1
0:00:01.000 --> 00:00:02,500 X1:10 X2:20
<i>Hello</i> {\\an8}there,
<font color="red">AT&amp;T</font>

2
00:00:03,000 --> 00:00:04,040
1984

3
00:00:05,5 --> never
x
"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_subtitles(tmp_path, encoding):
    path, report = record(tmp_path / "a.wav").with_suffix(".vtt"), ReadingReport()
    path.write_bytes(VTT.replace("\n", "\r\n").encode(encoding))
    assert read(tmp_path, report) == [
        (1.0, 2.5, "Hello & good day <x> second line", "Ana Maria"),
        (3.0, 4.0, "a b", None),
        (5.0, 6.0, "Yes. No.", None),
    ]
    once = ["not a part of a recording", "segment outside its recording", "cue without a text, or damaged"]
    assert report.dropped == dict.fromkeys(once, 1)
    assert f"{path}:00:00:04.000: not a part of a recording: the part ends at 3 s and starts at 4 s" in report.lines
    path.rename(path.with_suffix(".srt"))
    path.with_suffix(".srt").write_bytes(SRT.encode(encoding))
    report = ReadingReport()
    assert read(tmp_path, report) == [(1.0, 2.5, "Hello there, AT&T", None), (3.0, 4.04, "1984", None)]
    assert report.lines == [f"{path.with_suffix('.srt')}:11: cue without a text, or damaged: it starts at 00:00:05,5"]


def test_subtitles_need_an_extra(tmp_path, monkeypatch, capsys):
    """Without it, folders without subtitles are read, and others end with one line."""
    monkeypatch.setitem(sys.modules, "webvtt", None)
    path = record(tmp_path / "in" / "a.wav").with_suffix(".eaf")
    path.write_text(EAF.replace("film.mp4", "a.mp4"))
    command = ["prepare-data", "--folder", str(path.parent), "--language", "sl", "--output", str(tmp_path / "out")]
    assert main(command) == 0, capsys.readouterr().err
    path.rename(path.with_suffix(".srt"))
    capsys.readouterr()
    assert main(command) == 1
    line = f"a.srt: subtitles are read by webvtt-py, which comes with {install_command('annotations')}\n"
    assert line in capsys.readouterr().err


def test_damaged_subtitles_cost_their_recording(tmp_path):
    path = record(tmp_path / "a.wav").with_suffix(".srt")
    path.write_bytes("1\n00:00:01,000 --> 00:00:02,500\nč".encode("cp1250"))
    assert "can't decode byte 0xe8 in position 32" in only_line(tmp_path)
    assert read(tmp_path, encoding="cp1250") == [(1.0, 2.5, "\u010d", None)]
    path.write_text("no subtitles")
    assert f"{path}: is no SubRip file, or is damaged" in only_line(tmp_path)


def test_what_transcribe_writes_is_read_again(tmp_path):
    words = [("Dober", 0.25, 0.5), ("dan,", 0.6, 1.0), ("<vsi>", 1.1, 1.5), ("skupaj", 4.0, 4.75)]
    characters = []
    for word, start, end in words:
        characters += [{"text": c, "timestamp": (start, end)} for c in word] + [{"text": " ", "timestamp": (end, end)}]
    segments = [Interval(0.25, 1.5, "Dober dan, <vsi>"), Interval(4.0, 4.75, "skupaj")]
    path = record(tmp_path / "a.wav")
    tiers = {"segments": segments, "words": [Interval(start, end, word) for word, start, end in words]}
    path.with_suffix(".TextGrid").write_text(to_textgrid(tiers, 10.0))
    assert read(tmp_path, tiers=["segments"]) == [(0.25, 1.5, "Dober dan, <vsi>", None), (4.0, 4.75, "skupaj", None)]
    path.with_suffix(".TextGrid").unlink()
    path.with_suffix(".vtt").write_text(to_vtt(characters, 10.0))
    expected = [(0.25, 1.5, "Dober dan, <vsi>", None), (4.0, 5.0, "skupaj", None)]
    assert read(tmp_path) == expected
    path.with_suffix(".vtt").unlink()
    path.with_suffix(".srt").write_text(to_srt(characters[:10], 10.0))
    assert read(tmp_path) == [(0.25, 1.25, "Dober dan,", None)]


# ---- RTTM, and which segmentation belongs to which recording

# Appendix A of NIST's RT-09 evaluation plan: ten columns, of which old programs leave out the last.
RTTM = """;; turns
SPKR-INFO a 1 <NA> <NA> <NA> unknown juliet <NA> <NA>
SPEAKER a 1 1.25 2.5 <NA> <NA> juliet <NA> <NA>
SPEAKER a 1 3.1 0.2 <NA> <NA> tbc <NA>
SPEAKER b 1 0.1 0.2 <NA> <NA> <NA> <NA> <NA>
SPEAKER a 1 1.0 -1 <NA> <NA> juliet <NA> <NA>
SPEAKER a 1 <NA> 1 <NA> <NA> juliet <NA> <NA>
SPEAKER a 1
SPEAKER lost 1 0.1 0.2 <NA> <NA> x <NA> <NA>
"""


def test_rttm_of_many_recordings(tmp_path):
    for name in ("x/a.wav", "x/y/b.flac", "c.wav"):
        record(tmp_path / name)
    (tmp_path / "turns.rttm").write_text(RTTM)
    report = ReadingReport()
    assert read(tmp_path, report) == [
        (None, None, None, None),
        (1.25, 3.75, None, "a/juliet"),
        (3.1, 3.3, None, "a/tbc"),
        (0.1, 0.3, None, None),
    ]
    assert report.dropped == {"not a part of a recording": 2, "not a line of RTTM": 1} and report.read == 7
    assert report.notes == [
        f"{tmp_path}: segmentations without a recording: 1, namely {tmp_path / 'turns.rttm'} (lost)",
        f"{tmp_path}: recordings without a segmentation, which are not cut: 1, such as {tmp_path / 'c.wav'}",
    ]
    # One recording, which a program calls by a name of its own.
    (tmp_path / "turns.rttm").unlink()
    (tmp_path / "c.rttm").write_text("SPEAKER waveform 1 0 4 <NA> <NA> S1 <NA> <NA>\n")
    assert (0.0, 4.0, None, "waveform/S1") in read(tmp_path)
    assert read(tmp_path / "x")[0] == (None, None, None, None)


def test_which_segmentation_a_recording_has(tmp_path):
    root, elsewhere = tmp_path / "audio", tmp_path / "annotated"
    line = "SPEAKER {} 1 1 {} <NA> <NA> <NA> <NA> <NA>\n"
    for name in ("sl/A.wav", "sl/a.mp3", "sl/d.wav", "hr/a.flac"):
        record(root / name)
    (root / "sl" / "a.eaf").write_text(EAF.replace("film.mp4", "a.mp4"))
    (root / "sl" / "a.txt").write_text("text")
    (root / "sl" / "lost.eaf").write_text("no XML")
    report = ReadingReport()
    rows = read(root, report)
    assert [row[0] for row in rows] == [None, None, 0.0, 1.899, 0.0, None]
    assert f"because their recordings have segmentations: 1, such as {root / 'sl' / 'a.txt'}" in report.notes[1]
    assert report.notes[0] == f"{root}: segmentations without a recording: 1, namely {root / 'sl' / 'lost.eaf'}"
    (root / "sl" / "a.rttm").write_text(line.format("a", 2))
    report = ReadingReport()
    assert len(read(root, report)) == 3
    (refused,) = [line for line in report.lines if "several segmentations" in line]
    assert f"{root / 'sl' / 'a.eaf'}, {root / 'sl' / 'a.rttm'} (a)" in refused
    # Files that are named replace those beside the recordings, and are sorted into the same folders.
    for number, folder in enumerate(("sl", "hr"), start=2):
        (elsewhere / folder).mkdir(parents=True)
        (elsewhere / folder / "a.rttm").write_text(line.format("a", number))
    assert [row[:2] for row in read(root, segmentations=[elsewhere])] == [
        (1.0, 4.0),
        (None, None),
        (1.0, 3.0),
        (None, None),
    ]
    # Recordings of one name in several folders are not guessed; of the forms of one recording the first is read.
    report = ReadingReport()
    (elsewhere / "sl" / "a.rttm").rename(elsewhere / "all.rttm")
    assert len(read(root, report, segmentations=[elsewhere / "all.rttm"])) == 2
    assert report.dropped == {"several recordings of one segmentation": 2}
    record(root / "hr" / "a.wav")
    report = ReadingReport()
    assert [row[:2] for row in read(root / "hr", report)] == [(None, None), (None, None)]
    assert [row[:2] for row in read(root / "hr", report, segmentations=[elsewhere / "hr"])] == [(1.0, 4.0)]
    assert report.dropped == {"another recording of its segmentation is read": 1}
    for wrong in (elsewhere / "nowhere", root / "sl" / "a.txt"):
        with pytest.raises(
            ValueError, match="no segmentation; folders and files .eaf, .textgrid, .vtt, .srt, .rttm are"
        ):
            read(root, segmentations=[wrong])


def test_segmentations_by_the_command(tmp_path, capsys):
    path, output = record(tmp_path / "talks" / "film.wav"), tmp_path / "data"
    path.with_suffix(".eaf").write_text(EAF)
    command = ["prepare-data", "--folder", str(path.parent), "--language", "sl", "--output", str(output)]
    assert main([*command, "--tier", "utterance"]) == 0, capsys.readouterr().err
    texts = {
        split: [row["text"] for row in read_utterances([output / f"{split}.parquet"])]
        for split in ("train", "unlabelled")
    }
    assert texts == {"train": ["yeah & no", "Oh, max"], "unlabelled": [None]}
    before = state_of(path.parent, below=True)
    path.with_suffix(".eaf").write_text(EAF.replace("yeah", "yes, yes"))
    assert state_of(path.parent, below=True) != before  # so that a preparation that goes on reads it again
    (tmp_path / "given.rttm").write_text("SPEAKER film 1 0 4 <NA> <NA> S1 <NA> <NA>\n")
    assert main([*command, "--segmentations", str(tmp_path / "given.rttm")]) == 0
    assert [row["speaker"] for row in read_utterances([output / "unlabelled.parquet"])] == ["film/S1"]
    with pytest.raises(SystemExit):
        main(["prepare-data", "--tier", "a", "--list", "t.tsv", "--output", str(output)])
    assert "--segmentations and --tier need --folder" in capsys.readouterr().err


# ---- columns of tables


def test_times_in_tables_as_spreadsheets_write_them(tmp_path):
    """Decimal commas and clock times are seconds; a damaged time costs its own row."""
    record(tmp_path / "a.wav", 70.0)
    seconds = {"1,5": 1.5, "2.5": 2.5, "0:00:03.5": 3.5, "00:00:04,500": 4.5, "0:1:5": 65.0, " 6 ": 6.0, "7e0": 7.0}
    refused = ["09:30", "0:01:75", "0:60:00", "8 s", "1,234.5", "nan", "-1", "0:-1", "1:", "9" * 400 + ":00:00"]
    header = "path;sentence;language;speaker;{}\n"
    rows = [f"a.wav;{time};sl;ana;{time};0:01:09,75\n" for time in (*seconds, *refused)]
    (tmp_path / "t.csv").write_text(header.format("tmin;tmax") + "".join(rows))
    report = ReadingReport()
    (found,) = read_list(tmp_path / "t.csv", report).values()
    assert {row["text"]: row["audio"]["start"] for row in found} == {time.strip(): at for time, at in seconds.items()}
    assert {row["audio"]["end"] for row in found} == {69.75}
    assert report.dropped == {"not a part of a recording": len(refused)}
    assert "start is '09:30', not a number of seconds or a time such as 0:01:23.5" in report.lines[0]
    # Names that nobody knows are not taken for other columns, which would give each text the whole recording.
    (tmp_path / "t.csv").write_text(header.format("utt_begin;utt_stop") + rows[0])
    with pytest.raises(ValueError, match="columns utt_begin, utt_stop may be the place of a row's speech"):
        read_list(tmp_path / "t.csv", ReadingReport())
