"""Loads CTC models of transformers' own architectures with their processors, and checks that both fit."""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import textwrap
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CTC_MAPPING,
    PROCESSOR_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Wav2Vec2Processor,
    __version__,
)
from transformers.models.auto import modeling_auto
from transformers.utils import logging
from transformers.utils.hub import extract_commit_hash

from ..error_line import error_line
from ..model.missing_model import OUR_TYPES, check_model
from ..model.model_files import check_settings, find_file, list_names, read_settings, short_repr, text
from .adapters import base_of, explained, merge_adapters, source_of
from .new_tokens import (
    blank_of,
    character_tokenizer,
    head_names,
    outline,
    replace_heads,
    rows_to_keep,
    set_num_classes,
    tokens_of,
    vocabulary_problem,
)
from .transformers_ctc import TransformersInterface

DECIDED_FIELDS = ("vocab_size", "pad_token_id", "blank_token_id")
EXTRACTOR_FILES = ("preprocessor_config.json", "processor_config.json")
TOKENIZER_FILES = ("vocab.json", "tokenizer.json", "tokenizer.model", "spiece.model")
OTHER_KINDS = {  # transformers' lists of model types, some of which an older release lacks
    "generates text": ("MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES", "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES"),
    "is a transducer": ("MODEL_FOR_TDT_MAPPING_NAMES", "MODEL_FOR_RNNT_MAPPING_NAMES"),
}
PROBABILITY = re.compile(r"dropout|layerdrop|_prob$")  # names of fields; transformers checks their type alone
MOST_CHARACTERS = 2000  # of the reason in an error: transformers lists all its model types in some
UNPUBLISHED = ("masked_spec_embed", "num_batches_tracked")  # training alone uses them, and many files lack them


@dataclass(frozen=True)
class NewHead:
    """Describes a new CTC head: the classes of the old one, its own tokens, and its kept rows with their old ones."""

    num_old: int
    tokens: Sequence[str]
    kept: Mapping[int, int]


@dataclass(frozen=True)
class Student:
    """Holds a model to train and its processor, its new head, if any, and its other tensors that have no weights."""

    model: PreTrainedModel
    processor: ProcessorMixin
    head: NewHead | None
    random_tensors: Sequence[str]


def read_config(name: str | os.PathLike) -> PreTrainedConfig:
    """Reads the configuration of a folder or a repository, of which `_commit_hash` then is the commit.

    Raises:
        OSError: if there is no such model.
        ValueError: for a damaged configuration, and for a model type that transformers does not have.
    """
    name = source_of(name)
    check_model(name)
    file = find_file(name, "config.json")
    settings = {"model_type": None} | read_settings(file)
    check_settings(file, settings, {"model_type": text()})
    model_type = settings["model_type"]
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"{name}: is of type {model_type}, which transformers {__version__} lacks; {_accepted()}")
    if model_type in OUR_TYPES:
        config = AutoConfig.from_pretrained(name)  # whose errors are lines
    else:
        with _one_line(f"{name}: transformers {__version__} cannot use its config.json"):
            config = AutoConfig.from_pretrained(name)
    config._commit_hash = extract_commit_hash(file, None)  # older releases of transformers set it themselves
    return config


