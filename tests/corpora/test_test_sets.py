"""Test sets by name: on the Hub, as copies of its files, and in the forms in which corpora are published."""

import json
import re
import shutil
from pathlib import Path

import pytest
import soundfile
from datasets import Audio, Dataset, load_dataset
from huggingface_hub import HfApi

from hf_mlpl.cli.main import main
from hf_mlpl.corpora.readers.published import locale_of_config
from hf_mlpl.data.utterances import read_utterances
from hf_mlpl.evaluation import SetRequest, prepare_test_set
from hf_mlpl.sharing.model_index import model_index

from ..packing import pack_tar
from ..random_model import save_folder, sweep
from ..ranks import run_on_two
from ..small_teachers import make_whisper
from .test_own_speech import librispeech, pack  # noqa: F401 - a fixture
from .test_own_tables import write_lines, write_noise
from .test_published import (  # noqa: F401 - fixtures
    HEADER,
    UTTERANCES,
    datasets_cache,
    fleurs,
    listed,
    mls,
    push,
    with_configs,
    write_mls_parquet,
    write_parquet,
)
from .test_published import pack as pack_folder


def prepared(dataset, cache: Path, **request):
    return prepare_test_set(SetRequest(str(dataset), **request), cache)


def rows_of(test_set) -> list[tuple]:
    return listed(read_utterances(test_set.files, test_set.languages))


