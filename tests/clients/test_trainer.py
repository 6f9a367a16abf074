"""Fine-tunes with transformers' Trainer, in the lines of Hugging Face's posts and example, and in two processes."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import Audio, Dataset, DatasetDict, load_dataset
from safetensors.torch import load_file
from torch.nn.utils import parameters_to_vector
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizer,
    Trainer,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Model,
    Wav2Vec2Processor,
    pipeline,
)

from hf_mlpl import MlplModel, MlplProcessor, MlplTokenizer
from hf_mlpl.audio.reading import load_audio
from hf_mlpl.data.utterances import read_utterances
from hf_mlpl.evaluation.scoring import evaluate_model
from hf_mlpl.model.text import build_vocabulary, write_tokens

from ..test_docs import MARKDOWN, ROOT, run_examples
from .fine_tuning import NO_DROPOUT, arguments, collator, fine_tune, load, read_tones, run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

SCRIPT = Path(__file__).with_name("fine_tuning.py")


@pytest.fixture(scope="module")
def data(tone_data) -> DatasetDict:
    return read_tones(tone_data)


def test_the_page(wide_run, tone_data, tone_corpus, data, tmp_path, monkeypatch):
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "final").symlink_to(wide_run)
    (tmp_path / "data").symlink_to(tone_data)
    clips = tone_corpus / "common-voice" / "sv-SE" / "clips"
    (tmp_path / "recording.mp3").symlink_to(clips / "common_voice_sv-SE_test0.mp3")
    monkeypatch.chdir(tmp_path)
    document = MARKDOWN.parse(ROOT / "docs" / "finetune.md")
    document.namespace["installed"] = find_spec
    assert run_examples(document) == []

    swedish = [row for row in data["dev"] if row["language"] == "sv-SE"]
    samples = [load_audio(row["audio"]) for row in swedish]
    for folder in ("runs/swedish", "runs/swedish-lora", "runs/start"):  # the last one with rows that it had already
        answers = pipeline("automatic-speech-recognition", folder)(samples)
        assert [answer["text"] for answer in answers] == [row["text"] for row in swedish]
    inputs = document.namespace["processor"](samples, sampling_rate=16_000)
    with torch.no_grad():
        adapted, merged, base = (
            AutoModelForCTC.from_pretrained(folder)(**inputs).logits
            for folder in ("runs/swedish-lora", "runs/swedish-merged", "runs/demo/final/model")
        )
    torch.testing.assert_close(adapted, merged, rtol=1e-3, atol=1e-3)
    assert (adapted - base).abs().max() > 0.1


@dataclass
class Case:
    """Holds a model that the same lines fine-tune.

    Args:
        headless: a folder with the model without a CTC head, and its feature extractor.
        base: one with a CTC head.
        processor: makes a processor with new tokens of the transcripts.
    """

    headless: Path
    base: Path
    processor: Callable[[list[str], Path], object]


def new_tokens(texts: list[str], folder: Path) -> PreTrainedTokenizer:
    write_tokens(folder / "tokens.lst", build_vocabulary(texts))
    return MlplTokenizer(folder / "tokens.lst")


@pytest.fixture(scope="module")
def ours(tone_run, tmp_path_factory) -> Case:
    folder = tmp_path_factory.mktemp("headless")
    extractor = AutoFeatureExtractor.from_pretrained(tone_run / "model")
    MlplModel.from_pretrained(tone_run / "model").save_pretrained(folder)
    extractor.save_pretrained(folder)
    return Case(folder, tone_run / "model", lambda texts, to: MlplProcessor(extractor, new_tokens(texts, to)))


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> Case:
    """Makes a tiny Wav2Vec2, whose tokenizer is what transformers' example makes of the transcripts."""
    folders = [tmp_path_factory.mktemp(name) for name in ("headless", "base")]
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    convolutions = {"conv_dim": (32,) * 3, "conv_kernel": (10, 8, 8), "conv_stride": (8, 8, 5)}
    positions = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "num_feat_extract_layers": 3}
    config = Wav2Vec2Config(vocab_size=5, mask_time_prob=0.0, **sizes, **convolutions, **positions)
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    torch.manual_seed(0)
    for kind, folder in zip((Wav2Vec2Model, Wav2Vec2ForCTC), folders, strict=True):
        kind(config).save_pretrained(folder)
        extractor.save_pretrained(folder)

    def processor(texts: list[str], folder: Path) -> Wav2Vec2Processor:
        classes = ["|", *sorted(set("".join(texts)) - {" "}), "[UNK]", "[PAD]"]
        (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(classes)}))
        names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "word_delimiter_token": "|"}
        return Wav2Vec2Processor(extractor, Wav2Vec2CTCTokenizer.from_pretrained(folder, **names))

    return Case(*folders, processor)


