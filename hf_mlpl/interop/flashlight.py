"""Reads and writes the original program's checkpoints: flashlight 0.3 `.bin` files of `mling_large.cpp`, at any size.

They hold a version, the program's notes (among them all flags), the network and the criterion. The state of the
optimisers, which the trainer writes behind them, is not read. The tensors show all sizes, so only a few settings are
read, and one description of the network, `_Network`, serves reading and writing (`flashlight_archive`). Nothing in a
file is executed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError

from ..atomic import atomic_write
from ..error_line import error_line
from ..model.configuration_mlpl import MAX_LAYERS, MlplConfig, language_names
from ..model.feature_extraction_mlpl import MlplFeatureExtractor
from ..model.modeling_mlpl import MlplForCTC
from ..model.processing_mlpl import MlplProcessor, check_num_tokens
from ..model.tokenization_mlpl import MlplTokenizer
from .flashlight_archive import CRITERION, Archive, ArchiveReader, ArchiveWriter, FlashlightError, Module, Place

APP_VERSION = "0.1"  # of flashlight's speech recognition programs
MAX_NOTES = 100
# The criterion divides an utterance's loss by nothing, by the length of its target, or by the root of that (`--onorm`
# and `--sqnorm`). Modes 1 and 2, the input's length and its root, have no counterpart here.
SCALE_MODES = {0: "sum", 3: "mean", 4: "target_sqrt"}

# Flags that change features and transcripts, with the only values that this package supports. `filterbanks` and
# `surround` are treated elsewhere.
FLAGS = {
    "criterion": "ctc",
    "features_type": "mfsc",
    "samplerate": "16000",
    "channels": "1",
    "framesizems": "25",
    "framestridems": "10",
    "lowfreqfilterbank": "0",
    "highfreqfilterbank": "-1",
    "melfloor": "1",
    "localnrmlleftctx": "0",
    "localnrmlrightctx": "0",
    "replabel": "0",
    "usewordpiece": "false",
    "wordseparator": "|",
}


@dataclass
class Checkpoint:
    """Holds the model of a file, and the notes that the program keeps beside it.

    Args:
        notes: for instance `programname`, `updates`, and `gflags`: all flags of the training, one on each line.
    """

    model: MlplForCTC
    notes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_model(cls, model: MlplForCTC, surround: str = "") -> Checkpoint:
        """Makes a checkpoint of a model, with the flags that the original's test program needs.

        Args:
            surround: the tokenizer's.
        """
        flags = {**FLAGS, "filterbanks": str(model.config.num_mel_bins), "surround": surround}
        gflags = "".join(f"--{name}={value}\n" for name, value in flags.items())
        return cls(model, {"programname": "hf_mlpl", "gflags": gflags})

    @property
    def flags(self) -> dict[str, str]:
        """Returns the flags of the training by name, as text."""
        lines = self.notes.get("gflags", "").splitlines()
        return {name: value for name, _, value in (line.removeprefix("--").partition("=") for line in lines)}

    def processor(self, tokens: str | os.PathLike, surround: str | None = None) -> MlplProcessor:
        """Makes the feature extractor and the tokenizer of the model.

        Args:
            tokens: The tokens file that it was trained with.
            surround: Instead of the checkpoint's own `--surround`.

        Raises:
            ValueError: for a file that is no tokens file, or has more or fewer tokens than the CTC head has classes
                besides the blank.
            OSError: for a file that cannot be read.
        """
        tokenizer = MlplTokenizer(tokens, surround=self.flags.get("surround", "") if surround is None else surround)
        check_num_tokens(tokens, tokenizer, self.model.config)
        return MlplProcessor(MlplFeatureExtractor(feature_size=self.model.config.num_mel_bins), tokenizer)


def read_checkpoint(path: str | os.PathLike, languages: Sequence[str] | None = None) -> Checkpoint:
    """Reads a checkpoint into a model in evaluation mode, and needs memory for the model and one more tensor.

    Args:
        languages: names of the classes of the language-ID head, in order, which no file has; by default `language_0`
            and so on.

    Raises:
        FlashlightError: for a file that is no such checkpoint or not a complete one, for training flags that change
            features or transcripts, and for another number of languages than `languages`.
        OSError: for a file that cannot be read.
    """
    with open(path, "rb") as file:
        try:
            notes, network, tensors = parse(file)
            config = _mlpl_config(network, languages)
            model = _load_model(file, config, network, tensors)
        except FlashlightError as error:
            raise FlashlightError(f"{os.fspath(path)}: {error}") from error
    checkpoint = Checkpoint(model, notes)
    expected = {**FLAGS, "filterbanks": str(network.num_mel_bins)}
    changed = [f"--{k}={v}" for k, v in checkpoint.flags.items() if k in expected and not _are_equal(v, expected[k])]
    if changed:
        raise FlashlightError(f"{os.fspath(path)}: was trained with {', '.join(changed)}, which is not supported")
    return checkpoint


def write_checkpoint(checkpoint: Checkpoint, path: str | os.PathLike) -> None:
    """Writes a file that the original program reads, in fp32; it appears complete or not at all.

    The bytes are those that the original program writes for the network and its criterion, so names of languages are
    left out.

    Raises:
        FlashlightError: for a model without languages, with layer norms of more than one weight, or with different
            dropout for attention and MLP, none of which the original's network can have.
    """
    network = _network_from(checkpoint.model.config)
    state = checkpoint.model.state_dict()
    with atomic_write(path) as partial, open(partial, "wb") as file:
        archive = ArchiveWriter(file, [(dims, state[name]) for name, dims in network.parameters()])
        archive.string(APP_VERSION)
        archive.scalar("<Q", len(checkpoint.notes))
        for name, note in checkpoint.notes.items():
            archive.string(name)
            archive.string(note)
        network.exchange(archive)


def parse(file: BinaryIO) -> tuple[dict[str, str], _Network, list[Place]]:
    """Returns the program's notes, the network's sizes and settings, and its tensors' dimensions and file offsets.

    Raises:
        FlashlightError: for a file that is not a complete checkpoint; without the file's name.
    """
    archive = ArchiveReader(file)
    archive.string(APP_VERSION)
    notes = {}
    for _ in range(archive.count(MAX_NOTES)):
        name = archive.string()
        notes[name] = archive.string()
    network = _Network()
    return notes, network, network.exchange(archive)


# ------------------------------------------------------------------------------------------------------- the network


@dataclass
class _Network:
    """Holds sizes and settings of the network; None stands for those that are still to be read."""

    num_mel_bins: int | None = None
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    attention_head_dim: int | None = None
    intermediate_size: int | None = None
    max_position_embeddings: int | None = None
    vocab_size: int | None = None
    num_languages: int | None = None
    layer_norm_eps: float | None = None
    conv_dropout: float | None = None
    dropout: float | None = None
    layerdrop: float | None = None
    scale_mode: int | None = None  # of the criterion

    def exchange(self, archive: Archive) -> list[Place]:
        """Reads or writes the network and its criterion; returns dimensions and offsets of its tensors."""
        archive.new_object("slimIPL::myModel")
        archive.begin("slimIPL::myModel", "fl::Container", "fl::Module")
        places = archive.tensors(8 + 11 * (self.num_hidden_layers or MAX_LAYERS))
        if self.hidden_size is None:
            self.take_sizes([dims for dims, _ in places])
        archive.container(self.tree())
        archive.module(Module(CRITERION, self._exchange_scale_mode))
        return places

    def _exchange_scale_mode(self, archive: Archive, numbers: list[int]) -> None:
        mode = archive.scalar("<i", self.scale_mode)
        if mode not in range(5):
            raise FlashlightError(f"has the unknown scale mode {mode} of its criterion")
        self.scale_mode = mode

    def take_sizes(self, dims: Sequence[tuple[int, ...]]) -> None:
        """Takes the sizes from the dimensions of all tensors, and checks that these fit together."""
        self.num_hidden_layers, remainder = divmod(len(dims) - 8, 11)
        if remainder or not 1 <= self.num_hidden_layers <= MAX_LAYERS:
            raise FlashlightError(f"has {len(dims)} tensors; this network has 8, and 11 for each layer")
        self.num_mel_bins, self.hidden_size = dims[2][2], dims[2][3] // 2
        self.max_position_embeddings, self.attention_head_dim = (dims[4][0] + 1) // 2, dims[4][1]
        self.intermediate_size = dims[5][0]
        self.num_attention_heads = dims[7][0] // max(self.attention_head_dim, 1)
        self.vocab_size, self.num_languages = dims[-4][0], dims[-2][0]
        for (name, expected), found in zip(self.parameters(), dims, strict=True):
            if found != expected:
                raise FlashlightError(f"{name} has dimensions {found}; expected {expected} beside the other tensors")

    def parameters(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yields our name and ArrayFire's four dimensions of each parameter, in the order of `network->params()`."""
        width = self.num_attention_heads * self.attention_head_dim
        front, hidden, inner = "model.front_end", self.hidden_size, self.intermediate_size
        yield f"{front}.layer_norm.weight", (1, 1, 1, 1)
        yield f"{front}.layer_norm.bias", (1, 1, 1, 1)
        yield f"{front}.conv.weight", (MlplConfig.conv_kernel, 1, self.num_mel_bins, 2 * hidden)
        yield f"{front}.conv.bias", (1, 1, 2 * hidden, 1)
        for i in range(self.num_hidden_layers):
            layer = f"model.layers.{i}"
            rows = 2 * self.max_position_embeddings - 1
            yield f"{layer}.attention.position_table", (rows, self.attention_head_dim, 1, 1)
            yield f"{layer}.up_proj.weight", (inner, hidden, 1, 1)
            yield f"{layer}.down_proj.weight", (hidden, inner, 1, 1)
            for projection in ("q_proj", "k_proj", "v_proj"):
                yield f"{layer}.attention.{projection}.weight", (width, hidden, 1, 1)
            yield f"{layer}.attention.o_proj.weight", (hidden, width, 1, 1)
            for norm in ("attention_layer_norm", "output_layer_norm"):
                yield f"{layer}.{norm}.weight", (1, 1, 1, 1)
                yield f"{layer}.{norm}.bias", (1, 1, 1, 1)
        for head, size in (("ctc_head", self.vocab_size), ("lid_head", self.num_languages)):
            yield f"{head}.weight", (size, hidden, 1, 1)
            yield f"{head}.bias", (size, 1, 1, 1)

    def tree(self) -> Module:
        """Describes the modules as the constructors in `mling_large.cpp` and `Transformer.cpp` make them."""
        convolution = (self.num_mel_bins, 2 * self.hidden_size, MlplConfig.conv_kernel, 1, MlplConfig.conv_stride, 1)

        def conv_fields(archive, numbers):
            archive.ints(*convolution, -1, 0)  # SAME padding
            if archive.versions["fl::Conv2D"] >= 1:
                archive.ints(1, 1)  # dilation
            archive.boolean(True)  # with bias
            archive.ints(1)  # groups

        steps = [
            Module("fl::View", lambda archive, _: archive.longs(-1, 1, self.num_mel_bins, 0)),
            self._layer_norm(0, axes_kept=(3,)),
            Module("fl::Conv2D", conv_fields, parameters=[2, 3]),
            Module("fl::GatedLinearUnit", lambda archive, _: archive.ints(2)),
            Module("fl::Dropout", lambda archive, _: archive.setting(self, "conv_dropout", "double")),
            Module("fl::Reorder", lambda archive, _: archive.ints(2, 0, 3, 1)),
        ]
        front_end = Module("fl::Sequential", children=steps)
        layers = [self._transformer(4 + 11 * i) for i in range(self.num_hidden_layers)]
        first = 4 + 11 * self.num_hidden_layers
        heads = [
            self._linear(first, self.hidden_size, self.vocab_size, bias=True),
            self._linear(first + 2, self.hidden_size, self.num_languages, bias=True),
        ]

        def members(archive, numbers):
            front_end, *layers, linear, lid_head = numbers
            archive.references(front_end)
            archive.scalar("<Q", len(layers))
            archive.references(*layers, linear, lid_head)

        return Module("slimIPL::myModel", members, children=[front_end, *layers, *heads])

    def _layer_norm(self, first: int, axes_kept: Sequence[int]) -> Module:
        def fields(archive, numbers):
            archive.scalar("<Q", len(axes_kept))
            archive.ints(*axes_kept)
            archive.setting(self, "layer_norm_eps", "double")
            archive.boolean(True)  # affine
            if archive.versions["fl::LayerNorm"] >= 1:
                archive.ints(-1)  # one weight for an axis of any size

        return Module("fl::LayerNorm", fields, parameters=[first, first + 1])

    def _linear(self, first: int, inputs: int, outputs: int, bias: bool = False) -> Module:
        def fields(archive, numbers):
            archive.ints(inputs, outputs)
            archive.boolean(bias)

        return Module("fl::Linear", fields, parameters=[first, first + 1] if bias else [first])

    def _transformer(self, first: int) -> Module:
        hidden, inner = self.hidden_size, self.intermediate_size
        width = self.num_attention_heads * self.attention_head_dim
        shapes = ((hidden, inner), (inner, hidden), *3 * ((hidden, width),), (width, hidden))  # w1 w2 wq wk wv wf
        children = [self._linear(first + i, *shape) for i, shape in enumerate(shapes, start=1)]
        children += [self._layer_norm(first + i, axes_kept=(1, 2)) for i in (7, 9)]

        def fields(archive, numbers):
            archive.references(*numbers)
            archive.ints(self.num_attention_heads)
            archive.setting(self, "dropout", "float")
            archive.setting(self, "layerdrop", "float")
            archive.ints(self.max_position_embeddings)
            archive.boolean(False)  # useMask: not causal
            archive.boolean(False)  # preLN

        return Module("fl::Transformer", fields, parameters=[first], children=children)


