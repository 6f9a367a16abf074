"""The synthetic corpus: real formats, disjoint splits, equal corpora from equal seeds."""

import contextlib
import csv
import gzip
import importlib
import io
import itertools
import json
import os
import shutil
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("espeakng_loader", reason='the extra "demo" is not installed')

from hf_mlpl.cli.main import main
from hf_mlpl.corpora.readers.common_voice import read_common_voice
from hf_mlpl.corpora.readers.voxpopuli import read_voxpopuli
from hf_mlpl.corpora.reading import ReadingReport
from hf_mlpl.corpora.sources import SYNTHETIC, VOXPOPULI, common_voice_sources, source_of_corpus
from hf_mlpl.corpora.synthetic.corpus import UNLABELLED_LANGUAGES, VARIANTS, write_demo_corpus
from hf_mlpl.corpora.synthetic.sentences import DEMO_LANGUAGES, SPLIT_BUCKETS, sentences
from hf_mlpl.corpora.synthetic.speech import _espeak, record

from .test_common_voice import LAYOUTS
from .test_voxpopuli import assert_same_speech, without_audio, write_tar

SETTINGS = {"labelled": {"de": 8, "sv-SE": 3}, "unlabelled": {"sv-SE": 17}, "dev": 3, "test": 4, "seed": 7}

# The 60 locales of Common Voice 6.1.
COMMON_VOICE_LOCALES = (
    "ab ar as br ca cnh cs cv cy de dv el en eo es et eu fa fi fr fy-NL ga-IE hi hsb hu ia id it ja ka kab ky lg lt "
    "lv mn mt nl or pa-IN pl pt rm-sursilv rm-vallader ro ru rw sah sl sv-SE ta th tr tt uk vi vot zh-CN zh-HK zh-TW"
).split()


