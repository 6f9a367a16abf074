"""Tests the cards of real and of large runs: valid for the Hub, unchanged by rereading, without empty fields."""

import json
import re
import shutil
from pathlib import Path

import jinja2
import numpy as np
import pytest
import soundfile
import yaml
from huggingface_hub import EvalResult, ModelCard

from hf_mlpl import MlplForCTC
from hf_mlpl.corpora.sources import SYNTHETIC
from hf_mlpl.ctc_models import ctc_interface
from hf_mlpl.ctc_models.loading import load_student, read_config
from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.evaluation.results import read_results
from hf_mlpl.evaluation.speed_line import NUMBERS, NUMBERS_OR_NULL, TEXTS
from hf_mlpl.inference.loading import load_model
from hf_mlpl.sharing.model_card import TEMPLATES, model_card, teacher_revision
from hf_mlpl.training.loop import train
from hf_mlpl.training_config import load_config

from ..commands import run_command
from ..random_model import RATE, sweep
from ..small_models import missing, save_small_model
from ..training.test_loop import Killed, kill_at

ROOT = Path(__file__).resolve().parents[2]
CARDS = sorted(path for path in (ROOT / "model_cards").glob("*.md") if path.name != "README.md")
TEMPLATE = (TEMPLATES / "model_card.md").read_text().replace("{{ use }}", (TEMPLATES / "use.md").read_text())
SECTIONS = re.findall(r"^## .*", TEMPLATE, re.MULTILINE)
# Traces of unfilled fields: empty values of Python, leftovers of jinja, and paths of this machine.
EMPTY = re.compile(
    r"\bNone\b|\bnan\b|\bnull\b|\[\]|\{\}|\{\{|\{%|TODO|More Information Needed|(?<![\w.:/])/\w+/\w+|\|  \|"
)
ISO_639 = re.compile("[a-z]{2,3}")


def check(card: ModelCard) -> None:
    """Raises for a card with an empty field, or one that changes when it is read again."""
    text = str(card)
    assert EMPTY.search(text) is None, EMPTY.search(text)
    assert re.findall(r"^## .*", text, re.MULTILINE) == SECTIONS
    for section in re.split(r"^## .*", text, flags=re.MULTILINE)[1:]:
        assert section.strip()
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table
    again = ModelCard(text)
    assert again.data.to_dict() == card.data.to_dict() and str(again) == text
    assert all(ISO_639.fullmatch(code) for code in card.data.language)
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "automatic-speech-recognition")
    assert card.data.license and card.data.tags and card.data.metrics == ["cer", "wer"]
    for rate in card.data.eval_results or ():
        assert isinstance(rate, EvalResult) and 0 <= rate.metric_value < 1000
        assert rate.dataset_name and rate.dataset_type and rate.dataset_config and rate.dataset_split


@pytest.fixture
def settings(tone_data, tmp_path):
    """Returns a function that gives the settings of a short run in a folder of `tmp_path`."""

    def settings(name, *overrides):
        short = [f"output_dir={tmp_path / name}", "max_updates=6", "save_every=4", "eval_every=6"]
        return load_config(tone_data / "tones.yaml", [*short, *overrides])

    return settings


def rates(scores: dict) -> dict:
    return {"utterances": 8, "hours": 0.01, "language_accuracy": None} | scores


def results_on(files: list[str], languages: dict[str, float], **more) -> dict:
    """Returns results in the form of hf-mlpl evaluate, with these CERs, and WERs twice as high."""
    scores = {language: rates({"cer": cer, "wer": 2 * cer}) for language, cer in languages.items()}
    mean = sum(languages.values()) / len(languages)
    totals = {"macro": rates({"cer": mean, "wer": 2 * mean}), "utterances": 8 * len(scores), "hours": 0.01}
    return {"model": "run/model", "data": files, "languages": scores, "unreadable": 0, **totals, **more}


def test_a_finished_run(tone_run, local_hub):
    card = model_card(tone_run)
    check(card)
    card.validate()
    dev = json.loads((tone_run / "results.json").read_text())["languages"]
    shown = {(rate.dataset_config, rate.metric_type): rate.metric_value for rate in card.data.eval_results}
    assert shown == {
        (language, metric): round(100 * dev[language][metric], 2) for language in dev for metric in ("cer", "wer")
    }
    assert {rate.dataset_split for rate in card.data.eval_results} == {"dev"}
    assert "On dev, after 60 updates" in card.text and "is not finished" not in card.text
    assert "1. `tones`: a new model, 60 updates on " in card.text and "![" in card.text
    assert (card.data.language, card.data.license) == (["de", "sv"], "unknown")
    assert "Human transcripts are few, less than 10 hours, in all languages." in card.text
    assert "Where the speech is from is not noted" in card.text


