"""Gives a CTC model of transformers the tokens of a file: a tokenizer of transformers' own, and a head of its size."""

from __future__ import annotations

import copy
import json
import os
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, Wav2Vec2CTCTokenizer

from ..model.text import BLANK_TOKEN, WORD_BOUNDARY, read_tokens

SUBWORD_BOUNDARY = "▁"  # of SentencePiece
UNKNOWN, PADDING = "<unk>", "<pad>"  # transformers' names


def character_tokenizer(tokens: str | os.PathLike) -> Wav2Vec2CTCTokenizer:
    """Makes a tokenizer of a tokens file, whose lines are its first ids; unknown characters and the blank follow.

    It is transformers' own, so that a model which is saved with it needs no hf_mlpl. The blank is also the padding.

    Raises:
        ValueError: for a file that does not exist or is none, and for entries that this tokenizer cannot express.
    """
    if not os.path.isfile(tokens):
        raise ValueError(f"{tokens}: no such tokens file; `hf-mlpl build-tokenizer` writes it")
    lines = read_tokens(tokens)
    if others := [" ".join(line) for line in lines if len(line) > 1 or len(line[0]) > 1]:
        # The tokenizer would drop the spaces beside an entry of several characters.
        raise ValueError(
            f"{tokens}: has the line {others[0]!r}, and for a model of transformers each line must be a single "
            "character, as `hf-mlpl build-tokenizer` writes them"
        )
    vocabulary = {entry: index for index, entry in enumerate([*(line[0] for line in lines), UNKNOWN, PADDING])}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.json"
        file.write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(str(file), bos_token=None, eos_token=None, unk_token=UNKNOWN, pad_token=PADDING)


def blank_of(config: PreTrainedConfig) -> int | None:
    """Returns the blank's class, which most architectures call the padding."""
    return getattr(config, "blank_token_id", config.pad_token_id)


def vocabulary_problem(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Returns why a tokenizer does not fit a model's head; None if it does."""
    blank, padding = blank_of(config), tokenizer.pad_token_id
    if blank is None:
        return "its config.json has no pad_token_id, which is the blank"
    if padding is None:
        return "its tokenizer has no padding, which is the blank"
    is_special = hasattr(config, "blank_token_id") and blank in tokenizer.all_special_ids  # as OmniASR's
    if blank != padding and not is_special:
        return f"the blank of its config.json, {blank}, is not the padding of its tokenizer, {padding}"
    special = set(tokenizer.all_special_tokens)
    ids = {index for token, index in tokenizer.get_vocab().items() if token not in special}
    known = ids | set(tokenizer.all_special_ids)
    if max(ids, default=0) >= config.vocab_size or not known.issuperset(range(config.vocab_size)):
        return f"its CTC head has {config.vocab_size} classes, and its tokenizer {len(known)} tokens"
    return None


def rows_to_keep(old: Mapping[str, int], new: Mapping[str, int]) -> dict[int, int]:
    """Returns the rows of a new head whose tokens the old one has: number in the new head -> number in the old one.

    Args:
        old, new: tokens from `tokens_of`.
    """
    return {row: old[token] for token, row in new.items() if token in old}


def tokens_of(tokenizer: PreTrainedTokenizerBase, blank: int) -> dict[str, int]:
    """Returns the tokens of a tokenizer with their classes, in the order of these.

    Word boundary, unknown character and blank have the same names for all tokenizers, and composed characters a form.
    """
    boundary = getattr(tokenizer, "word_delimiter_token", SUBWORD_BOUNDARY)
    names = {boundary: WORD_BOUNDARY, tokenizer.unk_token: UNKNOWN}
    tokens: dict[str, int] = {}
    for token, row in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        tokens.setdefault(BLANK_TOKEN if row == blank else names.get(token, unicodedata.normalize("NFC", token)), row)
    return tokens


def set_num_classes(config: PreTrainedConfig, num_classes: int) -> None:
    """Sets the classes of the CTC head, also for an encoder that predicts them, too."""
    for part in (getattr(config, name) for name in config.sub_configs):
        if config.vocab_size is not None and getattr(part, "vocab_size", None) == config.vocab_size:
            part.vocab_size = num_classes
    config.vocab_size = num_classes


def head_names(model: PreTrainedModel) -> list[str]:
    """Returns the names of the modules whose tensors have a row for each class."""
    config = copy.deepcopy(model.config)
    set_num_classes(config, config.vocab_size + 1)
    shapes = {name: tensor.shape for name, tensor in outline(model, config).state_dict().items()}
    changed = [name for name, tensor in model.state_dict().items() if shapes[name] != tensor.shape]
    return list(dict.fromkeys(name.rpartition(".")[0] for name in changed))


def replace_heads(model: PreTrainedModel, names: Sequence[str], num_classes: int, kept: Mapping[int, int]) -> None:
    """Gives a model heads with other classes; rows that are not kept start as in a new model.

    Args:
        names: of the modules, from `head_names`.
        kept: number of a row -> its number in the old head.
    """
    set_num_classes(model.config, num_classes)
    resized = outline(model, model.config)
    for name in names:
        old, new = model.get_submodule(name), resized.get_submodule(name).to_empty(device=model.device)
        model._init_weights(new)
        with torch.no_grad():
            for tensor, old_tensor in zip(new.parameters(), old.parameters(), strict=True):
                tensor[list(kept)] = old_tensor[list(kept.values())]
        model.set_submodule(name, new)
    model.tie_weights()


def outline(model: PreTrainedModel, config: PreTrainedConfig) -> PreTrainedModel:
    """Returns a model of the same class without weights."""
    with torch.device("meta"):
        return type(model)(config)
