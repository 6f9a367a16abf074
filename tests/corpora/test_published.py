"""FLEURS, Multilingual LibriSpeech and VoxPopuli by name: all forms in which they are published are the same."""

import json
import shutil
import tarfile
from pathlib import Path

import datasets
import jiwer
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import Audio, ClassLabel, Dataset
from huggingface_hub import HfApi
from transformers import pipeline

from hf_mlpl.audio.reading import load_audio
from hf_mlpl.cli.main import main
from hf_mlpl.corpora.readers.dataset_forms import language_configs
from hf_mlpl.corpora.readers.hf_datasets import read_dataset
from hf_mlpl.corpora.readers.published import locale_of_config
from hf_mlpl.corpora.reading import ReadingReport
from hf_mlpl.data.utterances import read_utterances

from ..random_model import save_folder, sweep
from .test_own_tables import write_lines, write_noise


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def push(local_hub, name: str, folder: Path, revision: str | None = None, script: bool = False) -> None:
    owner = name.partition("/")[0]
    token = next((token for token, user in local_hub.users.items() if user == owner), None)
    api = HfApi(token=token or local_hub.add_user(owner))
    api.create_repo(name, repo_type="dataset", exist_ok=True)
    if revision:
        api.create_branch(name, branch=revision, repo_type="dataset", exist_ok=True)
    api.upload_folder(repo_id=name, repo_type="dataset", folder_path=folder, revision=revision)
    if script:
        script = f"{name.rpartition('/')[2]}.py"
        api.upload_file(path_or_fileobj=b"raise OSError", path_in_repo=script, repo_id=name, repo_type="dataset")


def listed(rows) -> list[tuple]:
    return sorted((row["id"], row["language"], row["text"], row["speaker"]) for row in rows)


def assert_same(rows, expected: list[tuple], folder: Path) -> None:
    assert listed(rows) == expected
    for row in rows:
        np.testing.assert_array_equal(load_audio(row["audio"]), load_audio(next(folder.rglob(f"{row['id']}.wav"))))


# ---- FLEURS

SENTENCES = {"sl_si": [("701", "Da, seveda.", "da seveda"), ("702", "Ne!", "ne")], "sv_se": [("801", "Ja.", "ja")]}
UTTERANCES = [("701", "sl", "Da, seveda.", None), ("702", "sl", "Ne!", None), ("801", "sv-SE", "Ja.", None)]


@pytest.fixture
def fleurs(tmp_path) -> Path:
    """Returns a folder with the files of `google/fleurs`, extracted: tables without a header, `audio/test/*.wav`."""
    for config, sentences in SENTENCES.items():
        folder, lines = tmp_path / "fleurs" / "data" / config, []
        for number, (name, raw, normal) in enumerate(sentences):
            write_noise(folder / "audio" / "test" / f"{name}.wav", 0.1 + int(name) / 10000)
            lines.append(f"{number}\t{name}.wav\t{raw}\t{normal}\td a |\t1600\tFEMALE")
        write_lines(folder / "test.tsv", *lines)
        write_lines(folder / "dev.tsv", *lines[:1])
    return tmp_path / "fleurs"


def write_parquet(fleurs: Path, folder: Path) -> Path:
    """Writes the files to which the Hub converts them, `sl_si/test/0000.parquet`."""
    names = [*SENTENCES, "all"]
    for config, sentences in SENTENCES.items():
        audio = [fleurs / "data" / config / "audio" / "test" / f"{name}.wav" for name, _, _ in sentences]
        rows = {
            "id": range(len(sentences)),
            "num_samples": [1600] * len(sentences),
            "path": [f"/builder/{path.name}" for path in audio],
            "audio": [{"path": path.name, "bytes": path.read_bytes()} for path in audio],
            "transcription": [normal for _, _, normal in sentences],
            "raw_transcription": [raw for _, raw, _ in sentences],
            "gender": [1] * len(sentences),
            "lang_id": [names.index(config)] * len(sentences),
            "language": ["Slovenian"] * len(sentences),
            "lang_group_id": [0] * len(sentences),
        }
        (folder / config / "test").mkdir(parents=True)
        data = Dataset.from_dict(rows).cast_column("lang_id", ClassLabel(names=names)).cast_column("audio", Audio())
        data.to_parquet(folder / config / "test" / "0000.parquet")
    return folder