# --------------------------------------------------------------------------------------- from and to our configuration


NOT_IN_CONFIG = {"num_languages", "dropout", "scale_mode"}  # fields of `_Network` that `MlplConfig` lacks


def _mlpl_config(network: _Network, languages: Sequence[str] | None) -> MlplConfig:
    if languages is not None and len(languages) != network.num_languages:
        raise FlashlightError(f"knows {network.num_languages} languages, but {len(languages)} names were given")
    names = language_names(network.num_languages if languages is None else languages)
    settings = {name: value for name, value in vars(network).items() if name not in NOT_IN_CONFIG}
    settings |= {"attention_dropout": network.dropout, "activation_dropout": network.dropout}
    if network.scale_mode in SCALE_MODES:
        settings["ctc_loss_reduction"] = SCALE_MODES[network.scale_mode]
    try:
        return MlplConfig(languages=names, **settings)
    except (ValueError, StrictDataclassError) as error:
        raise FlashlightError(error_line(error)) from error


def _network_from(config: MlplConfig) -> _Network:
    if not config.languages:
        raise FlashlightError(
            "the model has no languages, and the original's network always has a language-ID head; give it one with "
            "model.resize_lid_head"
        )
    if config.layer_norm_per_channel:
        raise FlashlightError(
            "the model's layer norms have a weight for each channel, because another program fine-tuned it; the "
            "original's layer norms have one weight, so the original cannot compute this model"
        )
    if config.attention_dropout != config.activation_dropout:
        raise FlashlightError(
            f"attention_dropout is {config.attention_dropout} and activation_dropout {config.activation_dropout}; the "
            "original's network has one number for both. Set them equal in the model's config"
        )
    (scale_mode,) = (mode for mode, name in SCALE_MODES.items() if name == config.ctc_loss_reduction)
    return _Network(
        num_languages=len(config.languages),
        dropout=config.attention_dropout,
        scale_mode=scale_mode,
        **{name: getattr(config, name) for name in vars(_Network()) if name not in NOT_IN_CONFIG},
    )


def _load_model(file: BinaryIO, config: MlplConfig, network: _Network, tensors: Sequence[Place]) -> MlplForCTC:
    """Loads the tensors at their places in the file into a model without copying them again."""
    with torch.device("meta"):
        model = MlplForCTC(config)
    shapes = {name: parameter.shape for name, parameter in model.state_dict().items()}
    state = {}
    for (name, _), (dims, position) in zip(network.parameters(), tensors, strict=True):
        file.seek(position)
        array = np.fromfile(file, dtype="<f4", count=math.prod(dims)).astype(np.float32, copy=False)
        shape = tuple(shapes[name])
        # ArrayFire's first dimension is the fastest, so a matrix comes transposed; the convolution's kernel (width,
        # 1, in, out) is, read from the last one on, what PyTorch has as (out, in, width).
        array = np.ascontiguousarray(array.reshape(shape[::-1]).T) if len(shape) == 2 else array.reshape(shape)
        state[name] = torch.from_numpy(array)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def _are_equal(flag: str, expected: str) -> bool:
    """Compares two flags, numbers by their value."""
    try:
        return float(flag) == float(expected)
    except ValueError:
        return flag == expected
