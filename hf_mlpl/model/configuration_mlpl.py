"""Configures the model: its sizes, its languages by name, and the arithmetic of its frames."""

# Part of hf_mlpl, and copied into every saved model folder. To load such a folder, `import hf_mlpl` where hf_mlpl is
# installed; or pass `trust_remote_code=True`, with which transformers runs the copies.

# Without `from __future__ import annotations`: `strict` checks the types of fields, and cannot where they are strings.
import math
import os
from collections.abc import Sequence
from typing import ClassVar

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from .model_files import AUTO_MAP, Accepted, check_settings, choice, dict_of, list_of_texts, short_repr, text, whole

MAX_LAYERS = 1000
MAX_SIZE = 2**20  # of any dimension, so that a typing error is refused before memory is requested
DTYPES = ("float32", "float16", "bfloat16", "float64")


def _range(low: int, high: int) -> Accepted:
    return lambda value: low <= value <= high, f"at least {low} and at most {high}"


DROPOUT: Accepted = (lambda value: 0 <= value < 1, "at least 0 and below 1")
RANGES = {  # of fields whose types `strict` has checked; NaN is in none
    "vocab_size": _range(2, MAX_SIZE),  # one entry and the blank
    "num_mel_bins": _range(1, MAX_SIZE),
    "hidden_size": _range(1, MAX_SIZE),
    "num_hidden_layers": _range(1, MAX_LAYERS),
    "num_attention_heads": _range(1, MAX_SIZE),
    "attention_head_dim": _range(1, MAX_SIZE),
    "intermediate_size": _range(1, MAX_SIZE),
    "max_position_embeddings": _range(1, MAX_SIZE),
    "layer_norm_eps": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "conv_dropout": DROPOUT,
    "attention_dropout": DROPOUT,
    "activation_dropout": DROPOUT,
    "layerdrop": DROPOUT,
    "ctc_loss_reduction": choice("mean", "sum", "target_sqrt"),
    "lid_loss_weight": (lambda value: 0 <= value < math.inf, "at least 0 and finite"),
    "conv_kernel": choice(7),
    "conv_stride": choice(3),
    "hop_length": choice(160),
}

# Settings of config.json that transformers reads; other values would end in a traceback.
INHERITED = {
    "architectures": (lambda value: value is None or list_of_texts()[0](value), "a list of texts or null"),
    "auto_map": AUTO_MAP,
    "dtype": (lambda value: value is None or str(value).removeprefix("torch.") in DTYPES, " or ".join(DTYPES)),
    "attn_implementation": text(or_null=True),
    "_attn_implementation": text(or_null=True),
    "output_hidden_states": choice(True, False, None),
    "output_attentions": choice(True, False, None),
    "return_dict": choice(True, False, None),
    "quantization_config": (lambda value: isinstance(value, dict) and "quant_method" in value, "with a quant_method"),
    "task_specific_params": (lambda value: value is None or isinstance(value, dict), "an object or null"),
    "num_labels": (lambda value: value is None or whole(0, 10_000)[0](value), "a whole number up to 10,000"),
    "custom_pipelines": dict_of(dict, "objects"),
}
INHERITED["torch_dtype"] = INHERITED["dtype"]


