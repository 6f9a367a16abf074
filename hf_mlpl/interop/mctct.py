"""Loads models of the old port, transformers' `MCTCTForCTC` (until 4.57), as models of this package.

Folders and Hub repositories of `model_type` `mctct` become an ordinary [`MlplForCTC`], [`MlplTokenizer`] and
[`MlplFeatureExtractor`]: the port's weights with the original's features, padding and blank. The classes `MCTCT...`
have the names that such folders contain; `import hf_mlpl` registers them with the Auto classes, so that
`pipeline("automatic-speech-recognition", model="speechbrain/m-ctc-t-large")` works.
"""

# Without `from __future__ import annotations`, as in configuration_mlpl.
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    logging,
)
from transformers.utils.hub import get_checkpoint_shard_files

from ..error_line import error_line
from ..model.configuration_mlpl import INHERITED, MlplConfig, NamedConfig
from ..model.feature_extraction_mlpl import EXTRACTOR_SETTINGS, MlplFeatureExtractor
from ..model.model_files import (
    HUB_ARGUMENTS,
    check_file,
    check_settings,
    check_shapes,
    find_file,
    list_names,
    setting_errors,
)
from ..model.text import BLANK_TOKEN, WORD_BOUNDARY, write_tokens
from ..model.tokenization_mlpl import MlplTokenizer

logger = logging.get_logger(__name__)

# Settings of the port that are constants of the original.
ONLY_CONFIGURATION = {
    "conv_glu_dim": 1,
    "conv_kernel": [7],
    "conv_stride": [3],
    "hidden_act": "relu",
    "input_channels": 1,
    "num_conv_layers": 1,
    "position_embedding_type": "relative_key",
}
ONLY_FEATURES = {
    "frame_signal_scale": 32768.0,
    "hop_length": 10,  # milliseconds, as all lengths of the port
    "mel_floor": 1.0,
    "normalize_means": True,
    "normalize_vars": True,
    "padding_side": "right",
    "padding_value": 0.0,
    "preemphasis_coeff": 0.97,
    "sampling_rate": 16000,
    "win_function": "hamming_window",
    "win_length": 25,
}

# Names of parameters, ours and the port's.
FRONT_END = {
    "layer_norm.weight": "layer_norm.singleton_weight",
    "layer_norm.bias": "layer_norm.singleton_bias",
    "conv.weight": "conv.conv_layers.0.weight",
    "conv.bias": "conv.conv_layers.0.bias",
}
LAYER = {
    "attention.q_proj.weight": "attention.self.query.weight",
    "attention.k_proj.weight": "attention.self.key.weight",
    "attention.v_proj.weight": "attention.self.value.weight",
    "attention.o_proj.weight": "attention.output.dense.weight",
    "attention.position_table": "attention.self.distance_embedding.weight",
    "attention_layer_norm.weight": "attention.output.LayerNorm.weight",
    "attention_layer_norm.bias": "attention.output.LayerNorm.bias",
    "up_proj.weight": "intermediate.dense.weight",
    "down_proj.weight": "output.dense.weight",
    "output_layer_norm.weight": "output.LayerNorm.weight",
    "output_layer_norm.bias": "output.LayerNorm.bias",
}


def convert_mctct(name_or_path: str | os.PathLike, **hub_arguments):
    """Loads model and processor of a folder or Hub repository of the old port, to be saved as our own.

    The model is on the CPU, in the dtype of its configuration, and without languages, because the port has no
    language-ID head; the log says so. Its weights stay in the file, which is mapped into memory.

    Args:
        name_or_path (`str` or `os.PathLike`): Folder, or name on the Hub.
        hub_arguments: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`, `force_download`, `proxies`,
            as in every `from_pretrained`.

    Returns:
        `tuple[MlplForCTC, MlplProcessor]`.

    Raises:
        ValueError: for a model of another type; for settings that the original does not have; for weights of another
            size, or files that hold more than tensors; for a vocabulary whose padding is not the last class of the
            head.
        OSError: for a missing file.
    """
    from transformers import AutoConfig, AutoModelForCTC, AutoProcessor

    config = AutoConfig.from_pretrained(name_or_path, **hub_arguments)
    if not isinstance(config, MCTCTConfig):
        raise ValueError(f"{name_or_path} is a model of type {config.model_type!r}, not of the old port's 'mctct'")
    # transformers looks for adapters too, and would ask the Hub for them whatever `local_files_only` says
    adapters = {name: hub_arguments[name] for name in ("cache_dir", "local_files_only") if name in hub_arguments}
    model = AutoModelForCTC.from_pretrained(name_or_path, config=config, adapter_kwargs=adapters, **hub_arguments)
    model.config._commit_hash = getattr(config, "_commit_hash", None)  # for records of runs and labels
    processor = AutoProcessor.from_pretrained(name_or_path, **hub_arguments)
    logger.warning(
        f"{name_or_path}: the old port has no language-ID head, so the converted model does not identify languages"
    )
    return model, processor


