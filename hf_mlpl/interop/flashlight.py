"""Checkpoints of the original program: flashlight 0.3 `.bin` files of the network in `mling_large.cpp`, at any size.

Such a file is a cereal `BinaryOutputArchive`: values one after another, little-endian, without any marks. It holds a
version, the program's notes (among them all flags), the network and the criterion; what the trainer writes behind
them, the state of its optimisers, is not read. In the network all tensors come first; the tree of modules that
follows names them by number.

Because sizes can be told from the tensors, everything in the tree is known but for a few settings. So one description
of it serves both ways: `_Reader` compares the file with it and fills in the settings, `_Writer` writes it. Nothing in
a file is executed, and a count or a length in it allocates nothing before it has been compared with what is possible.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError

from ..atomic import written_whole
from ..configuration_mlpl import MlplConfig
from ..feature_extraction_mlpl import MlplFeatureExtractor
from ..modeling_mlpl import MlplForCTC
from ..processing_mlpl import MlplProcessor
from ..tokenization_mlpl import MlplTokenizer

APP_VERSION = "0.1"  # of flashlight's speech recognition programs
MAX_TEXT = 2**20  # bytes of one of the program's notes; the longest, all flags, takes 4 kB
MAX_NOTES = 100
MAX_LAYERS = 1000
FLOAT32 = 0  # ArrayFire's number for it

NEW = 0x80000000  # marks the number of an object or class name that is met for the first time
DECLARED_TYPE = 0x40000000  # a pointer to exactly the class that its declaration names
CLASS_VERSIONS = {"fl::LayerNorm": 1, "fl::Conv2D": 1}  # of all others 0; older files may have 0 for these, too
CRITERION = "fl::app::asr::ConnectionistTemporalClassificationCriterion"
BASES = {
    "slimIPL::myModel": ("fl::Container", "fl::Module"),
    "fl::Sequential": ("fl::Container", "fl::Module"),
    "fl::Transformer": ("fl::Container", "fl::Module"),
    CRITERION: ("fl::app::asr::SequenceCriterion", "fl::Container", "fl::Module"),
}
UNARY = ("fl::UnaryModule", "fl::Module")  # bases of all others

# By what the criterion divides an utterance's loss: nothing, the length of its target, or the root of that (`--onorm`
# and `--sqnorm`). Modes 1 and 2, the input's length and its root, have no counterpart here.
SCALE_MODES = {0: "sum", 3: "mean", 4: "target_sqrt"}

# Flags that decide about features and transcripts, at the values that this package computes with. `filterbanks` and
# `surround` are compared elsewhere.
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


Place = tuple[tuple[int, ...], int]  # a tensor's ArrayFire dimensions, and where it begins in the file


class FlashlightError(ValueError):
    """A file that is not a whole checkpoint of this network, or a model that cannot be one; one line says why."""


@dataclass
class Checkpoint:
    """What a file holds: the model, and the notes that the program keeps beside it.

    Args:
        notes: such as `programname`, `updates`, and `gflags`, which has all flags of the training, one a line.
    """

    model: MlplForCTC
    notes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: MlplForCTC, surround: str = "") -> Checkpoint:
        """Of a model that was trained here, with the flags that the original's test program needs.

        Args:
            surround: the tokenizer's.
        """
        flags = {**FLAGS, "filterbanks": str(model.config.num_mel_bins), "surround": surround}
        gflags = "".join(f"--{name}={value}\n" for name, value in flags.items())
        return cls(model, {"programname": "hf_mlpl", "gflags": gflags})

    @property
    def flags(self) -> dict[str, str]:
        """Flags of the training by name, as text."""
        lines = self.notes.get("gflags", "").splitlines()
        return {name: value for name, _, value in (line.removeprefix("--").partition("=") for line in lines)}

    def processor(self, tokens: str | os.PathLike, surround: str | None = None) -> MlplProcessor:
        """
        Feature extractor and tokenizer that belong to the model.

        Args:
            tokens: The tokens file that it was trained with.
            surround: Instead of the checkpoint's own `--surround`.

        Raises:
            FlashlightError: for another number of tokens than the CTC head has classes, less the blank.
            ValueError: for a file that is no tokens file.
            OSError: for a file that cannot be read.
        """
        tokenizer = MlplTokenizer(tokens, surround=self.flags.get("surround", "") if surround is None else surround)
        config = self.model.config
        if len(tokenizer) != config.vocab_size:
            raise FlashlightError(
                f"{os.fspath(tokens)}: has {len(tokenizer) - 1} lines with tokens, but the model needs "
                f"{config.vocab_size - 1}: its CTC head has {config.vocab_size} classes, the last one is the blank. "
                "Give the tokens file that the model was trained with"
            )
        return MlplProcessor(MlplFeatureExtractor(feature_size=config.num_mel_bins), tokenizer)


def read_checkpoint(path: str | os.PathLike, languages: Sequence[str] | None = None) -> Checkpoint:
    """
    Reads a checkpoint; memory holds the model, which is in evaluation mode, and one tensor more.

    Args:
        languages: names of the classes of the language-ID head, in order. No file has them: `language_0` and so on
            where they are not given.

    Raises:
        FlashlightError: for a file that is not such a checkpoint, is not whole, was trained with flags that change
            features or transcripts, or has another number of languages than `languages`.
        OSError: for a file that cannot be read.
    """
    with open(path, "rb") as file:
        try:
            notes, network, tensors = parse(file)
            config = _config(network, languages)
            model = _load(file, config, network, tensors)
        except FlashlightError as error:
            raise FlashlightError(f"{os.fspath(path)}: {error}") from error
    checkpoint = Checkpoint(model, notes)
    expected = {**FLAGS, "filterbanks": str(network.num_mel_bins)}
    others = [f"--{k}={v}" for k, v in checkpoint.flags.items() if k in expected and not _is_same(v, expected[k])]
    if others:
        raise FlashlightError(f"{os.fspath(path)}: was trained with {', '.join(others)}, which is not supported")
    return checkpoint


def write_checkpoint(checkpoint: Checkpoint, path: str | os.PathLike) -> None:
    """
    Writes a file that the original program reads, in fp32; it appears complete or not at all.

    They are the bytes that the original program writes for the network and its criterion. Names of languages have no
    place in them.

    Raises:
        FlashlightError: for a model that the original's network cannot be: without languages, with layer norms of
            more than one weight, or with different dropout for attention and MLP.
    """
    network = _network_of(checkpoint.model.config)
    state = checkpoint.model.state_dict()
    with written_whole(path) as partial, open(partial, "wb") as file:
        archive = _Writer(file, [state[name] for name, _ in network.parameters()])
        archive.string(APP_VERSION)
        archive.scalar("<Q", len(checkpoint.notes))
        for name, note in checkpoint.notes.items():
            archive.string(name)
            archive.string(note)
        archive.network(network)


def parse(file: BinaryIO) -> tuple[dict[str, str], _Network, list[Place]]:
    """The program's notes, the network's sizes and settings, and its tensors' dimensions and places in the file.

    Raises:
        FlashlightError: for a file that is not a whole checkpoint; without the file's name.
    """
    archive = _Reader(file)
    archive.string(APP_VERSION)
    notes = {}
    for _ in range(archive.count(MAX_NOTES)):
        name = archive.string()
        notes[name] = archive.string()
    network = _Network()
    archive.network(network)
    return notes, network, archive.tensors


# ------------------------------------------------------------------------------------------------------- the network


@dataclass
class _Network:
    """Sizes and settings of the network; None where they are still to be read."""

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

    def take_sizes(self, dims: Sequence[tuple[int, ...]]) -> None:
        """Finds the sizes in the dimensions of all tensors, and compares them."""
        self.num_hidden_layers, rest = divmod(len(dims) - 8, 11)
        if rest or not 1 <= self.num_hidden_layers <= MAX_LAYERS:
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
        """Our name and ArrayFire's four dimensions of each parameter, in the order of `network->params()`."""
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

    def tree(self) -> _Module:
        """The modules, as the constructors in `mling_large.cpp` and `Transformer.cpp` put them together."""
        convolution = (self.num_mel_bins, 2 * self.hidden_size, MlplConfig.conv_kernel, 1, MlplConfig.conv_stride, 1)

        def conv_fields(archive, numbers):
            archive.ints(*convolution, -1, 0)  # SAME padding
            if archive.versions["fl::Conv2D"] >= 1:
                archive.ints(1, 1)  # dilation
            archive.boolean(True)  # with bias
            archive.ints(1)  # groups

        front_end = _Module(
            "fl::Sequential",
            children=[
                _Module("fl::View", lambda archive, _: archive.longs(-1, 1, self.num_mel_bins, 0)),
                self._layer_norm(0, axes_kept=(3,)),
                _Module("fl::Conv2D", conv_fields, parameters=[2, 3]),
                _Module("fl::GatedLinearUnit", lambda archive, _: archive.ints(2)),
                _Module("fl::Dropout", lambda archive, _: archive.setting(self, "conv_dropout", "double")),
                _Module("fl::Reorder", lambda archive, _: archive.ints(2, 0, 3, 1)),
            ],
        )
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

        return _Module("slimIPL::myModel", members, children=[front_end, *layers, *heads])

    def _layer_norm(self, first: int, axes_kept: Sequence[int]) -> _Module:
        def fields(archive, numbers):
            archive.scalar("<Q", len(axes_kept))
            archive.ints(*axes_kept)
            archive.setting(self, "layer_norm_eps", "double")
            archive.boolean(True)  # affine
            if archive.versions["fl::LayerNorm"] >= 1:
                archive.ints(-1)  # one weight for an axis of any size

        return _Module("fl::LayerNorm", fields, parameters=[first, first + 1])

    def _linear(self, first: int, inputs: int, outputs: int, bias: bool = False) -> _Module:
        def fields(archive, numbers):
            archive.ints(inputs, outputs)
            archive.boolean(bias)

        return _Module("fl::Linear", fields, parameters=[first, first + 1] if bias else [first])

    def _transformer(self, first: int) -> _Module:
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

        return _Module("fl::Transformer", fields, parameters=[first], children=children)