def test_fleurs(fleurs, tmp_path, local_hub, monkeypatch, caplog):  # noqa: F811
    """A copy of the files and the data set on the Hub are one test set, which is read again only if it changes."""
    cache = tmp_path / "test-sets"
    copy = prepared(fleurs, cache)
    assert rows_of(copy) == UTTERANCES and copy.languages == ["sl", "sv-SE"]
    description = {
        "id": "google/fleurs",
        "name": "FLEURS",
        "configs": {"sl": "sl_si", "sv-SE": "sv_se"},
        "split": "test",
        "license": "cc-by-4.0",
        "left_out": {},
    }
    assert copy.description == description | {"revision": None}
    line = "test set: FLEURS (google/fleurs), split test, licence cc-by-4.0: 3 utterances of 2 languages"
    assert copy.lines == [line]
    speech = fleurs / "data" / "sl_si" / "audio"
    shutil.copytree(speech / "test", speech / "dev")
    for split in ("dev", "validation"):
        (line,) = prepared(fleurs, cache, split=split, languages=["sl"]).lines
        assert " (google/fleurs, sl_si), split validation, licence cc-by-4.0: 1 utterances of 1 language" in line
    shutil.rmtree(speech / "dev")
    file, state = Path(copy.files[0]), Path(copy.files[0]).stat()
    (line_of_second,) = prepared(fleurs, cache).lines[1:]
    assert line_of_second == f"it was prepared before, in {file.parent}" and file.stat() == state
    write_lines(fleurs / "data" / "sv_se" / "test.tsv", "0\t801.wav\tNej.\tnej\td a |\t1600\tFEMALE", "1\tbad")
    changed = prepared(fleurs, cache)
    assert [text for *_, text, _ in rows_of(changed)] == ["Da, seveda.", "Ne!", "Nej."]
    assert changed.description["left_out"] == {"wrong number of columns": 1}
    assert "has changed since it was prepared" in changed.lines[1]
    assert changed.lines[2].startswith("left out: 1 wrong number of columns; see ")
    recording = fleurs / "data" / "sl_si" / "audio" / "test" / "701.wav"
    content = recording.read_bytes()
    recording.write_bytes(b"RIFF")
    assert prepared(fleurs, cache, languages=["sl"]).description["left_out"] == {"unreadable audio": 1}
    assert "it was prepared before" in prepared(fleurs, cache, languages=["sl"]).lines[1]
    recording.write_bytes(content)
    repaired = prepared(fleurs, cache, languages=["sl"])
    assert rows_of(repaired) == UTTERANCES[:2] and "has changed since" in repaired.lines[1]

    push(local_hub, "google/fleurs", with_configs(write_parquet(fleurs, tmp_path / "parquet")))
    monkeypatch.setattr("hf_mlpl.evaluation.test_sets.ANNOUNCED_BYTES", 1)
    sizes = {path.parts[-3]: path.stat().st_size / 1e9 for path in tmp_path.glob("parquet/*/test/*.parquet")}
    for languages, downloaded in ([["sl"], ["sl_si"]], [[], ["sv_se"]]):  # what is in the cache is not downloaded
        caplog.clear()
        prepared("google/fleurs", tmp_path / "other", languages=languages)
        [line] = caplog.records
        assert line.args == ("google/fleurs", sum(sizes[config] for config in downloaded))
        assert line.getMessage() == "google/fleurs: about 0.0 GB to download, once"
    hub = prepared("google/fleurs", cache)
    assert rows_of(hub) == UTTERANCES and len(caplog.records) == 1
    commit = HfApi().dataset_info("google/fleurs").sha
    assert hub.description == description | {"revision": commit}
    assert prepared(tmp_path / "parquet", cache).description == copy.description
    assert prepared("hf://datasets/google/fleurs", cache).description == hub.description
    for wrong in ({"split": "tset"}, {"configs": ["de_de"]}, {"languages": ["de"]}):
        with pytest.raises(ValueError, match="google/fleurs: .*(there are|Available)") as refused:
            prepared("google/fleurs", cache, **wrong)
        assert "known by name" not in str(refused.value)  # it is known
    (one,) = rows_of(prepared("google/fleurs", cache, languages=["sv", "de"]))
    assert one == UTTERANCES[-1]
    assert prepared("google/fleurs", cache, languages=["sv", "de"]).lines[-1] == "no utterances of de"
    with monkeypatch.context() as offline:
        offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        line = prepared("google/fleurs", cache).lines[1]
        assert " cannot be reached (" in line and line.endswith("google--fleurs-test-all is used as it is")
        with pytest.raises(
            ValueError, match="google/fleurs: no such path, and http://.* cannot be reached"
        ) as refused:
            prepared("google/fleurs", tmp_path / "none" / "yet")
        assert "\n" not in str(refused.value) and not (tmp_path / "none" / "yet").exists()
    card = tmp_path / "parquet" / "README.md"
    write_lines(card, card.read_text(), "# FLEURS")
    push(local_hub, "google/fleurs", card.parent)
    again = prepared("google/fleurs", cache)
    assert again.description["revision"] not in (None, commit) and "has changed since" in again.lines[1]
    write_lines(card, card.read_text().replace("test, path: sv_se", "train, path: sv_se"))
    push(local_hub, "google/fleurs", card.parent)
    for _ in range(2):  # it is not kept without a language
        with pytest.raises(ValueError, match="nothing of sv-SE can be read: google/fleurs: no split test; there are"):
            prepared("google/fleurs", cache)
    assert rows_of(prepared("google/fleurs", cache, languages=["sl_si"])) == UTTERANCES[:2]


def test_all_languages_have_a_configuration(tmp_path):
    """The configurations of FLEURS, of which each has a language of its own, are kept for cards."""
    from .test_published import test_languages_of_fleurs

    codes = next(const for const in test_languages_of_fleurs.__code__.co_consts if str(const).startswith("af_za"))
    assert len({locale_of_config(code) for code in codes.split()}) == 102


SPEECH = [("1089-134686-0000", "en", "HE HOPED THERE WOULD BE STEW", "1089")]
SPEECH += [("1089-134686-0001", "en", "TURNIPS AND CARROTS", "1089"), ("61-70968-0000", "en", "HE BEGAN", "61")]