class NamedConfig(PreTrainedConfig):
    """Passes the folder's name to `from_dict`, whose errors name the file."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs):
        """Loads as every `from_pretrained`; raises `ValueError` for a wrong setting of the file or of `kwargs`."""
        name = {"name_or_path": pretrained_model_name_or_path}
        result = super().from_pretrained(pretrained_model_name_or_path, **name | kwargs)
        config = result[0] if isinstance(result, tuple) else result
        config.name_or_path = kwargs.get("name_or_path", "")  # which only models and AutoConfig set otherwise
        return result


@strict
class MlplConfig(NamedConfig):
    r"""Holds the sizes and training constants of [`MlplForCTC`]. The defaults are those of the released large model
    (wav2letter `recipes/mling_pl/mling_large.cpp`), except for the two numbers that depend on the data.

    Args:
        vocab_size (`int`):
            Number of CTC classes: the entries of the tokens file and, last, the blank.
        languages (`list[str]`):
            Names of the classes of the language-ID head, in order. An empty list makes a model without that head.
        blank_token_id (`int`, *optional*):
            The last class, `vocab_size - 1`, as in flashlight, also after `vocab_size` has changed; no other value is
            accepted. As in other CTC models it is the tokenizer's padding, too: `pad_token_id` is another name of it.
        num_mel_bins (`int`):
            Mel bins of a feature frame.
        hidden_size, num_hidden_layers, num_attention_heads, attention_head_dim, intermediate_size (`int`):
            Sizes of the encoder. Heads need not divide `hidden_size`: the projections are
            `num_attention_heads * attention_head_dim` wide.
        max_position_embeddings (`int`):
            Reach of the table of relative positions, `2 * max_position_embeddings - 1` rows, in output frames of
            30 ms. Longer recordings work; frames further apart get no position score.
        layer_norm_per_channel (`bool`):
            Gives the layers' layer norms a weight and a bias for each of the `hidden_size` channels, as in models that
            were fine-tuned with `MCTCTForCTC`, instead of the original's one weight and one bias.
        conv_dropout, attention_dropout, activation_dropout (`float`):
            Dropout after the front end's GLU, on attention probabilities, and inside the MLP after its ReLU.
        layerdrop (`float`):
            Probability that a layer is reduced to its two layer norms for all utterances of a training batch.
        ctc_loss_reduction (`str`):
            `"mean"`: mean over utterances of loss / label length; `"target_sqrt"`: mean over utterances of
            loss / sqrt(label length), the original's `--onorm=target --sqnorm=true`; `"sum"`: plain sum.
        ctc_zero_infinity (`bool`):
            Ignores utterances whose labels do not fit into their frames instead of returning an infinite loss.
        lid_loss_weight (`float`):
            Weight of the language-ID loss beside the CTC loss.
    """

    model_type = "mlpl"
    _auto_class: ClassVar[str | None] = "AutoConfig"  # saving also writes this code, for trust_remote_code
    attribute_map: ClassVar[dict[str, str]] = {"pad_token_id": "blank_token_id"}
    # transformers' Trainer then evaluates the logits alone, as of every CTC model; `ignore_keys=[]` gives it both.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["language_log_probs"]

    # Kernel and stride are part of the architecture: the padding rule and the 30 ms output frame follow from them.
    conv_kernel: ClassVar[int] = 7
    conv_stride: ClassVar[int] = 3
    hop_length: ClassVar[int] = 160  # samples from one feature frame to the next, 10 ms at 16 kHz
    frames_per_second: ClassVar[int] = 16_000 // hop_length  # of the features

    vocab_size: int = 8065
    languages: list[str] | tuple[str, ...] = ()
    blank_token_id: int | None = None
    num_mel_bins: int = 80
    hidden_size: int = 1536
    num_hidden_layers: int = 36
    num_attention_heads: int = 4
    attention_head_dim: int = 384
    intermediate_size: int = 6144
    max_position_embeddings: int = 920
    layer_norm_eps: float = 1e-5
    layer_norm_per_channel: bool = False
    conv_dropout: float | int = 0.3
    attention_dropout: float | int = 0.3
    activation_dropout: float | int = 0.3
    layerdrop: float | int = 0.3
    ctc_loss_reduction: str = "target_sqrt"
    ctc_zero_infinity: bool = False
    lid_loss_weight: float | int = 1.0

    def __post_init__(self, **kwargs):
        self.languages = list(self.languages)
        super().__post_init__(**kwargs)

    def __setattr__(self, name, value):
        # A blank that was set to another class stays there, so that `validate_mlpl` refuses it.
        follows = name == "vocab_size" and self.blank_token_id == self.vocab_size - 1
        super().__setattr__(name, value)
        if follows or self.blank_token_id is None:
            self.blank_token_id = self.vocab_size - 1

    def validate_mlpl(self) -> None:
        """Checks all fields; `strict` calls it after construction, and models when they are made and trained."""
        check_settings("", vars(self), RANGES)
        if self.blank_token_id != self.vocab_size - 1:
            raise ValueError(
                f"blank_token_id is {self.blank_token_id}, but the blank, and so the padding, is the last class of "
                f"vocab_size {self.vocab_size}, {self.vocab_size - 1}; leave blank_token_id and pad_token_id out"
            )
        duplicates = sorted({name for name in self.languages if self.languages.count(name) > 1})
        if duplicates:
            raise ValueError(f"languages must be distinct; given more than once: {', '.join(duplicates)}")

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """Builds the configuration from the settings of a file.

        Raises:
            ValueError: in one line with the file, for a wrong setting or a model of another type.
        """
        name = str(kwargs.get("name_or_path") or config_dict.get("_name_or_path") or "")
        file = name if name.endswith(".json") else os.path.join(name, "config.json")
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"{file}: this is the configuration of a model of type {model_type!r}, not {cls.model_type!r}; "
                "AutoConfig and AutoModelForCTC choose by type, and `hf-mlpl convert` converts an 'mctct' model to an "
                "'mlpl' model"
            )
        # Trainer has set it in folders of older versions, whose other code did not know it.
        config_dict = {field: value for field, value in config_dict.items() if field != "pad_token_id"}
        overrides = {field: value for field, value in kwargs.items() if value != "auto"}  # a dtype may be "auto"
        check_settings(file, config_dict | overrides, INHERITED)
        methods = [field for field in config_dict | overrides if callable(getattr(cls, field, None))]
        if methods:
            raise ValueError(f"{file}: {methods[0]} is a method of the configuration, not a setting; remove it")
        fields = {*cls.__dataclass_fields__, *cls.attribute_map}
        changes = [f"{field}={short_repr(value)}" for field, value in overrides.items() if field in fields]
        try:
            result = super().from_dict(config_dict, **kwargs)
            config = result[0] if isinstance(result, tuple) else result
            config.validate()  # the fields that `kwargs` have changed
        except Exception as error:  # transformers' own settings raise errors of many types
            cause = error.__cause__ if isinstance(error, StrictDataclassError) else error
            file = " with ".join([file, *changes])
            raise ValueError(f"{file}: {' '.join(str(cause).split())}") from error
        return result

    @classmethod
    def large(cls, vocab_size: int, languages: Sequence[str] | int, **fields) -> "MlplConfig":
        """Configures the paper's model: 1,058,849,871 parameters with 8065 classes and 60 languages."""
        return cls(vocab_size=vocab_size, languages=language_names(languages), **fields)

    @classmethod
    def base(cls, vocab_size: int, languages: Sequence[str] | int, **fields) -> "MlplConfig":
        """Configures the paper's smaller model: 274,625,103 parameters with 8065 classes and 60 languages."""
        sizes = {"hidden_size": 768, "attention_head_dim": 192, "intermediate_size": 3072}
        return cls(vocab_size=vocab_size, languages=language_names(languages), **sizes | fields)

    @classmethod
    def tiny(cls, vocab_size: int, languages: Sequence[str] | int, **fields) -> "MlplConfig":
        """Configures a model of about 2 million parameters, which learns short sentences on a laptop in minutes."""
        sizes = {"hidden_size": 160, "attention_head_dim": 40, "intermediate_size": 640, "num_hidden_layers": 5}
        dropout = {"conv_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "layerdrop": 0.05}
        return cls(vocab_size=vocab_size, languages=language_names(languages), **sizes | dropout | fields)

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Returns the samples per output frame, 480: 30 ms at 16 kHz. The pipeline cuts chunks by it."""
        return self.hop_length * self.conv_stride

    def num_output_frames(self, num_frames):
        """Counts frames after the front end's subsampling: ceil(num_frames / 3) of an int, an array or a tensor."""
        return (num_frames + self.conv_stride - 1) // self.conv_stride


def language_names(languages: Sequence[str] | int) -> Sequence[str]:
    """Returns the names of languages; a number, for models without data, gives `language_0` and so on."""
    return [f"language_{i}" for i in range(languages)] if isinstance(languages, int) else languages