@dataclass
class _Module:
    """An object of a C++ class.

    Args:
        fields: reads or writes what the class has beside its base classes, given the children's object numbers.
        parameters: numbers of its own ones, without the children's, among the network's.
        children: of a container.
    """

    name: str
    fields: Callable[[_Archive, list[int]], None] = lambda archive, numbers: None
    parameters: list[int] = field(default_factory=list)
    children: list[_Module] = field(default_factory=list)

    @property
    def all_parameters(self) -> list[int]:
        return self.parameters + [number for child in self.children for number in child.all_parameters]


# ------------------------------------------------------------------------------------------------------- the archive


class _Archive:
    """cereal's book-keeping of classes, class names and objects that were met, the same for both ways.

    `scalar` takes a value, which is written, or which a reader expects; None where a reader takes whatever comes.
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        self.versions: dict[str, int] = {}  # of the classes that were met
        self.names: list[str] = []
        self.num_objects = 0

    def scalar(self, form: str, value):
        raise NotImplementedError

    def string(self, value: str | None = None) -> str:
        raise NotImplementedError

    def parameters(self, network: _Network) -> None:
        """The tensors of a network."""
        raise NotImplementedError

    def child_map(self, pairs: dict[int, tuple[int, int]]) -> None:
        """Where each of a container's parameters is among those of its children."""
        raise NotImplementedError

    def boolean(self, value: bool | None) -> None:
        self.scalar("<?", value)

    def ints(self, *values: int) -> None:
        for value in values:
            self.scalar("<i", value)

    def longs(self, *values: int) -> None:
        for value in values:
            self.scalar("<q", value)

    def references(self, *numbers: int) -> None:
        """Pointers to objects that the archive has already, as members of a declared class."""
        for number in numbers:
            self.scalar("<I", DECLARED_TYPE)
            self.scalar("<I", number)

    def setting(self, network: _Network, name: str, c_type: str) -> None:
        """A double, which the original may have had as a float; all modules that have this setting have it equal."""
        value = getattr(network, name)
        as_c = (lambda x: float(np.float32(x))) if c_type == "float" else float
        stored = self.scalar("<d", None if value is None else as_c(value))
        if value is None:
            if not 0 <= stored < 1:
                raise FlashlightError(f"{name} is {stored}; it must be at least 0 and below 1")
            setattr(network, name, float(str(np.float32(stored))) if c_type == "float" else stored)

    def scale_mode(self, network: _Network) -> None:
        mode = self.scalar("<i", network.scale_mode)
        if mode not in range(5):
            raise FlashlightError(f"has the unknown scale mode {mode} of its criterion")
        network.scale_mode = mode

    def version(self, newest: int) -> int:
        """The version of a class."""
        raise NotImplementedError

    def begin(self, *classes: str) -> None:
        """What the objects of classes begin with: the version of each that is met for the first time."""
        for name in classes:
            if name not in self.versions:
                self.versions[name] = self.version(CLASS_VERSIONS.get(name, 0))

    def new_object(self, name: str | None = None) -> int:
        """A pointer to an object that follows; returns its number. `name` is its class, where that is polymorphic."""
        if name in self.names:
            self.scalar("<I", self.names.index(name) + 1)
        elif name is not None:
            self.names.append(name)
            self.scalar("<I", NEW | len(self.names))
            self.string(name)
        self.num_objects += 1
        self.scalar("<I", NEW | self.num_objects)
        return self.num_objects

    def network(self, network: _Network) -> None:
        """The network and its criterion."""
        self.new_object("slimIPL::myModel")
        self.begin("slimIPL::myModel", "fl::Container", "fl::Module")
        self.parameters(network)
        self.boolean(None)
        self.container(network.tree())
        self.module(_Module(CRITERION, lambda archive, _: archive.scale_mode(network)))

    def module(self, module: _Module) -> int:
        """A module behind a pointer; returns its number."""
        number = self.new_object(module.name)
        self.begin(module.name, *BASES.get(module.name, UNARY))
        self.scalar("<Q", len(module.all_parameters))
        for parameter in module.all_parameters:  # numbers of its data and of its gradient: the network itself is 1
            self.scalar("<I", 2 * parameter + 2)
            self.scalar("<I", 2 * parameter + 3)
        self.boolean(None)
        if module.name in BASES:
            self.container(module)
        else:
            module.fields(self, [])
        return number

    def container(self, module: _Module) -> None:
        """What follows a container's parameters: its children, where they have which parameter, its own fields."""
        self.scalar("<Q", len(module.children))
        numbers = [self.module(child) for child in module.children]
        places = [(i, j) for i, child in enumerate(module.children) for j in range(len(child.all_parameters))]
        self.child_map(dict(enumerate(places, start=len(module.parameters))))
        module.fields(self, numbers)