def pack(folder: Path, archive: Path) -> None:
    """Moves a folder of recordings into an archive."""
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, f"{folder.name}/{path.name}")
    shutil.rmtree(folder)


def with_configs(folder: Path, split: str = "test") -> Path:
    """Writes the card that makes configurations of the folders with Parquet files."""
    names = [path.name for path in sorted(folder.iterdir()) if path.is_dir()]
    lines = [f"- config_name: {name}\n  data_files:\n  - {{split: {split}, path: {name}/{split}/*}}" for name in names]
    write_lines(folder / "README.md", "---", "configs:", *lines, "---")
    return folder


def read_all(name: str | Path, split: str = "test", report: ReadingReport | None = None, **settings) -> list[dict]:
    report = report or ReadingReport()
    configs = language_configs(name)
    return [row for config in configs for row in read_dataset(name, report, split=split, config=config, **settings)]


FORMS = ["extracted", "archives", "converted", "Parquet on the Hub", "a copy of Parquet"]
FORMS.append(pytest.param("plain on the Hub", marks=pytest.mark.slow))


@pytest.mark.parametrize("form", FORMS)
def test_fleurs(fleurs, tmp_path, local_hub, form):
    originals = shutil.copytree(fleurs, tmp_path / "originals")
    name = "google/fleurs" if "Hub" in form or form == "converted" else fleurs
    if form in ("archives", "plain on the Hub"):
        for config in SENTENCES:
            pack(fleurs / "data" / config / "audio" / "test", fleurs / "data" / config / "audio" / "test.tar.gz")
    if "on the Hub" in form:
        folder = fleurs if form.startswith("plain") else with_configs(write_parquet(fleurs, tmp_path / "parquet"))
        push(local_hub, name, folder, script=form.startswith("plain"))
    elif form == "converted":
        write_lines(tmp_path / "card" / "README.md", "# FLEURS")
        push(local_hub, name, tmp_path / "card", script=True)
        push(local_hub, name, write_parquet(fleurs, tmp_path / "parquet"), "refs/convert/parquet")
    elif form == "a copy of Parquet":
        name = with_configs(write_parquet(fleurs, tmp_path / "parquet"))
    assert_same(read_all(name), UTTERANCES, originals)
    (row,) = read_dataset(name, ReadingReport(), {"text": "transcription"}, split="test", config="sv_se")
    assert (row["text"], row["language"]) == ("ja", "sv-SE")
    assert language_configs(name, ["sv-SE"]) == ["sv_se"]
    with pytest.raises(ValueError, match="no configuration of de; there are .*sl_si"):
        language_configs(name, ["de"])
    with pytest.raises(ValueError, match="(configuration|BuilderConfig) '?de_de'?"):
        list(read_dataset(name, ReadingReport(), split="test", config="de_de"))


def test_the_development_split_has_several_names(fleurs, tmp_path, local_hub):
    shutil.copytree(fleurs / "data" / "sl_si" / "audio" / "test", fleurs / "data" / "sl_si" / "audio" / "dev")
    for split in ("dev", "validation"):
        (row,) = read_dataset(fleurs, ReadingReport(), split=split, config="sl_si")
        assert row["text"] == "Da, seveda." and "/audio/dev/" in row["audio"]["path"]
    with pytest.raises(ValueError, match="sl_si: no split train; there are dev, test"):
        list(read_dataset(fleurs, ReadingReport(), config="sl_si"))
    with pytest.raises(ValueError, match="no configuration None; there are sl_si, sv_se"):
        list(read_dataset(fleurs, ReadingReport(), split="test"))
    card = with_configs(write_parquet(fleurs, tmp_path / "parquet")) / "README.md"
    card.write_text(card.read_text().replace("split: test", "split: validation"))
    push(local_hub, "google/fleurs", card.parent)
    for split in ("dev", "validation"):
        assert listed(read_dataset("google/fleurs", ReadingReport(), split=split, config="sl_si")) == UTTERANCES[:2]
    with pytest.raises(ValueError, match="google/fleurs: no split test; there are validation"):
        list(read_dataset("google/fleurs", ReadingReport(), split="test", config="sl_si"))