def test_librispeech(librispeech, tmp_path, local_hub):  # noqa: F811
    """The archive of OpenSLR, extracted or not, and the Parquet files on the Hub are one test set."""
    cache = tmp_path / "test-sets"
    shutil.copytree(librispeech / "test-clean", tmp_path / "both" / "test-clean")
    shutil.copytree(librispeech / "test-clean", tmp_path / "both" / "test-other")
    folder = tmp_path / "openslr" / "librispeech_asr"
    for place in ("all/test.clean", "clean/test"):
        (folder / place).mkdir(parents=True)
        rows = [
            {
                "file": f"{name}.flac",
                "audio": {"path": f"{name}.flac", "bytes": next(librispeech.rglob(f"{name}.flac")).read_bytes()},
                "text": text,
                "speaker_id": int(speaker),
                "chapter_id": int(name.split("-")[1]),
                "id": name,
            }
            for name, _, text, speaker in SPEECH
        ]
        Dataset.from_list(rows).cast_column("audio", Audio()).to_parquet(folder / place / "0000.parquet")
    lines = [
        "- config_name: all",
        "  default: true",
        "  data_files:",
        "  - {split: test.clean, path: all/test.clean/*}",
    ]
    lines += ["- config_name: clean", "  data_files:", "  - {split: test, path: clean/test/*}"]
    write_lines(folder / "README.md", "---", "configs:", *lines, "---")
    push(local_hub, "openslr/librispeech_asr", folder)
    commit = HfApi().dataset_info("openslr/librispeech_asr").sha
    archive = pack(librispeech, tmp_path / "downloads" / "test-clean.tar.gz", "w:gz")
    clean = {"configs": {"en": "clean"}, "split": "test", "revision": None}
    by_split = {"configs": {"en": "all"}, "split": "test.clean", "revision": commit}
    for dataset, request, expected in [
        (librispeech, {}, None),
        (archive.parent, {"split": "test-clean"}, clean),
        (archive, {}, clean),
        (tmp_path / "both" / "test-clean", {}, clean),
        (tmp_path / "both", {"split": "test.clean"}, clean),
        (tmp_path / "both", {"configs": ["clean"]}, clean),
        ("openslr/librispeech_asr", {"split": "test.clean"}, by_split),
        ("openslr/librispeech_asr", {"split": "test-clean", "languages": ["en"]}, by_split),
        ("openslr/librispeech_asr", {"configs": ["clean"]}, clean | {"revision": commit}),
        (folder, {"configs": ["clean"]}, clean),
    ]:
        found = prepared(dataset, cache, **request)
        assert sorted(rows_of(found)) == SPEECH
        known = {"id": "openslr/librispeech_asr", "name": "LibriSpeech", "license": "cc-by-4.0", "left_out": {}}
        assert found.description == known | (expected or clean)
    shutil.copytree(librispeech / "test-clean", tmp_path / "both" / "dev-clean")
    for split in ("dev.clean", "validation-clean", "validation"):
        description = prepared(tmp_path / "both", cache, split=split).description
        assert (description["configs"], description["split"]) == ({"en": "clean"}, "validation")
    with pytest.raises(ValueError, match="no split validation.clean; there are test.clean"):
        prepared("openslr/librispeech_asr", cache, split="dev-clean")
    with pytest.raises(ValueError, match="both: its columns and languages are known, so the column x, the language"):
        prepared(tmp_path / "both", cache, columns={"text": "x"}, language="sl")
    with pytest.raises(ValueError, match="split test is not one of its splits, dev-clean, test-clean, test-other"):
        prepared(tmp_path / "both", cache)
    with pytest.raises(ValueError, match="no split test; there are test.clean"):
        prepared("openslr/librispeech_asr", cache)