def test_its_examples_run(tone_run, tmp_path, monkeypatch, capsys):
    card = model_card(tone_run)
    (tmp_path / tone_run.name).symlink_to(tone_run)
    samples = np.random.default_rng(0).normal(0, 0.1, 16_000)
    soundfile.write(tmp_path / "recording.wav", samples, 16_000)
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(example, {})
    by_pipeline, by_code = capsys.readouterr().out.splitlines()
    assert by_code == by_pipeline


def test_a_save_point_without_results(settings, monkeypatch, tmp_path, local_hub):
    kill_at(monkeypatch, 5)
    with pytest.raises(Killed):
        train(settings("run", "push_to_hub=null", "license=cc-by-4.0"))
    card = model_card(tmp_path / "run", repo_id="me/tones")
    check(card)
    card.validate()
    assert "It is not finished: 4 of 6 updates." in card.text and "There are none yet." in card.text
    assert card.data.eval_results is None and card.data.license == "cc-by-4.0"
    assert 'model="me/tones"' in card.text and "# tones\n" in card.text
    assert "Nothing here says how good it is in all languages" in card.text


@pytest.fixture
def slimipl_run(tone_data, tone_run, settings):
    given = [f"model={tone_run / 'model'}", "tokens=null", f"unlabelled=[{tone_data / 'unlabelled.parquet'}]"]
    slimipl = "slimipl={start_update: 1, cache_size: 2, unsupervised_updates: 1}"
    return train(settings("sv", *given, slimipl, "language=sv-SE", "stage=finetune", "learning_rate=1e-3")).parent


def test_slimipl_of_one_language(slimipl_run, local_hub):
    card = model_card(slimipl_run)
    check(card)
    card.validate()
    assert card.data.language == ["sv"] and "# finetune-sv-SE\n" in card.text and "in sv-SE: a CTC model" in card.text
    lines = re.findall(r"^\d\. .*", card.text, re.MULTILINE)
    assert len(lines) == 2 and lines[0].startswith("1. `tones`: a new model, 60 updates")
    assert lines[1].startswith("2. `finetune-sv-SE`: from `run`, 6 updates")
    assert lines[1].endswith("that slimIPL labels on the way, in sv-SE.")
    assert "Pseudo-labels repeat the mistakes" in card.text and "slimIPL, h" in card.text


def test_labels_and_results_of_tests(tone_data, tone_run, settings, tmp_path, local_hub):
    """A final run whose second language has pseudo-labels alone."""
    rows = read_utterances([tone_data / "unlabelled.parquet"]).to_list()
    labels = tmp_path / "labels.parquet"
    teacher = {"source": "sv-SE/model@0123456789ab"}
    write_utterances([row | {"text": "de"[i % 2]} | teacher for i, row in enumerate(rows)], labels)
    human = [row for row in read_utterances([tone_data / "train.parquet"]).to_list() if row["language"] == "de"]
    write_utterances(human, tmp_path / "human" / "train.parquet")
    source = {"name": "me/speech", "license": "cc0-1.0", "url": "https://huggingface.co/datasets/me/speech"}
    report = {"splits": {"train": {"sources": [source, vars(SYNTHETIC)]}}}
    (tmp_path / "human" / "report.json").write_text(json.dumps(report))
    files = f"train=[{tmp_path / 'human' / 'train.parquet'}, {labels}]"
    languages = ["languages=[de, sv-SE]", "dev=[]", "license=apache-2.0"]
    run = train(settings("final", files, *languages)).parent
    tested = {"sources": [source], "unseen_in": []}
    results = [
        results_on(["data/test.parquet"], {"de": 0.125, "sv-SE": 0.75}, **tested),
        results_on(["data/other.parquet"], {"de": 0.5}, unreadable=2),
    ]
    card = model_card(run, results)
    check(card)
    card.validate()
    shown = [(r.dataset_type, r.dataset_config, r.dataset_split, r.metric_value) for r in card.data.eval_results]
    assert shown[:4] == [
        ("me/speech", "de", "test", 12.5),
        ("me/speech", "de", "test", 25.0),
        ("me/speech", "sv-SE", "test", 75.0),
        ("me/speech", "sv-SE", "test", 150.0),
    ]
    assert shown[4:] == [("other.parquet", "de", "other", 50.0), ("other.parquet", "de", "other", 100.0)]
    assert card.data.datasets == ["me/speech"] and card.data.license == "apache-2.0"
    assert "(CER above 50%) in sv-SE." in card.text and "no human transcript of sv-SE, only pseudo-labels" in card.text
    assert "`sv-SE/model@0123456789ab`" in card.text and "It has learned from synthetic speech" in card.text
    assert "there are 2." in card.text and "is not known: synthetic speech by espeak-ng." in card.text
    with pytest.raises(ValueError, match="two of the results are of other.parquet, de; give one of them"):
        model_card(run, [results[1], results[1]])