class MCTCTConfig(NamedConfig):
    """Holds the port's settings, as in its files; raises `ValueError` for those that the original does not have."""

    model_type = "mctct"

    # Defaults of settings that files leave out.
    vocab_size: int = 8065
    hidden_size: int = 1536
    num_hidden_layers: int = 36
    num_attention_heads: int = 4
    attention_head_dim: int = 384
    intermediate_size: int = 6144
    max_position_embeddings: int = 920
    layer_norm_eps: float = 1e-5
    input_feat_per_channel: int = 80
    conv_dropout: float = 0.3
    attention_probs_dropout_prob: float = 0.3
    hidden_dropout_prob: float = 0.3
    layerdrop: float = 0.3
    ctc_loss_reduction: str = "sum"
    ctc_zero_infinity: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.to_mlpl()  # checks all settings

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """Builds the configuration; raises `ValueError`, in one line with the file, for a setting of a wrong kind."""
        name = str(kwargs.get("name_or_path") or "")
        check_settings(os.path.join(name, "config.json"), config_dict, INHERITED)
        padding = kwargs.pop("pad_token_id", None)  # that of a file is transformers' default, not the model's
        with setting_errors(name, "config.json"):
            result = super().from_dict(config_dict, **kwargs)
            config = result[0] if isinstance(result, tuple) else result
            config.to_mlpl(blank_token_id=padding)  # checks settings that `kwargs` have changed
        return result

    def to_mlpl(self, **fields) -> MlplConfig:
        """Returns our configuration of the same sizes and training constants, without languages.

        Raises:
            ValueError: in one line with the file, for settings that the original does not have.
        """
        file = os.path.join(self.name_or_path, "config.json")
        _check_constants(file, vars(self), ONLY_CONFIGURATION)
        if self.architectures not in (None, ["MCTCTForCTC"]):
            raise ValueError(f"{file}: architectures is {self.architectures}; it must be MCTCTForCTC")
        common = (
            "vocab_size hidden_size num_hidden_layers num_attention_heads attention_head_dim intermediate_size "
            "max_position_embeddings layer_norm_eps conv_dropout layerdrop ctc_loss_reduction ctc_zero_infinity dtype "
            "output_attentions output_hidden_states"
        )
        try:
            return MlplConfig(
                num_mel_bins=self.input_feat_per_channel,
                attention_dropout=self.attention_probs_dropout_prob,
                activation_dropout=self.hidden_dropout_prob,
                attn_implementation=self._attn_implementation,
                **{name: getattr(self, name) for name in common.split()},
                **fields,
            )
        except StrictDataclassError as error:
            raise ValueError(f"{file}: {error_line(error)}") from error


class MCTCTForCTC:
    """Stands for the port's model class in AutoModelForCTC, and loads [`MlplForCTC`]."""

    config_class = MCTCTConfig

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike, *, config: MCTCTConfig, **kwargs):
        """Loads [`MlplForCTC`] with the port's weights; `kwargs` as in its own `from_pretrained`, such as `dtype`."""
        from ..model.modeling_mlpl import MlplForCTC

        hub = _take_hub_arguments(kwargs)
        if kwargs.pop("weights_only", True) is not True:
            raise ValueError("weights_only must be True, because a file with more than tensors may run any program")
        for name in ("output_loading_info", "variant"):
            if kwargs.pop(name, None):
                raise ValueError(f"{name} cannot be used with models of the old port")
        has_new_head = kwargs.get("ignore_mismatched_sizes", False)
        if not has_new_head and find_file(name_or_path, "vocab.json", hub) is not None:
            _read_vocabulary(name_or_path, config.vocab_size, hub)  # raises unless the last class is the blank
        weights = _read_weights(_weight_files(name_or_path, kwargs.pop("use_safetensors", None), hub))
        weights, per_channel = _translate(weights, config, name_or_path, has_new_head)
        ours = config.to_mlpl(layer_norm_per_channel=per_channel)
        model = MlplForCTC.from_pretrained(None, config=ours, state_dict=weights, **kwargs)
        model.name_or_path = model.config.name_or_path = str(name_or_path)
        return model

    @classmethod
    def _from_config(cls, config: MCTCTConfig, **kwargs):
        """Makes an untrained model for `AutoModelForCTC.from_config`."""
        from ..model.modeling_mlpl import MlplForCTC

        return MlplForCTC._from_config(config.to_mlpl(), **kwargs)


