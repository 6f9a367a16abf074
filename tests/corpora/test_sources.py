"""Sources of speech: named releases, a folder's own `source.json`, and notes beside utterance files."""

import json
import tarfile
from functools import partial
from pathlib import Path

import pytest

from hf_mlpl.corpora.locales import iso_code
from hf_mlpl.corpora.preparation.prepare import Part, prepare
from hf_mlpl.corpora.sources import VOXPOPULI, Source, common_voice_sources, source_of_corpus, sources_of
from hf_mlpl.data.utterances import write_utterances

RELEASE = Source("Common Voice, cv-corpus-6.1-2020-12-11", "cc0-1.0", "https://commonvoice.mozilla.org")


def write_release(folder: Path, locale: str) -> Path:
    (folder / locale / "clips").mkdir(parents=True)
    (folder / locale / "clips" / "a.mp3").touch()
    return folder


def write_source(path: Path, **fields) -> Path:
    path.write_text(json.dumps(fields))
    return path


def test_a_release_has_the_name_of_its_folder(tmp_path, monkeypatch):
    release = write_release(tmp_path / "cv-corpus-6.1-2020-12-11", "sl")
    assert common_voice_sources(release)("sl") == common_voice_sources(release / "sl")("sl") == RELEASE
    assert common_voice_sources(tmp_path)("sl") == RELEASE  # the folder around it, which is read too
    monkeypatch.chdir(release / "sl")
    assert common_voice_sources(".")("sl") == RELEASE


@pytest.mark.parametrize("name", ["cv-corpus-6.1-sl.tar.gz", "a.tar"])
def test_an_archive_has_the_name_of_the_folder_inside(tmp_path, name):
    release = write_release(tmp_path / "cv-corpus-6.1-2020-12-11", "sl")
    with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as archive:
        archive.add(release, release.name)
    assert common_voice_sources(tmp_path / name)("sl") == common_voice_sources(tmp_path / name)("SL") == RELEASE


@pytest.mark.parametrize(
    "folder, name",
    [
        ("cv-corpus-5.1-2020-06-22", "cv-corpus-5.1-2020-06-22"),
        ("cv-corpus-12.0-delta-2022-12-07", "cv-corpus-12.0-delta-2022-12-07"),
        ("cv-corpus-6.1-singleword", "cv-corpus-6.1-singleword"),
        ("cv-corpus-24.0-2025-12-05-sl", "cv-corpus-24.0-2025-12-05"),
    ],
)
def test_names_of_releases(tmp_path, folder, name):
    assert common_voice_sources(write_release(tmp_path / folder, "sl"))("sl").name == f"Common Voice, {name}"


def test_what_has_no_name_of_a_release_gets_no_licence(tmp_path):
    release = write_release(tmp_path / "cv-corpus-mine", "sl")
    assert common_voice_sources(release)("sl") == Source("cv-corpus-mine (in the format of Common Voice)", "unknown")
    assert source_of_corpus(tmp_path / "talks") == Source("talks (own recordings)", "unknown", None)


def test_a_folder_names_its_source(tmp_path):
    fields = {"name": "talks at our club", "license": "cc-by-4.0", "url": "https://example.org"}
    folder = tmp_path / "cv-corpus-6.1-2020-12-11"
    write_release(folder, "sl")
    write_source(folder / "source.json", **fields)
    assert common_voice_sources(folder)("sl") == common_voice_sources(folder / "sl")("sl") == Source(**fields)
    assert source_of_corpus(folder, VOXPOPULI) == source_of_corpus(folder / "table.tsv") == Source(**fields)


@pytest.mark.parametrize("fields", [{}, {"name": ""}, {"name": "a", "licence": "mit"}, {"name": "a", "license": None}])
def test_a_wrong_source_is_one_line(tmp_path, fields):
    path = write_source(tmp_path / "source.json", **fields)
    with pytest.raises(ValueError) as error:
        source_of_corpus(tmp_path)
    assert str(error.value).startswith(f"{path}: does not name a source as in ") and "\n" not in str(error.value)


def read_one(name: str, language: str, report) -> list[dict]:
    report.read += 1
    audio = {"path": "/clips/a.mp3", "start": None, "end": None}
    row = {"id": name, "audio": audio, "duration_seconds": 1.0, "language": language, "text": "a", "speaker": None}
    return [row | {"source": "human"}]


def read_none(report) -> list[dict]:
    return []


@pytest.mark.parametrize("noted", ["", "[]", '{"splits": 7}', '{"splits": {"train": {"sources": [7]}}}'])
def test_damaged_notes_are_one_line(tmp_path, noted):
    write_utterances([], tmp_path / "train.parquet")
    (tmp_path / "report.json").write_text(noted)
    with pytest.raises(ValueError, match=rf"{tmp_path / 'report.json'}") as caught:
        sources_of([tmp_path / "train.parquet"])
    assert "\n" not in str(caught.value)


def test_sources_are_noted_by_split(tmp_path):
    mine = Source("mine")
    parts = [
        Part("one", partial(read_one, "1", "sl"), "train", RELEASE),
        Part("two", partial(read_one, "2", "de"), "train", RELEASE),
        Part("three", partial(read_one, "3", "de"), "train", mine),
        Part("four", partial(read_none), "dev", mine),  # gives nothing, so nothing is from there
        Part("five", partial(read_one, "5", "de"), "dev"),  # whose source nobody knows
        Part("six", partial(read_one, "6", "de"), "test", mine),
    ]
    prepare(parts, tmp_path)
    assert sources_of([tmp_path / "train.parquet"]) == [RELEASE, mine]
    assert sources_of([tmp_path / "dev.parquet"]) == []
    assert sources_of([tmp_path / "t*.parquet"]) == [mine, RELEASE]  # test comes first
    (tmp_path / "report.json").unlink()
    assert sources_of([tmp_path / "train.parquet"]) == []
    (tmp_path / "complete.json").write_text(json.dumps({"sources": [{"name": "theirs", "license": "mit"}]}))
    assert sources_of([tmp_path / "train.parquet"]) == [Source("theirs", "mit")]
    for content in ("null", "7", "{", '{"sources": [null]}', '{"sources": [{"url": 7}]}'):
        (tmp_path / "complete.json").write_text(content)
        with pytest.raises(ValueError, match="complete.json"):
            sources_of([tmp_path / "train.parquet"])
    with pytest.raises(FileNotFoundError, match="no such utterance file"):
        sources_of([tmp_path / "nothing.parquet"])


def test_codes_of_languages():
    assert [iso_code(locale) for locale in ("sv-SE", "rm-sursilv", "zh-HK", "hsb", "nan-tw")] == [
        *("sv", "rm", "zh", "hsb", "nan")
    ]
