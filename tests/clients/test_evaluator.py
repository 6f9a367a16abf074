"""evaluate's evaluator computes the error rates of our models that we compute ourselves, without torchcodec."""

import json
import random
import re
from pathlib import Path

import evaluate
import numpy as np
import pytest
import soundfile
import transformers
from datasets import Audio, Dataset
from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer, pipeline

import hf_mlpl.evaluation
from hf_mlpl.cli.main import main
from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.evaluation.error_rate import ErrorRate

from ..commands import ROOT
from ..examples import make_folder
from ..random_model import save_wav2vec2_folder
from ..tones import RATE, random_text, speak

pytestmark = pytest.mark.slow

TASK = "automatic-speech-recognition"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    letters, noise = random.Random(7), np.random.default_rng(7)
    texts = [random_text(language, letters) for language in ("de", "sv-SE") for _ in range(4)]
    paths = [str(folder / f"{i}.flac") for i in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        soundfile.write(path, speak(text, noise), RATE)
    wrong = [text[1:] for text in texts]  # so that there are errors to count
    return Dataset.from_dict({"path": paths, "sentence": wrong, "audio": paths}).cast_column("audio", Audio())


@pytest.fixture(scope="module")
def metrics():
    folder = Path(hf_mlpl.evaluation.__file__).parent / "metrics"
    return {name: evaluate.load(str(folder / name)) for name in ("wer", "cer")}


@pytest.fixture
def evaluator():
    return evaluate.evaluator(TASK)


@pytest.fixture(scope="module")
def expected(tone_run, data):
    answers = pipeline(TASK, model=tone_run / "model")(data["path"])
    rates = {"wer": ErrorRate(words=True), "cer": ErrorRate()}
    for answer, reference in zip(answers, data["sentence"], strict=True):
        for rate in rates.values():
            rate.add(answer["text"], reference)
    assert 0 < rates["cer"].rate < rates["wer"].rate <= 1
    return {name: rate.rate for name, rate in rates.items()}


@pytest.mark.parametrize("column", ["path", "audio"])
@pytest.mark.parametrize("name", ["wer", "cer"])
def test_the_name_of_a_model(tone_run, data, metrics, evaluator, expected, name, column):
    model = str(tone_run / "model")
    result = evaluator.compute(model_or_pipeline=model, data=data, metric=metrics[name], input_column=column)
    assert result[name] == expected[name]
    assert result["samples_per_second"] == pytest.approx(len(data) / result["total_time_in_seconds"])


@pytest.fixture
def mended(monkeypatch):
    """Gives transformers 5 the class that evaluate 0.4.6 looks for, as docs/clients.md says."""
    monkeypatch.setattr(transformers, "TFPreTrainedModel", transformers.PreTrainedModel, raising=False)


def test_a_pipeline(tone_run, data, metrics, evaluator, expected, mended):
    for options in ({}, {"batch_size": 3}):
        recognize = pipeline(TASK, model=tone_run / "model", **options)
        for column in ("path", "audio"):
            result = evaluator.compute(
                model_or_pipeline=recognize, data=data, metric=metrics["wer"], input_column=column
            )
            assert result["wer"] == expected["wer"]


def test_a_model_with_its_parts(tone_run, data, metrics, evaluator, expected, mended):
    kinds = (AutoModelForCTC, AutoTokenizer, AutoFeatureExtractor)
    recognize = evaluator.prepare_pipeline(*(kind.from_pretrained(tone_run / "model") for kind in kinds))
    result = evaluator.compute(model_or_pipeline=recognize, data=data, metric=metrics["wer"])
    assert result["wer"] == expected["wer"]


def test_what_evaluate_cannot_do_with_any_model(tone_run, data, metrics, evaluator, tmp_path):
    """Fails when evaluate has learned it, so that docs/clients.md can be shorter."""
    for folder in (tone_run / "model", save_wav2vec2_folder(tmp_path / "wav2vec2")):
        options = {"data": data, "metric": metrics["wer"]}
        with pytest.raises(AttributeError, match="TFPreTrainedModel"):
            evaluator.compute(model_or_pipeline=pipeline(TASK, model=folder), **options)
        model, tokenizer = AutoModelForCTC.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        with pytest.raises(Exception, match="Impossible to guess which feature extractor to use"):
            evaluator.compute(model_or_pipeline=model, tokenizer=tokenizer, **options)


def test_the_example_of_the_page(tone_corpus, tone_data, tone_run, tmp_path, monkeypatch, capsys):
    """The example of docs/evaluation.md prints the rates that `hf-mlpl evaluate` writes."""
    monkeypatch.chdir(make_folder(tmp_path, tone_corpus, tone_data, tone_run))
    rows = read_utterances(["data/dev.parquet"]).to_list()
    write_utterances([row | {"text": row["text"][1:]} for row in rows], Path("data/dev.parquet"))  # there are errors
    command = ["evaluate", "--model", "runs/demo/final/model", "--data", "data/dev.parquet", "--languages", "de"]
    assert main([*command, "--output", "results.json"]) == 0
    scores = json.loads(Path("results.json").read_text())["languages"]["de"]
    page = (ROOT / "docs" / "evaluation.md").read_text()
    [example] = [block for block in re.findall("```python\n(.*?)```", page, re.DOTALL) if "evaluator(" in block]
    capsys.readouterr()
    exec(example, {})
    assert capsys.readouterr().out.split() == ["wer", str(scores["wer"]), "cer", str(scores["cer"])]
    assert 0 < scores["cer"] < scores["wer"]


def test_bootstrapped_intervals(tone_run, data, metrics, evaluator, expected):
    result = evaluator.compute(
        model_or_pipeline=str(tone_run / "model"),
        data=data,
        metric=metrics["wer"],
        strategy="bootstrap",
        n_resamples=20,
        random_state=0,
    )
    low, high = result["wer"]["confidence_interval"]
    assert result["wer"]["score"] == expected["wer"] and 0 <= low <= high <= 1