class MCTCTFeatureExtractor:
    """Stands for the class that the port's `preprocessor_config.json` names, and loads [`MlplFeatureExtractor`]."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike, **kwargs):
        """Loads the extractor; raises `ValueError` for settings that the original does not have."""
        file = os.path.join(name_or_path, "preprocessor_config.json")
        with setting_errors(name_or_path, "preprocessor_config.json"):
            settings, kwargs = MlplFeatureExtractor.get_feature_extractor_dict(name_or_path, **kwargs)
        _check_constants(file, settings, ONLY_FEATURES)
        check_settings(file, settings, {"feature_size": EXTRACTOR_SETTINGS["feature_size"]})
        extractor = MlplFeatureExtractor(feature_size=settings.get("feature_size", 80))
        return MlplFeatureExtractor.from_dict(extractor.to_dict(), **kwargs)


class MCTCTTokenizer:
    """Stands for the `Wav2Vec2CTCTokenizer` of the port's folders in AutoTokenizer, and loads [`MlplTokenizer`]."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike, **kwargs) -> MlplTokenizer:
        """Loads a tokenizer with the classes of `vocab.json`.

        Special tokens within the head, such as an `<unk>`, keep their classes and decode to nothing; those beyond it
        are dropped. Classes without an entry decode to nothing too, and so do, with a warning, entries that a tokens
        file cannot hold, such as a space. A class with several entries decodes to the first in the file.

        Raises:
            ValueError: for padding that is not the last class of the head, other entries beyond it, or a missing word
                delimiter.
        """
        from transformers import AutoConfig  # not at the top: its import registers the classes of this module

        hub = _take_hub_arguments(kwargs)
        vocab_size = AutoConfig.from_pretrained(name_or_path, **hub).vocab_size
        lines, silent = _read_vocabulary(name_or_path, vocab_size, hub)
        kwargs = {name: value for name, value in kwargs.items() if name != "trust_remote_code" and name[0] != "_"}
        with TemporaryDirectory() as folder:
            path = Path(folder, MlplTokenizer.vocab_files_names["vocab_file"])
            write_tokens(path, lines)
            return MlplTokenizer(path, silent_entries=silent, name_or_path=str(name_or_path), **kwargs)


class MCTCTProcessor:
    """Stands for the class that the port's `preprocessor_config.json` names, and loads [`MlplProcessor`]."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike, **kwargs):
        """Loads extractor and tokenizer into a processor."""
        from ..model.processing_mlpl import MlplProcessor

        parts = (MCTCTFeatureExtractor, MCTCTTokenizer)
        return MlplProcessor(*(part.from_pretrained(name_or_path, **kwargs) for part in parts))


# --------------------------------------------------------------------------------------------------------------- files


def _take_hub_arguments(kwargs: dict) -> dict:
    """Removes the arguments of the Hub from `kwargs`, and returns them."""
    return {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}


def _check_constants(file: str, settings: Mapping, constants: Mapping) -> None:
    """Raises `ValueError` for settings that differ from the original's constants."""
    differences = [
        f"{name} is {settings[name]!r} instead of {value!r}"
        for name, value in constants.items()
        if settings.get(name, value) != value
    ]
    if differences:
        raise ValueError(
            f"{file}: {', '.join(differences)}; the original's model, and so hf_mlpl, has no other values"
        )


# ---------------------------------------------------------------------------------------------------------- vocabulary


def _read_vocabulary(name_or_path: str | os.PathLike, vocab_size: int, hub: Mapping) -> tuple[list[str], list[str]]:
    """Returns lines of a tokens file for all classes but the blank, and silent entries; raises as the tokenizer."""
    vocab = {}
    for file in ("added_tokens.json", "vocab.json"):
        classes = check_file(name_or_path, file, {}, hub)
        if not all(isinstance(index, int) and index >= 0 for index in classes.values()):
            raise ValueError(f"{name_or_path}: {file} must give each entry a class")
        vocab |= classes
    if not classes:
        raise ValueError(f"{name_or_path}: has no vocab.json, which must give each entry a class")
    with setting_errors(name_or_path, "tokenizer_config.json or special_tokens_map.json"):
        padding, delimiter, special = _special_tokens(name_or_path, hub)
    blank = vocab_size - 1
    if vocab.get(padding) != blank:
        raise ValueError(
            f"{name_or_path}: the padding, {padding!r}, is class {vocab.get(padding)} of a head with {vocab_size} "
            f"classes; it must be the last, {blank}, which is the CTC blank of the original and of hf_mlpl"
        )
    beyond = [entry for entry, index in vocab.items() if index > blank and entry not in special]
    if beyond:
        raise ValueError(f"{name_or_path}: the head has {vocab_size} classes, and none for {list_names(beyond)}")
    if vocab.get(delimiter, blank) >= blank:
        raise ValueError(f"{name_or_path}: vocab.json has no word delimiter, {delimiter!r}")

    lines = [[] for _ in range(blank)]
    lines[vocab[delimiter]].append(WORD_BOUNDARY)
    rejected = []
    for entry, index in vocab.items():
        if index < blank and entry != delimiter and entry not in special:
            (lines[index] if _fits_tokens_file(entry) else rejected).append(entry)
    if rejected:
        names = list_names(map(repr, rejected))
        logger.warning(f"{name_or_path}: a tokens file cannot hold {names}; the model writes nothing for them")
    names = {index: entry for entry, index in vocab.items() if entry in special and _fits_tokens_file(entry)}
    silent = {index: names.get(index, f"<class-{index}>") for index, entries in enumerate(lines) if not entries}
    return [" ".join(entries) or silent[index] for index, entries in enumerate(lines)], list(silent.values())