@pytest.fixture(scope="module", autouse=True)
def short_recordings():
    """Lets a recording of the unlabelled speech have 12 sentences."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_mlpl.corpora.synthetic.corpus.SENTENCES_PER_EVENT", 12)
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("demo")
    options = "--labelled de=8 sv-SE=3 --unlabelled sv-SE=17 --dev 3 --test 4 --seed 7 --processes 1"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["demo", "--root", str(root), *options.split()]) == 0
    folders = root / "cv-corpus-demo", root / "voxpopuli-demo"
    assert out.getvalue().split() == [str(folder) for folder in folders]
    return folders


def read_tsv(path: Path) -> list[dict[str, str]]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def loudness(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(samples**2)))


@pytest.mark.parametrize("language, train", SETTINGS["labelled"].items())
def test_common_voice_layout(corpus, language, train):
    folder = corpus[0] / language
    splits = {split: read_tsv(folder / f"{split}.tsv") for split in ("train", "dev", "test")}
    assert {split: len(rows) for split, rows in splits.items()} == {"train": train, "dev": 3, "test": 4}
    rows = sum(splits.values(), [])
    assert read_tsv(folder / "validated.tsv") == rows
    assert sorted(row["path"] for row in rows) == sorted(path.name for path in (folder / "clips").iterdir())
    header = (folder / "train.tsv").read_text(encoding="utf-8").splitlines()[0]
    assert header == "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent\tlocale\tsegment"
    for row in rows:
        assert row["path"].startswith(f"common_voice_{language}_") and row["locale"] == language
        info = soundfile.info(folder / "clips" / row["path"])
        assert (info.format, info.channels) == ("MP3", 1)
        samples, rate = soundfile.read(folder / "clips" / row["path"])
        assert 1 < len(samples) / rate < 4.5 and loudness(samples) > 0.01
    speakers = [{row["client_id"] for row in rows} for rows in splits.values()]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(speakers, 2))


def test_source_says_that_the_speech_is_synthetic(corpus):
    assert common_voice_sources(corpus[0])("de") == source_of_corpus(corpus[1], VOXPOPULI) == SYNTHETIC
    assert SYNTHETIC.name == "synthetic speech by espeak-ng"


def test_voxpopuli_layout(corpus):
    segments = read_tsv(corpus[1] / "annotations" / "unlabelled_v2.tsv.gz")
    truth = read_tsv(corpus[1] / "annotations" / "truth.tsv.gz")
    assert list(segments[0]) == ["event_id", "segment_no", "start", "end"]
    assert list(truth[0]) == ["event_id", "segment_no", "sentence"]
    assert [(s["event_id"], s["segment_no"]) for s in segments] == [(t["event_id"], t["segment_no"]) for t in truth]
    assert [t["sentence"] for t in truth] == list(itertools.islice(sentences("sv-SE", "unlabelled", 7), 17))

    events = {event: list(rows) for event, rows in itertools.groupby(segments, lambda row: row["event_id"])}
    assert list(events) == ["20190115-0900-PLENARY_sv", "20190116-0900-PLENARY_sv"]
    assert [len(rows) for rows in events.values()] == [12, 5]
    for event, rows in events.items():
        path = corpus[1] / "raw_audios" / "sv" / "2019" / f"{event}.ogg"
        info = soundfile.info(path)
        assert (info.format, info.subtype, info.samplerate, info.channels) == ("OGG", "VORBIS", 16000, 1)
        samples, rate = soundfile.read(path)
        assert min(map(loudness, np.array_split(samples, len(samples) // rate))) > 0
        bounds = [float(row[key]) for row in rows for key in ("start", "end")]
        assert bounds == sorted(bounds) and bounds[0] >= 0 and bounds[-1] <= len(samples) / rate
        cuts = np.round(np.array(bounds) * rate).astype(int)
        spoken = [loudness(samples[start:end]) for start, end in cuts.reshape(-1, 2)]
        assert min(spoken) > 0.01
        # Between the segments, and in their first 50 ms, is silence: the boundaries enclose speech.
        pauses = [loudness(samples[end:start]) for end, start in cuts[1:-1].reshape(-1, 2)]
        margins = [loudness(samples[start : start + rate // 20]) for start in cuts[::2]]
        assert max(pauses + margins) < 0.01


def test_splits_share_no_text():
    for language in ("de", "zh-CN", "tt"):
        texts = {split: set(itertools.islice(sentences(language, split, 0), 100)) for split in SPLIT_BUCKETS}
        assert all(len(found) == 100 for found in texts.values())
        for one, other in itertools.combinations(texts.values(), 2):
            assert one.isdisjoint(other)


def test_splits_share_no_voice():
    for one, other in itertools.combinations(VARIANTS.values(), 2):
        assert set(one).isdisjoint(other)


def test_voices_differ():
    # espeak-ng accepts names of variants that it lacks, and uses its plain voice.
    variants = [None, *itertools.chain(*VARIANTS.values())]
    spoken = {_espeak("Montag", f"de+{v}" if v else "de", 175, 50)[0].tobytes() for v in variants}
    assert len(spoken) == len(variants)


def test_same_seed_same_corpus(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("multiprocessing.spawn._python_exe", os.fsencode(sys.executable))  # no fork of the tests
    again = write_demo_corpus(tmp_path, **SETTINGS, processes=2)
    for one, other in zip(corpus, again, strict=True):
        files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
        assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
        for file in files:
            if file.suffix in (".mp3", ".ogg"):
                np.testing.assert_array_equal(soundfile.read(one / file)[0], soundfile.read(other / file)[0])
            else:
                assert (one / file).read_bytes() == (other / file).read_bytes()


def test_seed_and_size(tmp_path):
    first = list(itertools.islice(sentences("en", "train", 0), 20))
    assert first == list(itertools.islice(sentences("en", "train", 0), 40))[:20]
    assert set(first).isdisjoint(itertools.islice(sentences("en", "train", 1), 20))
    # Recordings do not depend on how many others there are, or on what was spoken before.
    small, _ = write_demo_corpus(tmp_path / "small", {"en": 1}, dev=1, test=1, processes=1)
    large, _ = write_demo_corpus(tmp_path / "large", {"fr": 1, "en": 2}, dev=2, test=1, processes=1)
    for number in (10_000_000, 20_000_000, 30_000_000):
        clip = f"en/clips/common_voice_en_{number}.mp3"
        np.testing.assert_array_equal(soundfile.read(small / clip)[0], soundfile.read(large / clip)[0])


def test_second_call_returns_at_once_and_other_settings_are_refused(corpus, monkeypatch):
    root = corpus[0].parent
    monkeypatch.setattr("hf_mlpl.corpora.synthetic.corpus._write", None)  # fails if anything is written again
    assert write_demo_corpus(root, **SETTINGS) == corpus
    with pytest.raises(ValueError, match="other settings.*delete the folder"):
        write_demo_corpus(root, **SETTINGS | {"seed": 8})


def test_interrupted_call_is_redone(tmp_path, monkeypatch):
    arguments = {"labelled": {"de": 2}, "unlabelled": {"sl": 2}, "dev": 1, "test": 1, "processes": 1}
    recorded = []

    def interrupted(path, utterances):
        if len(recorded) == 3:
            raise KeyboardInterrupt
        recorded.append(path)
        return record(path, utterances)

    monkeypatch.setattr("hf_mlpl.corpora.synthetic.corpus.record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_demo_corpus(tmp_path, **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["demo-corpus.partial"]
    monkeypatch.undo()
    common_voice, voxpopuli = write_demo_corpus(tmp_path, **arguments)
    assert sorted(tmp_path.iterdir()) == [common_voice, voxpopuli]
    assert json.loads((voxpopuli / "complete.json").read_text())["unlabelled"] == {"sl": 2}

    shutil.rmtree(common_voice)  # as if interrupted just before the second folder appeared
    assert write_demo_corpus(tmp_path, **arguments) == (common_voice, voxpopuli)
    assert (common_voice / "de" / "test.tsv").is_file()

    (common_voice / "complete.json").unlink()
    with pytest.raises(ValueError, match="is not a demo corpus"):
        write_demo_corpus(tmp_path, **arguments)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"labelled": {"xx": 5}}, "labelled demo speech in 'xx'; choose from ar ca cs"),
        ({"labelled": {"sv": 5}}, "labelled demo speech in 'sv'"),
        ({"unlabelled": {"tr": 5}}, "unlabelled demo speech in 'tr'; choose from cs de en"),
        ({"labelled": {"de": 0}}, r"labelled\['de'\] is 0 utterances"),
        ({"labelled": {}}, "no labelled language"),
        ({"test": 0}, "test is 0 utterances"),
        ({"processes": 0}, "processes is 0"),
    ],
)
def test_bad_arguments(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        write_demo_corpus(tmp_path, **SETTINGS | changed)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["espeakng_loader", "babel", "num2words"])
def test_missing_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    for module in ("corpus", "sentences", "speech"):
        monkeypatch.delitem(sys.modules, f"hf_mlpl.corpora.synthetic.{module}")
    with pytest.raises(ImportError, match=rf"needs the package '{package}', which .*pip install .*\[demo\]'"):
        importlib.import_module("hf_mlpl.corpora.synthetic.corpus")


def test_command_line(capsys):
    assert main(["demo", "--list-languages"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == list(DEMO_LANGUAGES)
    for arguments, message in (
        (["--root", "data"], "--labelled is missing"),
        (["--labelled", "de"], "'de' is not of the form LOCALE=N"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["demo", *arguments])
        assert message in capsys.readouterr().err
    assert main(["demo", "--labelled", "xx=1"]) == 1
    assert capsys.readouterr().err.startswith("error: no labelled demo speech in 'xx'; choose from ar ca cs")


def test_languages():
    assert set(DEMO_LANGUAGES) <= set(COMMON_VOICE_LOCALES) and len(DEMO_LANGUAGES) >= 40
    assert set("cs de en es fi fr hu it nl pl ro sl sv-SE".split()) <= set(UNLABELLED_LANGUAGES)


@pytest.mark.parametrize("language", DEMO_LANGUAGES)
def test_every_language_speaks(language):
    spec = DEMO_LANGUAGES[language]
    texts = list(itertools.islice(sentences(language, "train", 0), 50))
    for text in texts:
        assert text == unicodedata.normalize("NFC", text).strip() and "  " not in text
        letters = [char for char in text if char not in " '-"]
        assert letters and all(unicodedata.category(char)[0] in "LM" for char in letters)
        assert all(unicodedata.name(char).startswith(spec.script) for char in letters)
    seconds = []
    for text in texts[:5]:
        samples, rate = _espeak(text, f"{spec.voice}+f2", 175, 50)
        assert loudness(samples / 32768) > 0.01
        seconds.append(len(samples) / rate)
    assert 1.4 < np.mean(seconds) < 2.8


@pytest.mark.parametrize("layout", LAYOUTS)
def test_common_voice_is_read_in_every_layout(corpus, layout, tmp_path):
    common_voice, _ = corpus
    root = LAYOUTS[layout](common_voice, tmp_path)
    for split in ("train", "dev", "test"):
        report = ReadingReport()
        found, expected = (list(read_common_voice(place, split, report)) for place in (root, common_voice))
        assert report.lines == [] and found
        assert_same_speech(found, expected)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_voxpopuli_is_read_from_archives(corpus, mode, tmp_path):
    _, voxpopuli = corpus
    recordings = sorted((voxpopuli / "raw_audios").rglob("*.ogg"))
    (year,) = {path.parent.name for path in recordings}
    members = {str(path.relative_to(voxpopuli / "raw_audios")): path.read_bytes() for path in recordings}
    write_tar(tmp_path / f"sv_{year}.tar", members, mode)
    shutil.copytree(voxpopuli / "annotations", tmp_path / "annotations")
    found, expected = (list(read_voxpopuli(place, ReadingReport())) for place in (tmp_path, voxpopuli))
    assert len(found) == 17
    assert without_audio(found) == without_audio(expected)
    # of both recordings; for each segment of a compressed archive all before it is read again
    assert_same_speech(found[::4], expected[::4])