def load_ctc_model(
    name: str | os.PathLike, config: PreTrainedConfig, language: str | None = None
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Loads a CTC model in evaluation mode, and its processor.

    Args:
        config: of the model, from `read_config`.
        language: adapter of an MMS model.

    Raises:
        ValueError: for a model of another kind or without a CTC head, for weights and a processor that cannot be
            loaded, and for parts that do not fit.
    """
    student = load_student(name, config, {} if language is None else {"target_lang": language})
    return student.model, student.processor


def load_student(
    name: str | os.PathLike,
    config: PreTrainedConfig,
    fields: Mapping[str, Any] = {},
    tokens: str | os.PathLike | None = None,
) -> Student:
    """Loads a CTC model, or an encoder that gets a CTC head, in fp32 whatever the precision of its file.

    Args:
        config: of the model, from `read_config`.
        fields: fields of the configuration that differ from the model's own, and `target_lang`, the adapter of an MMS
            model.
        tokens: file with the tokens of a new head, which keeps the rows of known tokens; an encoder needs it.

    Raises:
        ValueError: as `load_ctc_model`, and for fields and tokens that do not fit.
    """
    new_tokenizer = None if tokens is None else character_tokenizer(tokens)
    source = source_of(name)
    language = fields.get("target_lang")
    fields = {field: value for field, value in fields.items() if field != "target_lang"}
    config, encoder = _with_head(name, config)
    with _one_line(f"{name} cannot have the model_fields {fields}"):
        changed = _with_fields(config, fields)
    model, random_tensors = _load_weights(name, changed, encoder)
    config.vocab_size = model.config.vocab_size
    heads = tuple(head_names(model))
    lost = [tensor for tensor in random_tensors if tensor.startswith(heads)]
    random_tensors = [tensor for tensor in random_tensors if tensor not in lost]
    _check_complete(name, model, config, random_tensors)
    has_head = not lost
    if lost and new_tokenizer is None:
        raise ValueError(
            f"{name}: has no CTC head, as its weights lack {list_names(lost)}; set `tokens` to train one, as `hf-mlpl "
            "build-tokenizer` writes it"
        )
    old_tokenizer = _load_tokenizer(source, is_needed=new_tokenizer is None) if has_head else None
    if language is not None:
        load_adapter(source, model, old_tokenizer, language)
    problem = old_tokenizer and vocabulary_problem(model.config, old_tokenizer)
    if new_tokenizer is None:
        if problem:
            raise ValueError(f"{name}: {problem}; correct the files, or set `tokens` to train a new head")
        return Student(model, _load_processor(source, model, old_tokenizer), None, random_tensors)
    old = {} if problem or not old_tokenizer else tokens_of(old_tokenizer, blank_of(model.config))
    new = tokens_of(new_tokenizer, new_tokenizer.pad_token_id)
    if old == new:
        return Student(model, _load_processor(source, model, old_tokenizer), None, random_tensors)
    head = NewHead(model.config.vocab_size if has_head else 0, list(new), rows_to_keep(old, new))
    replace_heads(model, heads, len(new), head.kept)
    for field in {"pad_token_id", "blank_token_id"} & _field_names(model.config, inherited=True):
        setattr(model.config, field, new_tokenizer.pad_token_id)
    return Student(model, _load_processor(source, model, new_tokenizer), head, random_tensors)


# Configuration


def student_config(
    name: str | os.PathLike, config: PreTrainedConfig, fields: Mapping[str, Any] = {}, num_classes: int | None = None
) -> PreTrainedConfig:
    """Returns the configuration of the model that `load_student` loads, without loading it.

    Args:
        num_classes: of a new head; by default that of the model.

    Raises:
        ValueError: as `load_student`, for a model of another kind and for fields that do not fit.
    """
    config, _ = _with_head(name, config)
    with _one_line(f"{name} cannot have the model_fields {fields}"):
        changed = _with_fields(config, {field: value for field, value in fields.items() if field != "target_lang"})
    if num_classes is not None:
        set_num_classes(changed, num_classes)
    return changed


def _with_head(name: str | os.PathLike, config: PreTrainedConfig) -> tuple[PreTrainedConfig, str | None]:
    """Returns the configuration of a CTC model, and, if `config` is an encoder's, the name of its field there."""
    if type(config) in MODEL_FOR_CTC_MAPPING:
        return copy.deepcopy(config), None
    for config_class in MODEL_FOR_CTC_MAPPING:
        for field in config_class.sub_configs:
            if type(getattr(default := config_class(), field)) is type(config):
                shared = _field_names(default) & _field_names(config)
                whole = config_class(**{field: config} | {name: getattr(config, name) for name in shared})
                whole._commit_hash = config._commit_hash
                return whole, field
    model_type = config.model_type
    kinds = (kind for kind, lists in OTHER_KINDS.items() if any(model_type in _types(names) for names in lists))
    kind = next(kinds, "does not write down speech")
    remedy = "; `hf-mlpl pseudo-label` writes texts with it" if kind == "generates text" else ""
    raise ValueError(f"{name}: is of type {model_type}, which {kind}{remedy}; {_accepted()}")


def _accepted() -> str:
    """Describes the models that can be trained."""
    types = sorted({config_class.model_type for config_class in MODEL_FOR_CTC_MAPPING})
    return f"accepted are CTC models, and their encoders, of the types {', '.join(types)}"


def _types(names: str) -> Container[str]:
    return getattr(modeling_auto, names, ())


def _field_names(config: PreTrainedConfig, inherited: bool = False) -> set[str]:
    """Returns the names of the fields that a configuration's class has, and that all classes have."""
    common = set() if inherited else {field.name for field in dataclasses.fields(PreTrainedConfig)}
    return {field.name for field in dataclasses.fields(config)} - common


def _with_fields(config: PreTrainedConfig, fields: Mapping[str, Any]) -> PreTrainedConfig:
    """Returns a configuration with other values of some fields; a dict changes the fields of a nested one."""
    names = _field_names(config) - set(DECIDED_FIELDS)
    if decided := sorted(fields.keys() & set(DECIDED_FIELDS)):
        raise ValueError(f"{', '.join(decided)}: the tokenizer, or `tokens`, decides")
    if unknown := sorted(map(str, fields.keys() - names)):
        raise ValueError(f"there is no {', '.join(unknown)}; accepted are {', '.join(sorted(names))}")
    changed = copy.deepcopy(config)
    for field, value in fields.items():
        if PROBABILITY.search(field) and isinstance(value, (int, float)) and not 0 <= value <= 1:
            raise ValueError(f"{field} is {value}; it must be at least 0 and at most 1")
        nested = field in config.sub_configs and isinstance(value, Mapping)
        setattr(changed, field, _with_fields(getattr(config, field), value) if nested else value)
    return changed


# Weights


def _load_weights(
    name: str | os.PathLike, config: PreTrainedConfig, encoder: str | None
) -> tuple[PreTrainedModel, list[str]]:
    """Loads weights in fp32; returns also the names of the tensors that have none, and are random."""
    if config.vocab_size is None:  # of an encoder without a head
        config.vocab_size = 1
    if (base := base_of(name)) is not None:
        with explained(name):
            original, _ = _load_weights(base, *_with_head(base, read_config(base)))
        merged, missing = merge_adapters(name, type(original)(config), original.state_dict())
        return merged, sorted(missing)
    # Tensors of other shapes are refused below: transformers' own error does not name them.
    arguments = {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
    with _one_line(f"{name}: its weights cannot be loaded"), _only_errors():
        model_class = MODEL_FOR_CTC_MAPPING[type(config)]
        if encoder is None:
            model, report = model_class.from_pretrained(name, config=config, **arguments)
            _check_shapes(report)
            return model, sorted(report["missing_keys"])
        part, report = AutoModel.from_pretrained(name, config=getattr(config, encoder), **arguments)
        _check_shapes(report)
        model = model_class(config).eval()
        place = next(place for place, module in model.named_modules() if type(module) is type(part))
        model.get_submodule(place).load_state_dict(part.state_dict())
        head = [tensor for tensor in model.state_dict() if not tensor.startswith(f"{place}.")]
        return model, [*head, *(f"{place}.{tensor}" for tensor in sorted(report["missing_keys"]))]


def _check_shapes(report: Mapping[str, Any]) -> None:
    """Raises a ValueError for tensors of a file that have other shapes in the model."""
    for tensor, stored, needed in sorted(report["mismatched_keys"]):
        raise ValueError(
            f"{tensor} has the shape {tuple(stored)}, and by config.json and model_fields it has {tuple(needed)}"
        )


def _check_complete(
    name: str | os.PathLike, model: PreTrainedModel, config: PreTrainedConfig, random_tensors: Sequence[str]
) -> None:
    """Raises a ValueError for missing tensors, except for those that only the changed fields, or training, need."""
    lost = [tensor for tensor in random_tensors if not tensor.endswith(UNPUBLISHED)]
    if lost and (lost := [tensor for tensor in lost if tensor in outline(model, config).state_dict()]):
        raise ValueError(f"{name}: its weights lack {list_names(lost)}; copy or download them again")


def adapter_languages(name: str | os.PathLike, config: PreTrainedConfig) -> list[str]:
    """Returns the languages of an MMS model's adapters; none for other models, and those that were saved with one."""
    if getattr(config, "adapter_attn_dim", None) is None or (file := find_file(name, "vocab.json")) is None:
        return []
    languages = [language for language, vocabulary in read_settings(file).items() if isinstance(vocabulary, dict)]
    # A trained model keeps the vocabularies of all languages, and has no files of adapters.
    files = (f"adapter.{language}.{suffix}" for language in languages[:1] for suffix in ("safetensors", "bin"))
    return languages if any(find_file(name, file) for file in files) else []


def load_adapter(
    name: str | os.PathLike, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, language: str
) -> None:
    """Gives an MMS model the adapter, the head and the vocabulary of a language."""
    vocabularies = getattr(tokenizer, "vocab", None) or {}
    if getattr(model.config, "adapter_attn_dim", None) is None or vocabularies == getattr(tokenizer, "encoder", {}):
        raise ValueError(f"{name}: has no adapters of languages, as MMS models have; leave out target_lang")
    if language not in vocabularies:
        raise ValueError(f"{name}: has no adapter for target_lang {language!r}; it has {list_names(vocabularies)}")
    with _one_line(f"{name}: its adapter for {language} cannot be loaded"), _only_errors():
        model.load_adapter(language)
    model.target_lang = None  # else each call of tie_weights would load the adapter again
    tokenizer.set_target_lang(language)


# Processor


def _load_tokenizer(name: str | os.PathLike, is_needed: bool) -> PreTrainedTokenizerBase | None:
    """Loads a model's tokenizer; returns None if it is not needed and there is none, or none that can be used."""
    try:
        if not any(find_file(name, file) for file in TOKENIZER_FILES):
            raise ValueError(f"{name}: has no tokenizer, none of {', '.join(TOKENIZER_FILES)}")
        with _one_line(f"{name}: its tokenizer cannot be loaded"), _only_errors():
            tokenizer = AutoTokenizer.from_pretrained(name)
            if others := [number for number in tokenizer.get_vocab().values() if type(number) is not int]:
                raise ValueError(f"a token has the id {short_repr(others[0])}, which must be a whole number")
            return tokenizer
    except ValueError as error:
        if not is_needed:
            return None
        raise ValueError(f"{error}; copy it from the same place, or set `tokens` to train a new head") from error


def check_extractor(name: str | os.PathLike) -> None:
    """Raises a ValueError for a model whose files have no feature extractor."""
    if not any(find_file(name, file) for file in EXTRACTOR_FILES):
        raise ValueError(
            f"{name}: has no {EXTRACTOR_FILES[0]}, and so no feature extractor; copy it from the model that these "
            "weights come from"
        )


def _load_processor(
    name: str | os.PathLike, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> ProcessorMixin:
    """Loads a feature extractor, makes a processor of it and the tokenizer, and tries it with the model.

    Raises:
        ValueError: for a feature extractor that is missing or damaged, or that makes other inputs than the model's.
    """
    check_extractor(name)
    with _one_line(f"{name}: its processor cannot be loaded"), _only_errors():
        processor_class = PROCESSOR_MAPPING.get(type(model.config), Wav2Vec2Processor)
        settings, _ = processor_class.get_processor_dict(name)
        parts = AutoFeatureExtractor.from_pretrained(name), tokenizer
        processor = processor_class.from_args_and_dict(parts, settings)
    with _one_line(f"{name}: its processor cannot be used"), torch.no_grad():
        ctc = TransformersInterface(model.config, processor)
        inputs = ctc.extract(np.zeros(0, np.float32))[None]
        ctc.forward(model.eval(), inputs, torch.ones(inputs.shape[:2], dtype=torch.long))
    return processor


# Errors


@contextmanager
def _one_line(problem: str) -> Iterator[None]:
    """Turns errors of any type, which transformers and others raise for faulty files, into a ValueError of a line."""
    try:
        yield
    except Exception as error:
        reason = textwrap.shorten(
            error_line(error, with_type=not isinstance(error, (OSError, ValueError))), MOST_CHARACTERS
        )
        raise ValueError(f"{problem} ({textwrap.shorten(reason, MOST_CHARACTERS)})") from error


@contextmanager
def _only_errors() -> Iterator[None]:
    """Silences transformers' warnings, about weights that are missing, for instance, which the caller reports."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