def test_rows_without_names_have_numbers(fleurs, tmp_path):
    for file in with_configs(write_parquet(fleurs, tmp_path / "talks")).glob("*/test/*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns("path"), file)
    names = ["talks/sl_si/test/0", "talks/sl_si/test/1", "talks/sv_se/test/0"]
    assert [row["id"] for row in read_all(tmp_path / "talks")] == names


def test_damaged_rows_of_fleurs(fleurs):
    folder = fleurs / "data" / "sl_si"
    rows = ["1\t701.wav\tDa.\tda\td a |\t1600\tMALE", "1\t../701.wav\tDa.\tda\td a |\t1600\tMALE", "1\t701.wav"]
    lost = "1\tlost.wav\tDa.\tda\td a |\t1600\tMALE"
    (folder / "test.tsv").write_bytes("\n".join([*rows, lost, rows[0]]).encode() + b"\xff\n")
    report = ReadingReport()
    (row,) = read_dataset(folder, report, split="test")
    assert row["id"] == "701" and row["language"] == "sl"
    assert report.dropped == {
        "file_name is not a file name": 1,
        "wrong number of columns": 1,
        "unreadable audio": 1,
        "bytes that are not UTF-8": 1,
    }


def test_languages_of_fleurs():
    """All 102 of its configurations; the codes of a language alone are those of ISO 639."""
    codes = (
        "af_za am_et ar_eg as_in ast_es az_az be_by bn_in bs_ba ca_es ceb_ph cmn_hans_cn yue_hant_hk cs_cz cy_gb "
        "da_dk de_de el_gr en_us es_419 et_ee fa_ir ff_sn fi_fi fil_ph fr_fr ga_ie gl_es gu_in ha_ng he_il hi_in "
        "hr_hr hu_hu hy_am id_id ig_ng is_is it_it ja_jp jv_id ka_ge kam_ke kea_cv kk_kz km_kh kn_in ko_kr ckb_iq "
        "ky_kg lb_lu lg_ug ln_cd lo_la lt_lt luo_ke lv_lv mi_nz mk_mk ml_in mn_mn mr_in ms_my mt_mt my_mm nb_no "
        "ne_np nl_nl nso_za ny_mw oc_fr om_et or_in pa_in pl_pl ps_af pt_br ro_ro ru_ru bg_bg sd_in sk_sk sl_si "
        "sn_zw so_so sr_rs sv_se sw_ke ta_in te_in tg_tj th_th tr_tr uk_ua umb_ao ur_pk uz_uz vi_vn wo_sn xh_za "
        "yo_ng zu_za"
    ).split()
    named = {
        **{"cmn_hans_cn": "zh-CN", "sv_se": "sv-SE", "hy_am": "hy-AM", "ga_ie": "ga-IE", "pa_in": "pa-IN"},
        **{"ne_np": "ne-NP", "nb_no": "nb-NO"},
    }
    assert len(codes) == 102
    assert {code: locale_of_config(code) for code in codes} == {code: code.split("_")[0] for code in codes} | named
    assert [locale_of_config(name) for name in ("default", "all", "clean", "asr", "")] == [None] * 5


# ---- Multilingual LibriSpeech

TRANSCRIPTS = {"10214_10108_000000": "no i co", "10214_10108_000001": "tak", "8758_8338_000000": "nie"}
READ = [(name, "pl", text, name.partition("_")[0]) for name, text in TRANSCRIPTS.items()]


@pytest.fixture
def mls(tmp_path) -> Path:
    """Returns the extracted archive `mls_polish` of OpenSLR, whose recordings may be Opus; here they are not."""
    folder = tmp_path / "mls" / "mls_polish" / "train"
    for number, name in enumerate(TRANSCRIPTS):
        speaker, book, _ = name.split("_")
        write_noise(folder / "audio" / speaker / book / f"{name}.wav", 0.1 + number / 100)
    write_lines(folder / "transcripts.txt", *(f"{name}\t{text}" for name, text in TRANSCRIPTS.items()))
    parts = {"9hr": ["10214_10108_000000"], "1hr/0": ["10214_10108_000001"], "1hr/1": ["8758_8338_000000"]}
    for part, names in parts.items():
        write_lines(folder / "limited_supervision" / part / "handles.txt", *names)
    return tmp_path / "mls"


def write_mls_parquet(mls: Path, folder: Path) -> None:
    """Writes the files of `facebook/multilingual_librispeech`, `polish/train/0.parquet`."""
    rows = []
    for number, (name, text) in enumerate(TRANSCRIPTS.items()):
        audio = next(mls.rglob(f"{name}.wav"))
        times = {"begin_time": 0.01, "end_time": 0.11 + number / 100}  # in the original: not a part of this recording
        rows.append(
            {"audio": {"path": audio.name, "bytes": audio.read_bytes()}, "original_path": "http://archive.org/a.mp3"}
            | times
            | {"transcript": text, "audio_duration": 0.1, "speaker_id": name.split("_")[0], "chapter_id": "10108"}
            | {"file": audio.name, "id": name}
        )
    (folder / "polish" / "train").mkdir(parents=True)
    Dataset.from_list(rows).cast_column("audio", Audio()).to_parquet(folder / "polish" / "train" / "0.parquet")


def test_multilingual_librispeech(mls, tmp_path, local_hub):
    assert_same(read_all(mls, "train"), READ, mls)
    assert_same(list(read_dataset(mls / "mls_polish", ReadingReport())), READ, mls)
    assert listed(read_all(mls, "9_hours")) == READ[:1] and listed(read_all(mls, "1_hours")) == READ[1:]
    with pytest.raises(ValueError, match="mls_polish: no split dev; there are train"):
        read_all(mls, "dev")
    write_mls_parquet(mls, tmp_path / "parquet")
    push(local_hub, "facebook/multilingual_librispeech", with_configs(tmp_path / "parquet", "train"))
    assert_same(read_all("facebook/multilingual_librispeech", "train"), READ, mls)


# ---- VoxPopuli

HEADER = "id\traw_text\tnormalized_text\tspeaker_id\tsplit\tgender\tis_gold_transcript\taccent"
ORDERS = [("20120314-PLENARY_1", "sl", "Gospod.", "7"), ("20120314-PLENARY_2", "sl", None, None)]


@pytest.mark.parametrize("form", ["folder", "plain on the Hub", "converted"])
def test_voxpopuli(tmp_path, local_hub, form):
    originals, folder, report = tmp_path / "originals", tmp_path / "voxpopuli" / "data" / "sl", ReadingReport()
    texts = [("Gospod.", "gospod", "7"), ("None", "hvala", "None")]
    for number, (name, *_) in enumerate(ORDERS):
        write_noise(originals / "test" / f"{name}.wav", 0.1 + number / 100)
    lines = [
        f"{name}\t{raw}\t{normal}\t{speaker}\ttest\tfemale\tTrue\tNone"
        for (name, *_), (raw, normal, speaker) in zip(ORDERS, texts, strict=True)
    ]
    write_lines(folder / "asr_test.tsv", HEADER, *lines)
    (folder / "test").mkdir()
    pack(shutil.copytree(originals / "test", tmp_path / "test"), folder / "test" / "test_part_0.tar.gz")
    name = folder.parents[1] if form == "folder" else "facebook/voxpopuli"
    if form == "plain on the Hub":
        push(local_hub, name, folder.parents[1], script=True)
    elif form == "converted":
        rows = [dict(zip(["audio_id", *HEADER.split("\t")[1:]], line.split("\t"), strict=True)) for line in lines]
        audio = [{"path": "a.wav", "bytes": (originals / "test" / f"{name}.wav").read_bytes()} for name, *_ in ORDERS]
        data = Dataset.from_list(rows).add_column("audio", audio).add_column("language", [0, 0])
        data = data.cast_column("language", ClassLabel(names=["sl", "en_accented"])).cast_column("audio", Audio())
        (tmp_path / "parquet" / "sl" / "partial-test").mkdir(parents=True)
        data.to_parquet(tmp_path / "parquet" / "sl" / "partial-test" / "0000.parquet")
        write_lines(tmp_path / "card" / "README.md", "# VoxPopuli")
        push(local_hub, name, tmp_path / "card", script=True)
        push(local_hub, name, tmp_path / "parquet", "refs/convert/parquet")
    assert_same(read_all(name, report=report), ORDERS, originals)
    partial = ["facebook/voxpopuli: the Hub has converted only the first part of test; the rest is not read"]
    assert report.notes == (partial if form == "converted" else [])
    second = read_all(name, columns={"text": "normalized_text"})[1]
    assert second["text"] == "hvala"


# ---- data sets on the Hub that cannot be read


def test_what_is_not_on_the_hub_is_told_in_one_line(tmp_path, local_hub, capsys):
    write_lines(tmp_path / "card" / "README.md", "# talks")
    push(local_hub, "someone/talks", tmp_path / "card", script=True)
    HfApi(token=local_hub.add_user("other")).create_repo("other/secret", repo_type="dataset", private=True)
    for name, message in {
        "someone/talks": "has a loading script, which `datasets` no longer runs, and no Parquet files at ",
        "other/secret": "doesn't exist on the Hub or cannot be accessed",
        "nobody/nothing": "doesn't exist on the Hub or cannot be accessed",
        "nothing at all": "nothing at all",
    }.items():
        assert main(["prepare-data", "--dataset", name, "--language", "sl", "--output", str(tmp_path / "data")]) == 1
        error = capsys.readouterr().err.strip()
        assert error.startswith(f"error: {name}: ") and message in error and "\n" not in error


# ---- by the commands


@pytest.mark.slow
def test_fleurs_by_the_commands(fleurs, tmp_path, local_hub, capsys):
    """Prepares a test set by its name on the Hub, and scores a model on it."""
    for path in (fleurs / "data" / "sl_si" / "audio" / "test").iterdir():
        soundfile.write(path, sweep(int(path.stem) - 700), 16000)
    push(local_hub, "google/fleurs", with_configs(write_parquet(fleurs, tmp_path / "parquet")))
    data, model = tmp_path / "data", save_folder(tmp_path / "model", ["sl", "sv-SE"])
    command = ["prepare-data", "--dataset", "google/fleurs", "--split", "test", "--output", str(data)]
    assert main([*command, "--config", "sl_si", "sv_se"]) == 0, capsys.readouterr().err
    assert listed(read_utterances([data / "test.parquet"])) == UTTERANCES
    assert main([*command, "--languages", "sl"]) == 0, capsys.readouterr().err
    rows = read_utterances([data / "test.parquet"])
    assert listed(rows) == UTTERANCES[:2]
    files = ["--model", str(model), "--data", str(data / "test.parquet"), "--output", str(tmp_path / "results.json")]
    assert main(["evaluate", *files]) == 0, capsys.readouterr().err
    results = json.loads((tmp_path / "results.json").read_text())
    fleurs_source = {"name": "FLEURS", "license": "cc-by-4.0", "url": "https://huggingface.co/datasets/google/fleurs"}
    assert results["sources"] == [fleurs_source]
    asr = pipeline("automatic-speech-recognition", str(model))
    texts = [answer["text"] for answer in asr([load_audio(row["audio"]) for row in rows])]
    assert len(set(texts)) == 2
    assert results["languages"]["sl"]["cer"] == pytest.approx(jiwer.cer(list(rows["text"]), texts))