@pytest.fixture(params=["ours", "stock"])
def case(request) -> Case:
    return request.getfixturevalue(request.param)


def prepared(data: DatasetDict, processor) -> DatasetDict:
    """Returns features and labels of all rows, as the posts compute them before the training."""
    name = processor.feature_extractor.model_input_names[0]

    def prepare(row: dict) -> dict:
        samples = load_audio(row["audio"])
        inputs = processor(samples, sampling_rate=16_000)
        labels = processor(text=row["text"]).input_ids
        return {name: inputs[name][0], "input_length": len(samples), "labels": labels}

    return data.map(prepare, remove_columns=data["train"].column_names)


def posts_collator(processor) -> Callable:
    name = processor.feature_extractor.model_input_names[0]

    def collate(rows: list[dict]):
        batch = processor.pad([{name: row[name]} for row in rows], padding=True, return_tensors="pt")
        labels = [{"input_ids": row["labels"]} for row in rows]
        padded = processor.pad(labels=labels, padding=True, return_tensors="pt")
        batch["labels"] = padded["input_ids"].masked_fill(padded.attention_mask.ne(1), -100)
        return batch

    return collate


def posts_metrics(processor, rates: Callable) -> Callable:
    """Returns the posts' function: the argmax of logits, and labels without -100."""

    def compute(prediction) -> dict[str, float]:
        classes = np.argmax(prediction.predictions, axis=-1)
        prediction.label_ids[prediction.label_ids == -100] = processor.tokenizer.pad_token_id
        return rates(processor.batch_decode(classes), processor.batch_decode(prediction.label_ids, group_tokens=False))

    return compute


def jiwer_rates(texts: list[str], references: list[str]) -> dict[str, float]:
    return {"wer": jiwer.wer(references, texts), "cer": jiwer.cer(references, texts)}


def test_the_posts_lines(case, data, tmp_path):
    processor = case.processor(data["train"]["text"], tmp_path)
    tokenizer = processor.tokenizer
    model = AutoModelForCTC.from_pretrained(
        case.base,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        feat_proj_dropout=0.0,
        layerdrop=0.0,
        ctc_loss_reduction="mean",
        pad_token_id=tokenizer.pad_token_id,
        vocab_size=len(tokenizer),
        ignore_mismatched_sizes=True,
    )
    model.freeze_feature_encoder()
    settings = arguments(
        tmp_path / "run",
        train_sampling_strategy="group_by_length",
        length_column_name="input_length",
        num_train_epochs=12,
        logging_steps=4,
        eval_strategy="epoch",
        remove_unused_columns=True,
        gradient_checkpointing=True,
        learning_rate=1e-2,
    )
    rows = prepared(data, processor)
    trainer = Trainer(
        model,
        settings,
        data_collator=posts_collator(processor),
        train_dataset=rows["train"],
        eval_dataset=rows["dev"],
        processing_class=processor.feature_extractor,
        compute_metrics=posts_metrics(processor, jiwer_rates),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] / 2
    trainer.save_model()
    processor.save_pretrained(tmp_path / "run")

    loaded = AutoModelForCTC.from_pretrained(tmp_path / "run")
    assert torch.equal(parameters_to_vector(loaded.parameters()), parameters_to_vector(model.parameters()))
    rates = trainer.evaluate()
    assert rates["eval_cer"] < 0.5
    asr = pipeline("automatic-speech-recognition", str(tmp_path / "run"))
    texts = [asr(load_audio(row["audio"]))["text"] for row in data["dev"]]
    if isinstance(processor, MlplProcessor):  # Wav2Vec2's texts depend on the padding
        assert jiwer_rates(texts, list(data["dev"]["text"]))["cer"] == pytest.approx(rates["eval_cer"])
        assert rates["eval_cer"] < 0.1