class _Reader(_Archive):
    """Compares a file with what is expected, and keeps where its tensors are."""

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.end = file.seek(0, os.SEEK_END)
        self.position = file.seek(0)
        self.tensors: list[Place] = []

    def take(self, size: int) -> bytes:
        if size > self.end - self.position:
            raise FlashlightError(
                f"ends after {self.end} bytes, where {size} more are expected from byte {self.position} on; "
                "is it a whole checkpoint?"
            )
        self.position += size
        return self.file.read(size)

    def scalar(self, form: str, value=None):
        start = self.position
        data = self.take(struct.calcsize(form))
        if form == "<?" and data not in (b"\0", b"\1"):
            self.mismatch(start, data[0], "0 or 1")
        (found,) = struct.unpack(form, data)
        if value is not None and found != value:
            self.mismatch(start, found, repr(value))
        return found

    def mismatch(self, position: int, found, expected: str) -> None:
        raise FlashlightError(
            f"is no flashlight checkpoint of the network in mling_large.cpp: byte {position} begins {found!r}, "
            f"expected {expected}"
        )

    def count(self, limit: int, form: str = "<Q") -> int:
        start = self.position
        number = self.scalar(form)
        if number > limit:
            self.mismatch(start, number, f"at most {limit}")
        return number

    def version(self, newest: int) -> int:
        return self.count(newest, "<I")

    def string(self, value: str | None = None) -> str:
        start = self.position
        size = self.count(MAX_TEXT if value is None else max(len(value.encode()), 100))
        data = self.take(size)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            self.mismatch(start, data[:50], "UTF-8")
        if value is not None and text != value:
            self.mismatch(start, text, repr(value))
        return text

    def parameters(self, network: _Network) -> None:
        count = self.count(8 + 11 * MAX_LAYERS)
        for _ in range(count):
            self.begin("fl::Variable")
            self.new_object()
            self.begin("fl::Variable::SharedData", "af::array")
            dims = tuple(self.scalar("<q") for _ in range(4))
            self.scalar("<i", FLOAT32)
            start = self.position
            size = self.scalar("<Q")
            if min(dims) < 1 or size != 4 * math.prod(dims):
                self.mismatch(start, size, f"the bytes of dimensions {dims} in fp32")
            self.tensors.append((dims, self.position))
            if size > self.end - self.position:
                self.take(size)  # fails
            self.position = self.file.seek(size, os.SEEK_CUR)
            self.new_object()
            self.begin("fl::Variable::SharedGrad")
            self.boolean(None)
        network.take_sizes([dims for dims, _ in self.tensors])

    def child_map(self, pairs: dict[int, tuple[int, int]]) -> None:
        start = self.position
        self.scalar("<Q", len(pairs))
        found = {self.scalar("<i"): (self.scalar("<i"), self.scalar("<i")) for _ in pairs}
        if found != pairs:
            self.mismatch(start, "a map of parameters", "that of the modules")


