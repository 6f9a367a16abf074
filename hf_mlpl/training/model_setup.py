"""Builds the model of a run, new or trained, with its processor."""

from __future__ import annotations

import dataclasses
import logging
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

from ..ctc_models.adapters import load_our_model, source_of
from ..ctc_models.loading import load_student, read_config
from ..data.selection import MOST_NAMED
from ..data.summary import languages_in, summary_of
from ..error_line import error_line
from ..interop.mctct import MCTCTConfig, convert_mctct
from ..model.configuration_mlpl import MlplConfig
from ..model.feature_extraction_mlpl import MlplFeatureExtractor
from ..model.missing_model import OUR_TYPES
from ..model.model_files import list_names
from ..model.modeling_mlpl import MlplForCTC
from ..model.processing_mlpl import MlplProcessor, check_parts
from ..model.tokenization_mlpl import MlplTokenizer
from ..training_config import PRESETS, TrainingConfig, check_our_fields

logger = logging.getLogger(__name__)


def build_model(
    config: TrainingConfig, train_set: Dataset, is_continued: bool = False
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Builds a new model of a preset's size, or loads a trained one and resizes its heads to the settings.

    `tokens` and `languages` replace those of a trained model, whose known tokens and languages keep their rows. A
    model of ours without a language-ID head gets one, by default for the languages of the training set; models of
    other architectures have none. A line in the log describes each head that has changed. Our tokenizer learns the
    characters of each language from the training set.

    Args:
        is_continued: leaves out these lines, because the run has logged them when it began.

    Raises:
        ValueError: for model fields that do not fit, a tokens file that does not exist, and a trained model that is
            damaged or of a kind that cannot be trained.
        OSError: if the model does not exist.
    """
    model: PreTrainedModel
    processor: ProcessorMixin
    changes: Sequence[str] = ()
    if config.model in PRESETS:
        model, processor = _build_new(config, train_set)
    else:
        own = read_config(config.model)
        if own.model_type in OUR_TYPES:
            check_our_fields(config.model_fields)
            model, processor = _load_ours(config, own)
            changes = list(_resize_heads(model, processor, config, train_set))
        else:
            model, processor, changes = _load_other(config, own)
    if PartialState().is_main_process and not is_continued:
        for line in changes:
            logger.warning(line)
    if model.config.model_type in OUR_TYPES:
        processor.tokenizer.learn_language_characters(_human_characters(train_set))
    return model, processor


def _build_new(config: TrainingConfig, train_set: Dataset) -> tuple[MlplForCTC, MlplProcessor]:
    processor = MlplProcessor(MlplFeatureExtractor(), read_tokens(config))
    preset = getattr(MlplConfig, config.model)
    languages = config.languages or languages_in(train_set)
    with _fitting_fields(config):
        return MlplForCTC(preset(len(processor.tokenizer), languages, **config.model_fields)), processor


def read_tokens(config: TrainingConfig) -> MlplTokenizer:
    """Reads the tokens file of the settings; raises a ValueError if there is none."""
    if not Path(config.tokens).is_file():
        raise ValueError(f"{config.tokens}: no such tokens file; `hf-mlpl build-tokenizer` writes it")
    return MlplTokenizer(config.tokens)


def _load_ours(config: TrainingConfig, own: PreTrainedConfig) -> tuple[MlplForCTC, MlplProcessor]:
    """Loads a trained model, also one of the old port, with weights in fp32 whatever the precision of its file."""
    if isinstance(own, MCTCTConfig):
        original, processor = convert_mctct(config.model)
        with _fitting_fields(config):
            fields = {field.name: getattr(original.config, field.name) for field in dataclasses.fields(MlplConfig)}
            model = MlplForCTC(MlplConfig(**fields | {"dtype": torch.float32} | config.model_fields))
            model.load_state_dict(original.state_dict())
    else:
        processor = MlplProcessor.from_pretrained(source_of(config.model))
        with _fitting_fields(config):
            model = load_our_model(config.model, dtype=torch.float32, **config.model_fields)
    model.config._commit_hash = own._commit_hash
    check_parts(model.config, processor.feature_extractor, processor.tokenizer)
    return model, processor


def _load_other(
    config: TrainingConfig, own: PreTrainedConfig
) -> tuple[PreTrainedModel, ProcessorMixin, Sequence[str]]:
    """Loads a CTC model or an encoder of another architecture; returns also a line for each part that is new."""
    if config.languages is not None:
        raise ValueError(
            f"languages is {list(config.languages)}, and {config.model} has no language-ID head, which only models of "
            "type mlpl have; leave out languages"
        )
    fields = {"ctc_loss_reduction": "mean"} | config.model_fields  # published models have the sum, of their own loss
    student = load_student(config.model, own, fields, config.tokens)
    student.model.random_tensors = student.random_tensors  # adapters train them as a whole
    changes = []
    if (head := student.head) is not None:
        changes.append(_describe_change("CTC head", "tokens", range(head.num_old), head.tokens, head.kept))
    if student.random_tensors:
        changes.append(
            f"tensors that {config.model} lacks, and that start at random: {list_names(student.random_tensors)}"
        )
    return student.model, student.processor, changes


def _resize_heads(
    model: MlplForCTC, processor: MlplProcessor, config: TrainingConfig, train_set: Dataset
) -> Iterator[str]:
    """Gives a trained model the tokens and languages of the settings; yields a line for each head that changes."""
    old, old_languages = processor.tokenizer, model.config.languages
    languages = list(config.languages or old_languages or languages_in(train_set))
    if languages != old_languages:
        kept = model.resize_lid_head(languages)
        yield _describe_change("language-ID head", "languages", old_languages, languages, kept)
    new = old if config.tokens is None else read_tokens(config)
    if new.get_vocab() != old.get_vocab():
        silent = [entry for entry in old.init_kwargs.get("silent_entries", ()) if entry in new.get_vocab()]
        new = MlplTokenizer(config.tokens, old.surround, silent_entries=silent)
        new.learn_language_characters(old.language_characters)
        kept = model.resize_ctc_head(old, new)
        old_tokens, tokens = (tokenizer.convert_ids_to_tokens(range(len(tokenizer))) for tokenizer in (old, new))
        yield _describe_change("CTC head", "tokens", old_tokens, tokens, kept)
        processor.tokenizer = new


def _describe_change(head: str, kind: str, old: Sequence, new: Sequence[str], kept: Mapping[int, int]) -> str:
    """Describes a resized head in a line; `kept` maps its rows to those of the old one."""
    added = [name for row, name in enumerate(new) if row not in kept]
    names = f" ({' '.join(added[:MOST_NAMED])}{' ...' * (len(added) > MOST_NAMED)})" if added else ""
    num_dropped = len(old) - len(set(kept.values()))
    return (
        f"{head}: {len(old):,} -> {len(new):,} {kind}: {len(kept):,} kept, {len(added):,} new{names}, "
        f"{num_dropped:,} dropped"
    )


@contextmanager
def _fitting_fields(config: TrainingConfig) -> Iterator[None]:
    """Turns errors of MlplConfig and torch about `model_fields` into a ValueError of one line."""
    try:
        yield
    except (StrictDataclassError, RuntimeError) as error:
        reason = textwrap.shorten(error_line(error), 500)
        raise ValueError(f"{config.model} cannot have the model_fields {config.model_fields}: {reason}") from error


def _human_characters(train_set: Dataset) -> dict[str, str]:
    """Lists the characters of human transcripts by language; pseudo-labels may hold a model's errors."""
    summary = summary_of(train_set)
    human = {language: group.alphabet for (language, source), group in summary.groups.items() if source == "human"}
    return {language: "".join(sorted({" ", *human.get(language, "")})) for language in summary.languages}