def test_common_voice(tone_corpus, tmp_path):
    release = next(tone_corpus.rglob("clips")).parents[1]
    archive = pack_tar(release, tmp_path / "cv-corpus-6.1-2020-12-11.tar.gz")
    cache = tmp_path / "test-sets"
    packed = prepared(archive, cache, languages=["sv"])
    assert packed.description == {
        "id": "mozilla-foundation/common_voice_6_1",
        "name": "Common Voice, cv-corpus-6.1-2020-12-11",
        "configs": {"sv-SE": "sv-SE"},
        "split": "test",
        "revision": None,
        "license": "cc0-1.0",
        "left_out": {},
    }
    rows = rows_of(packed)
    assert rows and rows == rows_of(prepared(release, cache, languages=["sv-SE"]))
    assert {*prepared(release, cache).languages} > {"sv-SE"}
    for split in ("dev", "validation"):
        found = prepared(release, cache, split=split, languages=["sv-SE"])
        assert found.description["split"] == "validation"  # so the Hub called it
        assert rows_of(found) and not {*rows_of(found)} & {*rows}
    for split in ("foo", "tests", "test[:2]", "test+train", "unlabelled"):  # it would read another split in silence
        with pytest.raises(ValueError, match=rf"no split {re.escape(split)}; there are train, dev, test, validated"):
            prepared(release, cache, split=split)
    with pytest.raises(ValueError, match="its columns and languages are known, so the column words cannot be chosen"):
        prepared(release, cache, columns={"text": "words"})
    with pytest.raises(ValueError, match="no utterances of sv-SE; there are those of de"):
        prepared(release, cache, configs=["de"], languages=["sv"])


def test_multilingual_librispeech_and_voxpopuli(mls, tmp_path):  # noqa: F811
    cache, folder = tmp_path / "test-sets", tmp_path / "voxpopuli" / "transcribed_data"
    found = prepared(mls, cache, split="train")
    assert found.description["id"] == "facebook/multilingual_librispeech"
    assert (found.description["configs"], found.description["split"]) == ({"pl": "polish"}, "train")
    assert len(rows_of(found)) == 3
    for code in ("sv", "en", "en_accented"):
        rows = [f"2020_{code}_1\tJa.\tja\t7\ttest\tm\tTrue\tNone", f"2020_{code}_2\t\tnej\t7\ttest\tm\tTrue\tNone"]
        write_lines(folder / code / "asr_test.tsv", HEADER, *rows)
        for number in (1, 2):
            write_noise(folder / code / "2020" / f"2020_{code}_{number}.ogg", 0.2)
    found = prepared(folder.parent, cache)
    assert [row[:3] for row in rows_of(found)] == [("2020_en_1", "en", "Ja."), ("2020_sv_1", "sv-SE", "Ja.")]
    assert found.description["id"] == "facebook/voxpopuli" and found.description["left_out"] == {"no raw_text": 2}
    assert found.description["configs"] == {"en": "en", "sv-SE": "sv"}
    for split in ("dev", "foo", "test[:1]"):
        with pytest.raises(ValueError, match=rf"voxpopuli: no split {re.escape(split)}; there are test"):
            prepared(folder.parent, cache, split=split)
    found = prepared(folder.parent, cache, columns={"text": "normalized_text"}, configs=["en_accented"])
    said = [("2020_en_accented_1", "en", "ja"), ("2020_en_accented_2", "en", "nej")]
    assert [row[:3] for row in rows_of(found)] == said
    assert found.description["configs"] == {"en": "en_accented"}
    with pytest.raises(ValueError, match="voxpopuli: the configurations en and en_accented are of one language, en;"):
        prepared(folder.parent, cache, configs=["en", "en_accented"])