class _Writer(_Archive):
    """Writes what a reader expects, with the network's parameters in their order."""

    def __init__(self, file: BinaryIO, tensors: Sequence[torch.Tensor]):
        super().__init__(file)
        self.tensors = tensors

    def scalar(self, form: str, value):
        self.file.write(struct.pack(form, value))
        return value

    def version(self, newest: int) -> int:
        return self.scalar("<I", newest)

    def boolean(self, value: bool | None) -> None:
        super().boolean(True if value is None else value)  # the trainer saves in training mode, with gradients

    def string(self, value: str | None = None) -> str:
        self.scalar("<Q", len(value.encode()))
        self.file.write(value.encode())
        return value

    def parameters(self, network: _Network) -> None:
        self.scalar("<Q", len(self.tensors))
        for (_, dims), tensor in zip(network.parameters(), self.tensors, strict=True):
            self.begin("fl::Variable")
            self.new_object()
            self.begin("fl::Variable::SharedData", "af::array")
            self.longs(*dims)
            self.ints(FLOAT32)
            self.scalar("<Q", 4 * tensor.numel())
            tensor = tensor.T if tensor.dim() == 2 else tensor  # the first dimension is the fastest; see _load
            self.file.write(tensor.float().contiguous().cpu().numpy().astype("<f4", copy=False).data)
            self.new_object()
            self.begin("fl::Variable::SharedGrad")
            self.boolean(None)

    def child_map(self, pairs: dict[int, tuple[int, int]]) -> None:
        self.scalar("<Q", len(pairs))
        for number in _hash_order(pairs):
            self.ints(number, *pairs[number])