def official_example(model_folder: Path, tokenizer_folder: Path | None, output: Path, data: DatasetDict) -> Trainer:
    """Takes the steps of transformers' run_speech_recognition_ctc.py, with its defaults; returns the trainer.

    Without `tokenizer_folder` the tokenizer is made of the vocab.json in `output`.
    """
    config = AutoConfig.from_pretrained(model_folder)
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "word_delimiter_token": "|"}
    made = {"config": None, "tokenizer_type": config.model_type, **names}
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder or output, **({} if tokenizer_folder else made))
    extractor = AutoFeatureExtractor.from_pretrained(model_folder)
    zeros = "feat_proj_dropout attention_dropout hidden_dropout final_dropout mask_feature_prob layerdrop"
    config.update(
        {
            **dict.fromkeys(zeros.split(), 0.0),
            "activation_dropout": 0.0,
            "mask_time_prob": 0.0,  # 0.05 by default, which is too much for tones of half a second
            "mask_time_length": 10,
            "mask_feature_length": 10,
            "gradient_checkpointing": False,
            "ctc_loss_reduction": "mean",
            "ctc_zero_infinity": False,
            "pad_token_id": tokenizer.pad_token_id,
            "vocab_size": len(tokenizer),
            "add_adapter": False,
        }
    )
    model = AutoModelForCTC.from_pretrained(model_folder, config=config)
    model.freeze_feature_encoder()
    name = extractor.model_input_names[0]

    def prepare(row: dict) -> dict:
        samples = load_audio(row["audio"])
        features = getattr(extractor(samples, sampling_rate=16_000), name)[0]
        return {name: features, "input_length": len(samples), "labels": tokenizer(row["text"] + " ").input_ids}

    for part in (extractor, tokenizer, config):
        part.save_pretrained(output)
    processor = AutoProcessor.from_pretrained(output)

    def compute_metrics(prediction):
        classes = prediction.predictions[0]
        prediction.label_ids[prediction.label_ids == -100] = tokenizer.pad_token_id
        texts = tokenizer.batch_decode(classes)
        return jiwer_rates(texts, tokenizer.batch_decode(prediction.label_ids, group_tokens=False))

    rows = data.map(prepare, remove_columns=data["train"].column_names)
    trainer = Trainer(
        model,
        arguments(output, remove_unused_columns=True, num_train_epochs=6, logging_steps=4, learning_rate=1e-2),
        data_collator=posts_collator(processor),
        train_dataset=rows["train"],
        eval_dataset=rows["dev"],
        processing_class=processor,
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=lambda logits, labels: (logits.argmax(dim=-1), labels),
    )
    trainer.train()  # of a model in a folder it would resume the training, which ends in an error for every model
    trainer.save_model()
    return trainer


@pytest.mark.parametrize("start", ["stock", "a model with its own tokens", "a model without heads, with new tokens"])
def test_the_official_example(start, request, data, tmp_path):
    tokenizer = None
    if start == "stock":
        case = request.getfixturevalue("stock")
        case.processor(data["train"]["text"], tmp_path)  # writes vocab.json
        folder = case.headless
    else:
        case = request.getfixturevalue("ours")
        folder = tokenizer = case.base
        if "heads" in start:
            tokenizer, folder = tmp_path / "tokenizer", case.headless
            new_tokens(data["train"]["text"], tmp_path).save_pretrained(tokenizer)
    trainer = official_example(folder, tokenizer, tmp_path, data)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    asr = pipeline("automatic-speech-recognition", str(tmp_path))
    texts = [asr(load_audio(row["audio"]))["text"] for row in data["dev"]]
    if start != "stock":
        cer = jiwer_rates(texts, list(data["dev"]["text"]))["cer"]
        assert trainer.evaluate()["eval_cer"] == pytest.approx(cer)
        assert cer < 0.2


@pytest.fixture(scope="module")
def two_and_one(tone_run, tone_data, quick_python, tmp_path_factory) -> tuple[Path, Path]:
    """Trains the same models in two processes, and in one with twice the batch; returns both folders.

    The launchers are those of accelerate and of torch.
    """
    languages = AutoConfig.from_pretrained(tone_run / "model").languages
    training = {"max_steps": 3, "optim": "sgd", "learning_rate": 0.05, "max_grad_norm": 0.0}
    entry = {"base": str(tone_run / "model"), "data": str(tone_data), "fields": NO_DROPOUT, "training": training}
    checkpointed = training | {"gradient_checkpointing": True, "gradient_accumulation_steps": 2}
    launched = {
        "accelerate.commands.launch --config_file recipes/accelerate/multi_cpu.yaml": {
            "both losses": entry | {"languages": languages},
            "labels": entry,
            "adapters": entry | {"lora": {"target_modules": ".*_proj", "modules_to_save": ["ctc_head", "lid_head"]}},
        },
        "torch.distributed.run --standalone --nproc_per_node 2": {
            "checkpointed": entry | {"training": checkpointed},
            "layerdrop": entry | {"fields": {"layerdrop": 0.5}, "training": checkpointed},
        },
    }
    two, one = (tmp_path_factory.mktemp(name) for name in ("two", "one"))
    for launcher, settings in launched.items():
        (two / "settings.json").write_text(json.dumps(settings))
        command = [quick_python, "-m", *launcher.split(), SCRIPT, two / "settings.json", two]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stderr
        run(settings, one)
    return two, one


