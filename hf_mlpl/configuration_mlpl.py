# Part of hf_mlpl, and copied into every saved model folder. To load such a folder, `pip install hf-mlpl` and
# `import hf_mlpl`; or pass `trust_remote_code=True`, with which transformers runs the copies.
"""Configuration of the model: sizes, languages by name, and the frame arithmetic that everything else uses."""

# Without `from __future__ import annotations`: `strict` checks the types of fields, and cannot where they are strings.
from collections.abc import Sequence
from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

CTC_LOSS_REDUCTIONS = ("mean", "sum", "target_sqrt")


@strict
class MlplConfig(PreTrainedConfig):
    r"""
    Sizes and training constants of [`MlplForCTC`]. The defaults are those of the released large model (wav2letter
    `recipes/mling_pl/mling_large.cpp`), except for the two numbers that depend on the data.

    Args:
        vocab_size (`int`):
            Number of CTC classes: the entries of the tokens file and, last, the blank.
        languages (`list[str]`):
            Names of the classes of the language-ID head, in order. An empty list makes a model without that head.
        blank_token_id (`int`, *optional*):
            The last class, `vocab_size - 1`, as in flashlight. It is stored so that nobody has to guess it; any
            other value is refused.
        num_mel_bins (`int`):
            Mel bins of a feature frame.
        hidden_size, num_hidden_layers, num_attention_heads, attention_head_dim, intermediate_size (`int`):
            Sizes of the encoder. Heads need not divide `hidden_size`: the projections are
            `num_attention_heads * attention_head_dim` wide.
        max_position_embeddings (`int`):
            Distances that the table of relative positions knows: `2 * max_position_embeddings - 1` rows, one row per
            output frame of 30 ms. Longer recordings work; frames further apart get no position score.
        layer_norm_per_channel (`bool`):
            Gives the layer norms of the layers a weight and a bias for each of the `hidden_size` channels instead of
            one of each, as models have that were fine-tuned with `MCTCTForCTC`. The original has one.
        conv_dropout, attention_dropout, activation_dropout (`float`):
            Dropout after the front end's GLU, on attention probabilities, and inside the MLP after its ReLU.
        layerdrop (`float`):
            Probability that a layer is reduced to its two layer norms for a whole training batch.
        ctc_loss_reduction (`str`):
            `"mean"`: mean over utterances of loss / label length; `"target_sqrt"`: mean over utterances of
            loss / sqrt(label length), the original's `--onorm=target --sqnorm=true`; `"sum"`: plain sum.
        ctc_zero_infinity (`bool`):
            Ignore utterances whose labels do not fit into their frames instead of returning an infinite loss.
        lid_loss_weight (`float`):
            Weight of the language-ID loss beside the CTC loss.
    """

    model_type = "mlpl"
    _auto_class: ClassVar[str | None] = "AutoConfig"  # saving also writes this code, for trust_remote_code

    # Kernel and stride are part of the architecture: the padding rule and the 30 ms output frame follow from them.
    conv_kernel: ClassVar[int] = 7
    conv_stride: ClassVar[int] = 3
    hop_length: ClassVar[int] = 160  # samples from one feature frame to the next, 10 ms at 16 kHz

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
        if self.blank_token_id is None:
            self.blank_token_id = self.vocab_size - 1
        super().__post_init__(**kwargs)

    def validate_mlpl(self) -> None:
        """Called by `strict` after construction."""
        if self.vocab_size < 2:
            raise ValueError(f"vocab_size is {self.vocab_size}; it must be at least 2: one entry and the blank")
        if self.blank_token_id != self.vocab_size - 1:
            raise ValueError(
                f"blank_token_id is {self.blank_token_id}, but the blank is the last class, {self.vocab_size - 1}; "
                "leave blank_token_id out"
            )
        duplicates = sorted({name for name in self.languages if self.languages.count(name) > 1})
        if duplicates:
            raise ValueError(f"languages must be distinct; given more than once: {', '.join(duplicates)}")
        if self.ctc_loss_reduction not in CTC_LOSS_REDUCTIONS:
            raise ValueError(
                f"ctc_loss_reduction is {self.ctc_loss_reduction!r}; accepted are {', '.join(CTC_LOSS_REDUCTIONS)}"
            )
        sizes = ("num_mel_bins", "hidden_size", "num_hidden_layers", "num_attention_heads", "attention_head_dim")
        for name in (*sizes, "intermediate_size", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("conv_dropout", "attention_dropout", "activation_dropout", "layerdrop"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """Raises `ValueError` for the configuration of another type of model, of which little would be understood."""
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"this is the configuration of a model of type {model_type!r}, not {cls.model_type!r}; AutoConfig and "
                "AutoModelForCTC choose by type, and `hf-mlpl convert` makes an 'mlpl' model of an 'mctct' one"
            )
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def large(cls, vocab_size: int, languages: Sequence[str] | int, **fields) -> "MlplConfig":
        """The paper's model: 1,058,849,871 parameters with 8065 classes and 60 languages."""
        return cls(vocab_size=vocab_size, languages=_language_names(languages), **fields)

    @classmethod
    def base(cls, vocab_size: int, languages: Sequence[str] | int, **fields) -> "MlplConfig":
        """The paper's smaller model: 274,625,103 parameters with 8065 classes and 60 languages."""
        sizes = {"hidden_size": 768, "attention_head_dim": 192, "intermediate_size": 3072}
        return cls(vocab_size=vocab_size, languages=_language_names(languages), **sizes | fields)

    @classmethod
    def tiny(cls, vocab_size: int, languages: Sequence[str] | int, **fields) -> "MlplConfig":
        """About 2 million parameters: learns short sentences on a laptop CPU in minutes. Not in the paper."""
        sizes = {"hidden_size": 160, "attention_head_dim": 40, "intermediate_size": 640, "num_hidden_layers": 5}
        dropout = {"conv_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "layerdrop": 0.05}
        return cls(vocab_size=vocab_size, languages=_language_names(languages), **sizes | dropout | fields)

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples per output frame: 480, 30 ms at 16 kHz. The speech recognition pipeline cuts chunks by it."""
        return self.hop_length * self.conv_stride

    def num_output_frames(self, num_frames):
        """Frames after the front end's subsampling: ceil(num_frames / 3), for an int, an array or a tensor."""
        return (num_frames + self.conv_stride - 1) // self.conv_stride


def _language_names(languages: Sequence[str] | int) -> Sequence[str]:
    """A number of languages stands for that many names, for sizes without data."""
    return [f"language_{i}" for i in range(languages)] if isinstance(languages, int) else languages