@pytest.fixture
def written_run(tmp_path):
    """Returns a function that writes the record of a run in so many languages, with an origin without a record."""

    def write(languages: list[str], release: dict) -> Path:
        recipe = yaml.safe_load((ROOT / "recipes" / "common_voice_voxpopuli" / "supervised.yaml").read_text())
        hours = dict.fromkeys(languages, {"human_hours": 12.0, "pseudo_labelled_hours": 0.0, "teachers": []})
        session = {"first_update": 5, "hours": 1234.5, "hardware": "NVIDIA H100", "processes": 64, "commit": None}
        run = {
            **{"stage": "supervised", "language": None, "updates": 1000, "dropped": {"no text": 1234}},
            "model": {"parameters": 1_058_849_871, "languages": languages},
            "started_from": {"name": "someone/mlpl", "revision": "f" * 40, "run": None},
            **{"training_data": hours, "unlabelled_hours": {}, "sources": [release]},
            "sessions": [session | {"versions": {"torch": "2.13.0"}}],
        }
        (tmp_path / "run.json").write_text(json.dumps(run))
        config = recipe | {"output_dir": str(tmp_path), "max_updates": 1000, "languages": languages}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        return tmp_path

    return write


RELEASE = {"name": "Common Voice, cv-corpus-6.1-2020-12-11", "license": "cc0-1.0", "url": None}


def test_sixty_languages(written_run, local_hub):
    recipe = yaml.safe_load((ROOT / "recipes" / "common_voice_voxpopuli" / "supervised.yaml").read_text())
    locales = recipe["languages"]
    tested = results_on(["test.parquet"], dict.fromkeys(locales, 0.25), sources=[RELEASE])
    card = model_card(written_run(locales, RELEASE), [tested])
    check(card)
    card.validate()
    # ja, th and three of zh have no WER
    assert len(card.data.eval_results) == 120 - 5 and card.data.base_model == "someone/mlpl"
    assert len(card.data.language) == 60 - 1 - 2  # rm twice, zh three times
    assert "in 60 languages: a CTC model with 1,058,849,871 parameters" in card.text
    assert "1. `someone/mlpl` at `ffffffffffff`, whose training is not noted here.\n2. `supervised`: from" in card.text
    assert "from update 5 on, 1234.50 hours in 64 processes on NVIDIA H100; torch 2.13.0\n" in card.text
    assert "few" not in card.text and "written without spaces" in card.text and "1,234 (no text)" in card.text


def with_new_scores(results: dict) -> dict:
    """Adds what results of today have: normalised rates half as high, intervals, means by hours and a speed."""
    for scores in (*results["languages"].values(), results["macro"]):
        scores["normalized"] = {rate: scores[rate] / 2 for rate in ("cer", "wer")}
        rates = {"cer": scores["cer"], "wer": scores["wer"]}
        rates |= {f"normalized_{rate}": value for rate, value in scores["normalized"].items()}
        scores["intervals"] = {rate: [0.9 * value, 1.1 * value] for rate, value in rates.items()}
    numbers = dict.fromkeys([*NUMBERS, *NUMBERS_OR_NULL], 1) | {"rtfx": 1234.5, "batch_seconds": 600}
    texts = dict.fromkeys(TEXTS, "GPU") | {"hardware": "NVIDIA H200", "dtype": "bfloat16", "device": "cuda"}
    return results | {"by_hours": results["macro"], "normalization": "scores-1", "speed": numbers | texts}