@pytest.mark.parametrize("name", ["both losses", "labels", "checkpointed", "adapters"])
def test_two_processes_compute_what_one_does(name, two_and_one):
    two, one = (load_file(next((folder / name).glob("*.safetensors"))) for folder in two_and_one)
    results = [json.loads((folder / name / "results.json").read_text()) for folder in two_and_one]
    assert two.keys() == one.keys()
    difference = torch.cat([(two[tensor] - one[tensor]).flatten() for tensor in one]).norm()
    assert difference <= 1e-4 * results[1]["moved"]
    assert results[0]["eval_loss"] == pytest.approx(results[1]["eval_loss"], rel=1e-3)
    assert results[0]["eval_cer"] == results[1]["eval_cer"]


def test_layerdrop_in_two_processes(two_and_one, tone_run):
    """Each process drops layers of its own, and so leaves out parameters of its own."""
    model = AutoModelForCTC.from_pretrained(two_and_one[0] / "layerdrop")
    start = AutoModelForCTC.from_pretrained(tone_run / "model")
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, start.get_parameter(name))}
    assert moved == {name for name, _ in model.named_parameters() if not name.startswith("lid_head.")}


def test_the_evaluation_is_ours(tone_run, tone_data, data, tmp_path):
    model, processor = load(tone_run / "model")
    with torch.no_grad():
        model.ctc_head.bias[2] += 12  # so that there are errors
    settings = {"max_steps": 1, "learning_rate": 0.0, "per_device_eval_batch_size": 3}
    rates = fine_tune(model, processor, data, tmp_path, **settings).evaluate()
    # As one language, because ours is a mean over languages
    dataset = read_utterances([tone_data / "dev.parquet"]).map(lambda row: {"language": "any"})
    expected = evaluate_model(Accelerator(cpu=True), model, processor, dataset, max_batch_seconds=2.0)["macro"]
    assert 0 < rates["eval_cer"] == expected["cer"] and rates["eval_wer"] == expected["wer"]


def test_streamed_audio_column_in_bfloat16(tone_run, data, tmp_path):
    """Recordings inside a data set are read without torchcodec, as the page says."""
    audio = [{"bytes": Path(row["audio"]["path"]).read_bytes(), "path": None} for row in data["train"]]
    dataset = Dataset.from_dict({"audio": audio, "text": data["train"]["text"][:]})
    dataset.cast_column("audio", Audio()).to_parquet(tmp_path / "train.parquet")
    streamed = load_dataset("parquet", data_files=str(tmp_path / "train.parquet"), streaming=True)
    streamed = streamed.cast_column("audio", Audio(decode=False))
    model, processor = load(tone_run / "model")
    expected, found = (collator(processor)([next(iter(each["train"]))]) for each in (data, streamed))
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)

    torch.nn.init.zeros_(model.ctc_head.weight)  # so that there is something to learn
    both = {"train": streamed["train"].repeat(20), "dev": data["dev"]}
    trainer = fine_tune(model, processor, both, tmp_path, max_steps=40, bf16=True, learning_rate=1e-2)
    assert trainer.evaluate()["eval_cer"] < 0.1


def test_training_continues_from_a_checkpoint(tone_run, data, tmp_path):
    def trained(folder: Path, **arguments) -> torch.Tensor:
        model, processor = load(tone_run / "model")
        settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
        return parameters_to_vector(
            fine_tune(model, processor, data, folder, **settings, **arguments).model.parameters()
        )

    whole = trained(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    assert torch.equal(trained(tmp_path / "run", resume=True), whole)


def test_push(tone_run, data, local_hub, tmp_path):
    model, processor = load(tone_run / "model")
    settings = {"max_steps": 2, "push_to_hub": True, "hub_model_id": "me/swedish", "save_strategy": "steps"}
    trainer = fine_tune(model, processor, data, tmp_path / "run", **settings, save_steps=1)
    trainer.push_to_hub()
    expected_files = {"README.md", "model.safetensors", "modeling_mlpl.py", "tokens-all.lst"}
    assert expected_files <= local_hub.files("me/swedish").keys()
    loaded = AutoModelForCTC.from_pretrained("me/swedish")
    assert torch.equal(parameters_to_vector(loaded.parameters()), parameters_to_vector(trainer.model.parameters()))
    answer = pipeline("automatic-speech-recognition", "me/swedish")(load_audio(data["dev"][0]["audio"]))
    assert answer["text"] == data["dev"][0]["text"]
