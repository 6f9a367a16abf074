"""Fine-tunes on the tones with Trainer, as docs/finetune.md does; as a script, in each of several processes.

SETTINGS.json OUTPUT -> a folder for each entry of the settings, with the model or its adapters, and results.json
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.utils import parameters_to_vector
from transformers import AutoModelForCTC, AutoProcessor, PreTrainedModel, ProcessorMixin, Trainer, TrainingArguments

import hf_mlpl  # noqa: F401  # so that the Auto classes load our models
from hf_mlpl.audio.reading import load_audio
from hf_mlpl.evaluation.error_rate import ErrorRate

BATCH = 8  # utterances that all processes together train with
NO_DROPOUT = {"conv_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "layerdrop": 0.0}


def read_tones(folder: Path) -> datasets.DatasetDict:
    """Returns `train` (64 utterances) and `dev` (16)."""
    return datasets.load_dataset(
        "parquet", data_files={split: f"{folder}/{split}.parquet" for split in ("train", "dev")}
    )


def load(folder: Path | str, **fields) -> tuple[PreTrainedModel, ProcessorMixin]:
    return AutoModelForCTC.from_pretrained(folder, **fields), AutoProcessor.from_pretrained(folder)


def collator(processor: ProcessorMixin, languages: list[str] = ()) -> Callable:
    """Returns a collator of rows; the batches have `language_ids` if languages are given."""

    def collate(rows: list[dict]):
        audio, texts = [load_audio(row["audio"]) for row in rows], [row["text"] for row in rows]
        batch = processor(audio, text=texts, sampling_rate=16_000)
        if languages:
            batch["language_ids"] = torch.tensor([languages.index(row["language"]) for row in rows])
        return batch

    return collate


def error_rates(processor: ProcessorMixin) -> Callable:
    """Returns the function that computes CER and WER of a prediction, which is (N, S) classes."""

    def compute(prediction) -> dict[str, float]:
        texts = processor.batch_decode(prediction.predictions)
        references = processor.batch_decode(prediction.label_ids, group_tokens=False)
        rates = {"cer": ErrorRate(), "wer": ErrorRate(words=True)}
        for pair in zip(texts, references, strict=True):
            for rate in rates.values():
                rate.add(*pair)
        return {name: rate.rate for name, rate in rates.items()}

    return compute


def arguments(output: Path, **settings) -> TrainingArguments:
    usual = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "learning_rate": 5e-3}
    usual |= {"remove_unused_columns": False, "per_device_train_batch_size": 16}
    return TrainingArguments(output, **usual | settings)


def fine_tune(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    data: datasets.DatasetDict,
    output: Path,
    languages=(),
    resume: bool = False,
    **settings,
) -> Trainer:
    """Trains the model with `settings` of `TrainingArguments`, and returns the trainer."""
    trainer = Trainer(
        model,
        arguments(output, **settings),
        data_collator=collator(processor, languages),
        train_dataset=data["train"],
        eval_dataset=data["dev"],
        processing_class=processor,
        compute_metrics=error_rates(processor),
        preprocess_logits_for_metrics=lambda logits, _: logits.argmax(-1),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def run(settings: dict, output: Path) -> None:
    """Trains a model for each entry, and evaluates it.

    An entry has `base`, `data`, `fields` and `training`, and may have `languages`, and settings of adapters as `lora`.
    """
    size = BATCH // int(os.environ.get("WORLD_SIZE", 1))
    for name, entry in settings.items():
        model, processor = load(entry["base"], **entry["fields"])
        if "lora" in entry:
            torch.manual_seed(0)
            model = get_peft_model(model, LoraConfig(**entry["lora"]))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        before = parameters_to_vector(trained).detach()
        data, training = read_tones(entry["data"]), entry["training"] | {"per_device_train_batch_size": size}
        trainer = fine_tune(model, processor, data, output / name, entry.get("languages", ()), **training)
        trainer.save_model()
        results = trainer.evaluate() | {"moved": float((parameters_to_vector(trained) - before).norm())}
        if trainer.is_world_process_zero():
            (output / name / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