def test_data_sets_of_the_hub(written_run, tmp_path, local_hub):
    """The Hub's own reader finds the names that `load_dataset` takes, and all rates under them."""
    cer = {"sl": 0.125, "zh-CN": 0.5, "en": 0.0625}
    configs = {"sl": "sl_si", "zh-CN": "cmn_hans_cn", "en": "en_us"}
    source = {"name": "FLEURS", "license": "cc-by-4.0", "url": "https://huggingface.co/datasets/google/fleurs"}
    fleurs = {"id": "google/fleurs", "configs": configs, "split": "test", "revision": "a" * 40}
    fleurs |= {"left_out": {"no text": 3}}
    unknown = {"unknown_languages": ["sl"], "languages_left_out": ["fi"]}
    librispeech = {"id": "openslr/librispeech_asr", "configs": {"en": "clean"}, "split": "test", "revision": None}
    other = librispeech | {"configs": {"en": "other"}}
    mixed = {"id": "me/all", "configs": {"en": "default", "sl": "default"}, "split": "test", "revision": None}
    own = {"id": None, "configs": {"sl": "default"}, "split": "test", "revision": None}  # on the disk
    results = [
        with_new_scores(results_on(["fleurs/test.parquet"], cer, sources=[source], dataset=fleurs, **unknown)),
        results_on(["clean/test.parquet"], {"en": 0.25}, dataset=librispeech, sources=[{"name": "LibriSpeech"}]),
        results_on(["other/test.parquet"], {"en": 0.75}, dataset=other, sources=[{"name": "LibriSpeech"}]),
        results_on(["test.parquet"], {"en": 0.5, "sl": 0.25}, dataset=mixed, sources=[{"name": "Everything"}]),
        results_on(["test.parquet"], {"sl": 0.25, "ja": 0.25}, dataset=own, sources=[{"name": "Our club"}]),
    ]
    for number, result in enumerate(results):
        (tmp_path / f"{number}.json").write_text(json.dumps(result))
        assert read_results(tmp_path / f"{number}.json") == result
    run = written_run(list(cer), RELEASE)
    card = model_card(run, results)
    check(card)
    card.validate()
    [index] = ModelCard(str(card)).data.to_dict()["model-index"]
    shown = {}
    for entry in index["results"]:
        assert entry["task"]["type"] == "automatic-speech-recognition"
        place = entry["dataset"]
        key = (
            place["type"],
            place["config"],
            place["split"],
            place.get("revision"),
            place.get("args", {}).get("language"),
        )
        shown[key] = [(metric["type"], metric["name"], metric["value"]) for metric in entry["metrics"]]
    both = [("cer", "test CER, %", 12.5), ("cer", "test normalised CER, %", 6.25)]
    both += [("wer", "test WER, %", 25.0), ("wer", "test normalised WER, %", 12.5)]
    assert shown["google/fleurs", "sl_si", "test", "a" * 40, "sl"] == both
    assert [metric for metric, *_ in shown["google/fleurs", "cmn_hans_cn", "test", "a" * 40, "zh"]] == ["cer", "cer"]
    assert shown["openslr/librispeech_asr", "clean", "test", None, "en"][0] == ("cer", "test CER, %", 25.0)
    assert shown["openslr/librispeech_asr", "other", "test", None, "en"][1] == ("wer", "test WER, %", 150.0)
    assert [name for _, name, _ in shown["me/all", "default", "test", None, None]] == [
        f"test {rate} of {language}, %" for language in ("en", "sl") for rate in ("CER", "WER")
    ]
    assert ("our-club", "sl", "test", None, "sl") in shown
    names = {(rate.dataset_name, (rate.metric_args or {}).get("normalization")) for rate in card.data.eval_results}
    assert {("FLEURS (sl_si)", None), ("FLEURS (sl_si)", "scores-1"), ("Everything", None)} < names
    assert {("LibriSpeech (clean)", None), ("LibriSpeech (other)", None)} < names
    assert "| CER % | WER % | norm. CER % | norm. WER % | language % |" in card.text
    assert "| 12.5 (11.2–13.8) | 25.0 (22.5–27.5) | 6.2 (5.6–6.9) | 12.5 (11.2–13.8) |" in card.text
    assert "The WER says little about zh-CN, ja, written without spaces" in card.text  # nor that of a test set alone
    assert "| weighted by hours | - | 24 |" in card.text and "Normalised rates" in card.text
    line = f"Data: FLEURS ({source['url']}), licence `cc-by-4.0`; the Hub's `google/fleurs` at `{'a' * 12}`"
    left_out = "left out: 3 no text; the model does not know sl; without fi, which the model cannot transcribe."
    assert f"\n\n{line}, split `test`; {left_out}\n\nSpeed: RTFx 1,234" in card.text
    assert "; NVIDIA H200, bfloat16, batches of 600 s" in card.text
    assert "### FLEURS: test\n" in card.text and "### LibriSpeech: clean, test\n" in card.text
    with pytest.raises(ValueError, match="two of the results are of LibriSpeech: clean, test, en; give one of them"):
        model_card(run, [results[1], results[1] | {"data": ["again/test.parquet"]}])


