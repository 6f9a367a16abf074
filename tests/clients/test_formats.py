"""lhotse writes what we read and reads what we write; praatio and lhotse read the tiers and words of transcripts."""

import json
from pathlib import Path

import lhotse
import numpy as np
import parselmouth
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.qa import validate
from parselmouth.praat import call
from praatio import textgrid

from hf_mlpl.audio.reading import load_audio
from hf_mlpl.cli.main import main
from hf_mlpl.corpora.readers.manifests import read_manifest
from hf_mlpl.corpora.reading import ReadingReport
from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.inference.tiers import Interval, to_textgrid
from hf_mlpl.interop.manifests import export_manifest

pytestmark = pytest.mark.slow

RATES = {"a.wav": 16_000, "b.flac": 8000, "c.ogg": 22_050}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Writes noise of 5 s in three formats and rates, and both.wav of two channels."""
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, size=(5 * 22_050, 2)).astype(np.float32)
    for name, rate in RATES.items():
        soundfile.write(tmp_path / name, noise[: 5 * rate, 0], rate)
    soundfile.write(tmp_path / "both.wav", noise[: 5 * 16_000], 16_000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recordings(folder) -> RecordingSet:
    return RecordingSet.from_recordings(Recording.from_file(folder / name) for name in [*RATES, "both.wav"])


def supervisions() -> SupervisionSet:
    return SupervisionSet.from_segments(
        SupervisionSegment(
            **{"id": f"{name}-{number}", "recording_id": name, "start": start, "duration": duration},
            **{"text": f"word {number}", "language": "sv", "speaker": f"speaker {number % 2}"},
            channel=[0, 1] if name == "both" else 0,
        )
        for name in ("a", "b", "c", "both")
        for number, (start, duration) in enumerate([(0.0, 5.0), (0.2, 1.1), (2.3, 2.7)])
    )


def read(path) -> tuple[dict[str, dict], ReadingReport]:
    report = ReadingReport()
    return {row["id"]: row for row in read_manifest(path, report)}, report


def assert_same_audio(utterance: dict, cut) -> None:
    """Compares our samples, at the recording's rate, with lhotse's, the mean of whose channels is ours."""
    expected = cut.load_audio().mean(axis=0)
    np.testing.assert_allclose(load_audio(utterance["audio"], cut.sampling_rate), expected, atol=1e-6)


def assert_same(utterances: dict[str, dict], cuts: CutSet) -> None:
    cuts = cuts.trim_to_supervisions(keep_overlapping=False).to_eager()
    assert {cut.supervisions[0].id for cut in cuts} == utterances.keys() and len(cuts) == len(utterances)
    for cut in cuts:
        [supervision] = cut.supervisions
        utterance = utterances[supervision.id]
        assert (utterance["text"], utterance["speaker"]) == (supervision.text, supervision.speaker)
        assert utterance["language"] == {"sv": "sv-SE"}.get(supervision.language, supervision.language)
        assert utterance["duration_seconds"] == pytest.approx(supervision.duration)
        assert_same_audio(utterance, cut)


@pytest.mark.parametrize("suffix", ["jsonl.gz", "jsonl", "json"])
def test_manifests_of_lhotse_are_read(folder, suffix):
    recordings(folder).to_file(folder / f"x_recordings_train.{suffix}")
    supervisions().to_file(folder / f"x_supervisions_train.{suffix}")
    cuts = CutSet.from_manifests(recordings=recordings(folder), supervisions=supervisions())
    cuts.to_file(folder / f"cuts.{suffix}")
    for name in ("cuts", "x_supervisions_train"):
        utterances, report = read(folder / f"{name}.{suffix}")
        assert report.dropped == {} and len(utterances) == 12
        assert_same(utterances, cuts)


def test_cuts_that_lhotse_has_changed(folder):
    """Trimmed and resampled cuts and windows are read; single channels, changed speed and padding are counted."""
    cuts = CutSet.from_manifests(recordings=recordings(folder), supervisions=supervisions()).to_eager()
    cuts.trim_to_supervisions(keep_overlapping=False).resample(16_000).to_file(folder / "trimmed.jsonl.gz")
    utterances, report = read(folder / "trimmed.jsonl.gz")
    assert report.dropped == {} and len(utterances) == 12
    assert_same(utterances, cuts)

    windows = cuts.cut_into_windows(2.0)
    windows.to_file(folder / "windows.jsonl.gz")
    utterances, report = read(folder / "windows.jsonl.gz")  # a supervision in two windows is one utterance
    assert set(report.dropped) == {"id is there already"} and len(utterances) == 12
    assert_same(utterances, cuts)

    both = cuts.filter(lambda cut: cut.recording_id == "both")
    changed = {
        "one channel of several": CutSet.from_cuts(mono for cut in both for mono in cut.to_mono()),
        "lhotse changes its audio": cuts.perturb_speed(1.1),
        "no audio that can be read": cuts.pad(duration=9.0),
    }
    for reason, others in changed.items():
        others.to_file(folder / "changed.jsonl.gz")
        utterances, report = read(folder / "changed.jsonl.gz")
        assert utterances == {} and set(report.dropped) == {reason}, reason


def utterance_file(folder: Path) -> Path:
    rows = []
    for name, rate in (RATES | {"both.wav": 16_000}).items():
        for start, end in [(None, None), (0.2, 1.3), (2.3, 5.0)]:
            audio = {"path": str(folder / name), "offset": None, "size": None, "start": start, "end": end}
            row = {"id": f"{name}-{start}", "audio": audio, "duration_seconds": 5.0 if end is None else end - start}
            text = None if start == 2.3 else f"ord {rate}"
            row |= {"language": "sv-SE", "text": text, "speaker": "ann", "source": text and "human"}
            rows.append(row)
    write_utterances(rows, folder / "data.parquet")
    return folder / "data.parquet"


def test_lhotse_reads_what_we_write(folder):
    data = utterance_file(folder)
    utterances = {row["id"]: row for row in read_utterances([data])}
    export_manifest([data], folder / "out", "lhotse")
    cuts = CutSet.from_file(folder / "out" / "cuts.jsonl.gz").to_eager()
    segments = SupervisionSet.from_file(folder / "out" / "supervisions.jsonl.gz").to_eager()
    files = RecordingSet.from_file(folder / "out" / "recordings.jsonl.gz").to_eager()
    for each in (cuts, segments, files):
        validate(each, read_data=True)
    assert (len(cuts), len(segments), len(files)) == (12, 12, 4)
    for cut in cuts:
        assert_same_audio(utterances[cut.id], cut)
    assert_same(utterances, cuts)
    assert_same(utterances, CutSet.from_manifests(recordings=files, supervisions=segments).to_eager())


def test_nemo_reads_what_we_write(folder):
    """NeMo cannot be installed here; it reads a row through lhotse by these lines, as its LazyNeMoIterator does."""
    data = utterance_file(folder)
    utterances = {row["id"]: row for row in read_utterances([data])}
    export_manifest([data], folder / "train_manifest.json", "nemo")
    rows = list(lhotse.serialization.load_jsonl(folder / "train_manifest.json"))
    assert len(rows) == 12
    for row in rows:
        cut = Recording.from_file(row["audio_filepath"]).to_cut()
        if row.get("offset") is not None:
            cut = cut.truncate(offset=row["offset"], duration=row["duration"])
        utterance = utterances[row["id"]]
        assert (row.get("text"), row["lang"]) == (utterance["text"], utterance["language"])
        assert cut.duration == pytest.approx(row["duration"])
        assert_same_audio(utterance, cut)


def test_recordings_of_people(shared, tmp_path):
    """A manifest of people's speech, through lhotse and back, with the audio that lhotse reads."""
    table = shared / "speech" / "ml-msc" / "manifest.tsv"
    if not table.is_file():
        pytest.skip(f"{table} is missing: recordings of people")
    header, *lines = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()[:9]]
    rows = []
    for fields in (dict(zip(header, line, strict=True)) for line in lines):
        row = {"audio_filepath": str(table.parent / fields["path"]), "duration": float(fields["duration_s"])}
        rows.append(row | {"text": fields["sentence"], "lang": "ml", "speaker": fields["speaker"]})
    (tmp_path / "train.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["prepare-data", "--manifests", str(tmp_path / "train.json"), "--output", str(tmp_path / "data")]) == 0
    utterances = {row["id"]: row for row in read_utterances([tmp_path / "data" / "train.parquet"])}
    assert len(utterances) == 8
    export_manifest([tmp_path / "data" / "train.parquet"], tmp_path / "out", "lhotse")
    for cut in CutSet.from_file(tmp_path / "out" / "cuts.jsonl.gz"):
        assert cut.supervisions[0].text == utterances[cut.id]["text"]
        assert_same_audio(utterances[cut.id], cut)


@pytest.fixture
def clips(tone_corpus):
    return [
        tone_corpus / "common-voice" / "de/clips/common_voice_de_test0.wav",
        tone_corpus / "common-voice" / "sv-SE/clips/common_voice_sv-SE_test0.mp3",
    ]


def test_praatio_reads_textgrids(clips, tone_run, tmp_path):
    command = ["transcribe", "--model", str(tone_run / "model"), *map(str, clips), "--output", str(tmp_path)]
    assert main([*command, "--format", "textgrid"]) == 0
    assert main([*command, "--format", "json", "--timestamps", "word"]) == 0
    for clip in clips:
        grid = textgrid.openTextgrid(str(tmp_path / f"{clip.stem}.TextGrid"), True, reportingMode="error")
        answer = json.loads((tmp_path / f"{clip.stem}.json").read_text(encoding="utf-8"))
        assert grid.tierNames == ("segments", "words") and grid.validate("error")
        words = [(entry.start, entry.end, entry.label) for entry in grid.getTier("words").entries if entry.label]
        assert words == [(word["start"], word["end"], word["word"]) for word in answer["words"]]
        segments = [entry.label for entry in grid.getTier("segments").entries if entry.label]
        assert " ".join(segments) == answer["text"]
        assert grid.maxTimestamp == pytest.approx(len(load_audio(str(clip))) / 16_000, abs=0.02)


@pytest.mark.parametrize("reader", ["Praat", "praatio"])
def test_praat_reads_any_text(tmp_path, reader):
    texts = ['say "no"', '"', '""', 'text = "x"', "xmin = 3", "ö 語 🎵"]
    intervals = [Interval(0.3 * number, 0.3 * number + 0.2, text) for number, text in enumerate(texts)]
    path = tmp_path / "a.TextGrid"
    path.write_text(to_textgrid({'a "tier"': intervals, "empty": []}, 3.0), encoding="utf-8")
    read_tiers = tiers_of_praat if reader == "Praat" else tiers_of_praatio
    spoken, empty = read_tiers(str(path))
    expected = [(pytest.approx(each.start), pytest.approx(each.end), each.text) for each in intervals]
    assert spoken[::2] == expected and {text for _, _, text in spoken[1::2]} == {""}
    assert empty == [(0, 3, "")]


def tiers_of_praat(path: str) -> list[list[tuple[float, float, str]]]:
    grid = parselmouth.read(path)
    tiers = []
    for tier in range(1, call(grid, "Get number of tiers") + 1):
        numbers = range(1, call(grid, "Get number of intervals", tier) + 1)
        names = ("Get start time of interval", "Get end time of interval", "Get label of interval")
        tiers.append([tuple(call(grid, name, tier, number) for name in names) for number in numbers])
    return tiers


def tiers_of_praatio(path: str) -> list[list[tuple[float, float, str]]]:
    grid = textgrid.openTextgrid(path, True, reportingMode="error")
    return [[tuple(entry) for entry in grid.getTier(name).entries] for name in grid.tierNames]


def test_lhotse_reads_ctm(clips, tone_run, tmp_path, capsys):
    command = ["transcribe", "--model", str(tone_run / "model"), *map(str, clips)]
    assert main([*command, "--format", "ctm"]) == 0
    (tmp_path / "words.ctm").write_text(capsys.readouterr().out, encoding="utf-8")
    assert main([*command, "--format", "json", "--timestamps", "word"]) == 0
    answers = {Path(row["file"]).stem: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    segments = SupervisionSet.from_segments(SupervisionSegment(name, name, 0.0, 60.0) for name in answers)
    for segment in segments.with_alignment_from_ctm(tmp_path / "words.ctm"):
        words = [(item.start, pytest.approx(item.end), item.symbol) for item in segment.alignment["word"]]
        assert words == [(word["start"], word["end"], word["word"]) for word in answers[segment.id]["words"]]
        assert words


def test_our_cuts_are_mono_cuts(folder):
    export_manifest([utterance_file(folder)], folder / "out", "lhotse")
    kinds = {cut.recording_id: isinstance(cut, MonoCut) for cut in CutSet.from_file(folder / "out" / "cuts.jsonl.gz")}
    assert kinds == {str(folder / name): name != "both.wav" for name in [*RATES, "both.wav"]}