def test_any_data_set(tmp_path, local_hub):
    """A data set whose columns say all, one that does not say its language, and names that lead nowhere."""
    cache, folder = tmp_path / "test-sets", tmp_path / "talks"
    write_noise(folder / "a.wav", 0.2)
    write_lines(folder / "metadata.csv", "file_name,words,lang", "a.wav,Ja.,sv", "a.wav,,sv")
    write_lines(folder / "source.json", json.dumps({"name": "talks", "license": "mit"}))
    found = prepared(folder, cache, columns={"text": "words"})
    assert [row[1:3] for row in rows_of(found)] == [("sv-SE", "Ja.")]
    assert found.description == {
        "id": None,
        "name": "talks",
        "configs": {},
        "split": "test",
        "revision": None,
        "license": "mit",
        "left_out": {"no text": 1},
    }
    with pytest.raises(ValueError, match="talks: no utterances of de; there are those of sv-SE"):
        prepared(folder, cache, columns={"text": "words"}, languages=["de"])
    card = tmp_path / "card"
    write_lines(card / "README.md", "---", "license: cc-by-nc-4.0", "---")
    audio = {"path": "a.wav", "bytes": (folder / "a.wav").read_bytes()}
    rows = Dataset.from_list([{"audio": audio, "text": "Ja."}]).cast_column("audio", Audio())
    for split in ("test", "validation"):
        rows.to_parquet(card / f"{split}.parquet")
    push(local_hub, "someone/talks", card)
    with pytest.raises(ValueError, match="give --language-column or --language"):
        prepared("someone/talks", cache)
    found = prepared("someone/talks", cache, language="sv-SE")
    assert found.description["configs"] == {"sv-SE": "default"}
    assert (found.description["id"], found.description["license"]) == ("someone/talks", "cc-by-nc-4.0")
    assert prepared("someone/talks", cache, language="sv-SE", split="dev").description["split"] == "validation"
    with pytest.raises(ValueError, match="google/flores: .*accessed; known by name are google/fleurs, facebook/multi"):
        prepared("google/flores", cache)
    for wrong in ("./flores", str(tmp_path / "flores"), "google/fleurs@main"):
        with pytest.raises(
            ValueError, match=f"^{re.escape(wrong)}: no such file or folder, and not the name of a data"
        ):
            prepared(wrong, cache)
    with pytest.raises(
        ValueError, match="common_voice_17_0: .*no longer on the Hub: download one from https://datacoll"
    ):
        prepared("mozilla-foundation/common_voice_17_0", cache)


@pytest.mark.slow
def test_published_sets_on_the_hub(fleurs, mls, tmp_path, local_hub):  # noqa: F811
    """Parquet files of MLS, and the archives that the loading scripts of FLEURS and VoxPopuli would read."""
    cache = tmp_path / "test-sets"
    write_mls_parquet(mls, tmp_path / "parquet")
    push(local_hub, "facebook/multilingual_librispeech", with_configs(tmp_path / "parquet", "train"))
    found = prepared("facebook/multilingual_librispeech", cache, split="train", languages=["pl"])
    assert rows_of(found) == rows_of(prepared(mls, cache, split="train"))
    assert found.description["configs"] == {"pl": "polish"} and found.description["id"].endswith("librispeech")
    for config in ("sl_si", "sv_se"):
        pack_folder(fleurs / "data" / config / "audio" / "test", fleurs / "data" / config / "audio" / "test.tar.gz")
    voxpopuli = tmp_path / "voxpopuli" / "data"
    for code in ("sl", "en", "en_accented"):
        rows = [f"2020_{code}_1\tJa.\tja\t7\ttest\tm\tTrue\tNone", f"2020_{code}_2\tNone\tne\t7\ttest\tm\tTrue\tNone"]
        write_lines(voxpopuli / code / "asr_test.tsv", HEADER, *rows)
        for number in (1, 2):
            write_noise(tmp_path / code / "test" / f"2020_{code}_{number}.wav", 0.2)
        (voxpopuli / code / "test").mkdir()
        pack_folder(tmp_path / code / "test", voxpopuli / code / "test" / "test_part_0.tar.gz")
    for name, folder in {"google/fleurs": fleurs, "facebook/voxpopuli": voxpopuli.parent}.items():
        push(local_hub, name, folder, script=True)
        found = prepared(name, cache)
        assert rows_of(found) == rows_of(prepared(folder, cache)) != []
        assert found.description["revision"] == HfApi().dataset_info(name).sha
        assert found.description == prepared(folder, cache).description | {"revision": found.description["revision"]}
    assert found.description["left_out"] == {"no text": 2}
    assert found.description["configs"] == {"en": "en", "sl": "sl"}