def test_results_of_other_weights_are_refused(tone_run, tmp_path):
    results = results_on(["test.parquet"], {"de": 0.1}, revision="run/model@0123456789ab")
    with pytest.raises(ValueError, match=r"results of run/model@0123456789ab on test.parquet are not of .*/run/model"):
        model_card(tone_run, [results])
    own = teacher_revision(MlplForCTC.from_pretrained(tone_run / "model"), "elsewhere/model")
    assert "test.parquet" in model_card(tone_run, [results | {"revision": own}]).text
    assert "test.parquet" in model_card(tone_run, [results | {"revision": f"me/tones@{'a' * 40}"}]).text


def test_a_folder_without_a_run(tmp_path, tone_run):
    with pytest.raises(ValueError, match="has no config.yaml, which describes a run"):
        model_card(tmp_path)
    shutil.copy(tone_run / "config.yaml", tmp_path)
    with pytest.raises(ValueError, match="has no run.json, which describes a run"):
        model_card(tmp_path)


def test_it_says_how_to_install_where_the_address_is_known(tone_run, monkeypatch):
    assert "pip install" not in model_card(tone_run).text
    where = "hf-mlpl @ git+https://example.org/hf_mlpl"
    monkeypatch.setattr("hf_mlpl.sharing.model_card.published_requirement", lambda extra: where)
    card = model_card(tone_run)
    check(card)
    assert f'```bash\npip install "{where}"\n```\n\n```python\nimport hf_mlpl\n' in card.text


def test_a_strange_name_does_not_break_tables(tone_run, tmp_path):
    shutil.copy(tone_run / "config.yaml", tmp_path)
    run = json.loads((tone_run / "run.json").read_text())
    run["sources"] = [{"name": "mine | yours", "license": "unknown", "url": "https://example.org"}]
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert r"[mine \| yours](https://example.org)" in model_card(tmp_path).text


def test_the_command(tone_run, tmp_path, error_of):
    (tmp_path / "results.json").write_text(json.dumps(results_on(["test.parquet"], {"de": 0.1})))
    command = ["--run", tone_run, "--results", tmp_path / "results.json", "--output", tmp_path / "cards" / "tones.md"]
    assert run_command("render_card.py", *command) == 0
    card = ModelCard.load(tmp_path / "cards" / "tones.md")
    check(card)
    assert "![Training loss, and error rates on dev](tones.png)" in card.text
    assert (tmp_path / "cards" / "tones.png").read_bytes() == (tone_run / "curves.png").read_bytes()
    assert error_of("render_card.py", "--run", tmp_path, "--output", tmp_path / "a.md").startswith(
        f"{tmp_path}: has no"
    )


@pytest.mark.parametrize("path", CARDS, ids=[path.stem for path in CARDS])
def test_cards_of_the_project(path, local_hub):
    """Committed cards have the sections and fixed sentences of the current template, and no empty fields."""
    card = ModelCard.load(path)
    check(card)
    card.validate()
    fixed = [line for line in TEMPLATE.splitlines() if line and not re.search(r"\{[{%]|%\}", line)]
    lines = str(card).splitlines()
    optional = {"There are none yet.", "Where the speech is from is not noted, and its licence is unknown."}
    assert [line for line in fixed if line not in lines and not line.startswith("Nobody has said")] == [
        line for line in fixed if line in optional
    ]
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", card.text):
        assert (path.parent / picture).is_file()


def test_the_snippet_for_omniasr_models_writes_what_they_say(tmp_path, monkeypatch, capsys):
    """With a tokenizer of pieces, whose blank is a token like others, and with one of characters."""
    if reason := missing("omniasr_ctc"):
        pytest.skip(reason)
    monkeypatch.chdir(tmp_path)
    soundfile.write("recording.wav", sweep(1), RATE, subtype="FLOAT")
    (tmp_path / "tokens.lst").write_text("|\na\nb\nc\nd\ne\n")
    folder = save_small_model(tmp_path / "pieces", "omniasr_ctc")
    student = load_student(folder, read_config(folder), {}, tmp_path / "tokens.lst")
    for part in (student.model, student.processor):
        part.save_pretrained(tmp_path / "characters")
    template = (TEMPLATES / "use_transformers.md").read_text()
    for name in ("pieces", "characters"):
        use = jinja2.Template(template).render(model=name, model_type="omniasr_ctc")
        capsys.readouterr()
        exec(re.search("```python\n(.*?)```", use, re.DOTALL).group(1), {})
        model, processor = load_model(name)
        inputs = processor(sweep(1), sampling_rate=RATE, return_tensors="pt")
        path = model(**inputs).logits[0].argmax(dim=-1).tolist()
        assert capsys.readouterr().out.split() == ctc_interface(model.config, processor).decode(path).text.split()