def _hash_order(numbers: Sequence[int]) -> list[int]:
    """Ascending numbers in the order in which GNU's `unordered_map<int, ...>` has them, into which they were put.

    A reader does not depend on it; with it, our files are the original's byte by byte.
    """
    order, bucket_counts = [], iter((13, 29, 59, 127, 257, 541, 1109, 2357, 5087, 10273, 20753))
    buckets = next(bucket_counts)
    for number in numbers:
        if len(order) == buckets:
            buckets = next(bucket_counts)
            order.reverse()
        order.insert(0, number)
    return order


# --------------------------------------------------------------------------------------------------- from and to ours


NOT_IN_CONFIG = {"num_languages", "dropout", "scale_mode"}  # by these names


def _config(network: _Network, languages: Sequence[str] | None) -> MlplConfig:
    if languages is not None and len(languages) != network.num_languages:
        raise FlashlightError(f"knows {network.num_languages} languages, but {len(languages)} names were given")
    names = [f"language_{i}" for i in range(network.num_languages)] if languages is None else list(languages)
    settings = {name: value for name, value in vars(network).items() if name not in NOT_IN_CONFIG}
    settings |= {"attention_dropout": network.dropout, "activation_dropout": network.dropout}
    if network.scale_mode in SCALE_MODES:
        settings["ctc_loss_reduction"] = SCALE_MODES[network.scale_mode]
    try:
        return MlplConfig(languages=names, **settings)
    except (ValueError, StrictDataclassError) as error:
        raise FlashlightError(" ".join(str(error).split())) from error


def _network_of(config: MlplConfig) -> _Network:
    if not config.languages:
        raise FlashlightError(
            "the model has no languages, and the original's network always has a language-ID head; give it one with "
            "model.resize_lid_head"
        )
    if config.layer_norm_per_channel:
        raise FlashlightError(
            "the model's layer norms have a weight for each channel, the original's have one; it was fine-tuned by "
            "another program, and the original cannot compute it"
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


def _load(file: BinaryIO, config: MlplConfig, network: _Network, tensors: Sequence[Place]) -> MlplForCTC:
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


def _is_same(flag: str, expected: str) -> bool:
    """Whether two flags are equal, numbers by their value."""
    try:
        return float(flag) == float(expected)
    except ValueError:
        return flag == expected