@pytest.mark.slow
def test_evaluate(fleurs, tmp_path, local_hub, capsys):  # noqa: F811
    """The command on a data set of the Hub, on a copy, and again with models that know one language of two."""
    for path in fleurs.rglob("*.wav"):
        soundfile.write(path, sweep(int(path.stem) % 10), 16000)
    push(local_hub, "google/fleurs", with_configs(write_parquet(fleurs, tmp_path / "parquet")))
    models = {name: save_folder(tmp_path / name, ["sl", "sv-SE"]) for name in ("hub", "copy")}
    models["one"], models["whisper"] = save_folder(tmp_path / "one", ["sl"]), tmp_path / "whisper"
    make_whisper(models["whisper"])
    results = {}
    for name, model in models.items():
        output = tmp_path / "results" / f"{name}.json"
        command = ["--dataset", "google/fleurs" if name == "hub" else str(fleurs), "--output", str(output)]
        command += ["--languages", "all"] if name != "copy" else []
        assert main(["evaluate", "--model", str(model), *command]) == 0, capsys.readouterr().err
        results[name], said = json.loads(output.read_text()), capsys.readouterr().out
        assert "test set: FLEURS (google/fleurs), split test, licence cc-by-4.0: 3 utterances of 2 languages" in said
        assert ("it was prepared before" in said) is (name in ("one", "whisper"))
        unknown = {"one": ["sv-SE"], "whisper": ["sl"]}.get(name, [])
        assert results[name]["unknown_languages"] == unknown and results[name]["languages_left_out"] == []
        assert (f"the model does not know {', '.join(unknown)};" in said) is bool(unknown)
        assert results[name]["languages"].keys() == {"sl", "sv-SE"}
    assert results["hub"]["languages"] == results["copy"]["languages"]
    assert results["hub"]["dataset"]["configs"] == {"sl": "sl_si", "sv-SE": "sv_se"}
    assert results["hub"]["sources"][0]["license"] == results["hub"]["dataset"]["license"] == "cc-by-4.0"
    for rate in model_index([results["hub"]]):  # a card names what `load_dataset` takes
        place = {"name": rate.dataset_config, "split": rate.dataset_split, "revision": rate.dataset_revision}
        language = {"sl_si": "sl", "sv_se": "sv-SE"}[rate.dataset_config]
        assert len(load_dataset(rate.dataset_type, **place)) == results["hub"]["languages"][language]["utterances"]
    command = ["--model", tmp_path / "copy", "--dataset", fleurs, "--output", tmp_path / "two" / "copy.json"]
    for status, errors in run_on_two(tmp_path, "evaluate.py", *command):  # one prepares, and the other waits for it
        assert status == 0, errors
    assert json.loads((tmp_path / "two" / "copy.json").read_text())["languages"] == results["copy"]["languages"]
    command = ["evaluate", "--model", str(tmp_path / "hub"), "--output", str(tmp_path / "r.json")]
    for arguments, error in [
        (["--data", "a.parquet", "--split", "test"], "of a test set, which --dataset names"),
        (["--dataset", "google/fleurs", "--languages", "sl", "all"], "--languages sl all: all stands alone"),
    ]:
        with pytest.raises(SystemExit):
            main([*command, *arguments])
        assert error in capsys.readouterr().err
    assert main([*command[:2], "nowhere", *command[3:], "--dataset", "google/fleurs"]) == 1
    assert not (tmp_path / "test-sets").exists()  # nothing is prepared for a model that does not exist