def _special_tokens(name_or_path: str | os.PathLike, hub: Mapping) -> tuple[str, str, set[str]]:
    """Returns the padding, the word delimiter, and all tokens that stand for no text."""
    settings: dict[str, Any] = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    settings["word_delimiter_token"] = WORD_BOUNDARY
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        settings |= check_file(name_or_path, file, {}, hub)
    tokens = [settings[name] for name in ("pad_token", "word_delimiter_token", "unk_token", "bos_token", "eos_token")]
    tokens += settings.get("additional_special_tokens") or []
    tokens += [token for token in settings.get("added_tokens_decoder", {}).values() if token.get("special")]
    padding, delimiter, *others = (token["content"] if isinstance(token, dict) else token for token in tokens)
    return padding, delimiter, {padding, *others} - {delimiter}


def _fits_tokens_file(entry: str) -> bool:
    """Checks that a tokens file, in which ASCII white space separates entries, can have the entry beside the `|`."""
    try:
        return entry.encode().split() == [entry.encode()] and entry not in (WORD_BOUNDARY, BLANK_TOKEN)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


# ------------------------------------------------------------------------------------------------------------- weights


def _weight_files(name_or_path: str | os.PathLike, use_safetensors: bool | None, hub: Mapping) -> list[str]:
    """Returns the paths of the weights, and prefers safetensors to pickles."""
    names = [SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME]
    if use_safetensors is not None:
        names = names[:2] if use_safetensors else names[2:]
    for name in names:
        path = find_file(name_or_path, name, hub)
        if path is not None:
            return get_checkpoint_shard_files(name_or_path, path, **hub)[0] if path.endswith(".json") else [path]
    raise OSError(f"{name_or_path}: has no weights, neither {' nor '.join(names)}")


def _read_weights(files: Iterable[str]) -> dict[str, torch.Tensor]:
    """Maps the tensors of all files into memory instead of reading them."""
    weights = {}
    for file in files:
        try:
            if file.endswith(".safetensors"):
                tensors = load_file(file)
            else:
                tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
            are_tensors = all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # damaged files raise errors of many types
            raise ValueError(f"{file} is damaged, or holds more than tensors, which is not unpickled") from error
        if not are_tensors:
            raise ValueError(f"{file} holds more than tensors and their names")
        weights |= tensors
    return weights


def _translate(
    weights: Mapping[str, torch.Tensor], config: MCTCTConfig, name_or_path: str | os.PathLike, has_new_head: bool
) -> tuple[dict[str, torch.Tensor], bool]:
    """Returns weights by our names, and whether their layer norms differ between channels."""
    from ..model.modeling_mlpl import NEW_HEAD, MlplForCTC

    with torch.device("meta"):
        model = MlplForCTC(config.to_mlpl(layer_norm_per_channel=True))
    parameters = model.state_dict()
    expected = {name_in_port(name): tuple(tensor.shape) for name, tensor in parameters.items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if has_new_head:  # transformers replaces a head of another size
        expected |= {name: shape for name, shape in found.items() if name.startswith("ctc_head.")}
    check_shapes(str(name_or_path), found, expected, alternative=NEW_HEAD)
    translated = {name: weights[name_in_port(name)] for name in parameters}
    norms = [name for name in translated if "layers." in name and "layer_norm." in name]
    per_channel = any((translated[name] != translated[name][0]).any() for name in norms)
    if not per_channel:  # as the original has them
        translated |= {name: translated[name][:1].clone() for name in norms}
    return translated, per_channel


def name_in_port(name: str) -> str:
    """Translates our name, `model.layers.0.up_proj.weight` to `mctct.encoder.layers.0.intermediate.dense.weight`."""
    if name.startswith("ctc_head."):
        return name
    part, _, rest = name.removeprefix("model.").partition(".")
    if part == "front_end":
        return f"mctct.encoder.{FRONT_END[rest]}"
    number, _, rest = rest.partition(".")
    return f"mctct.encoder.layers.{number}.{LAYER[rest]}"
