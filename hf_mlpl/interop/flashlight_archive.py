"""The files in which flashlight 0.3 keeps its networks, read and written by one description of what is in them.

Such a file is a cereal `BinaryOutputArchive`: values one after another, little-endian, without any marks. All tensors
of a network come first; the tree of modules that follows names them by number. A description, `Module`, is carried out
by an `Archive`: `ArchiveReader` compares a file with it, and takes whatever comes where a value is None;
`ArchiveWriter` writes it. A count or a length in a file allocates nothing before it has been compared with what is
possible.
"""

from __future__ import annotations

import math
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import torch

MAX_TEXT = 2**20  # bytes of one of the program's notes; the longest, all flags, takes 4 kB
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

Place = tuple[tuple[int, ...], int]  # a tensor's ArrayFire dimensions, and where it begins in the file


class FlashlightError(ValueError):
    """A file that is not a whole checkpoint of this network, or a model that cannot be one; one line says why."""


@dataclass
class Module:
    """An object of a C++ class.

    Args:
        fields: reads or writes what the class has beside its base classes, given the children's object numbers.
        parameters: numbers of its own ones, without the children's, among the network's.
        children: of a container.
    """

    name: str
    fields: Callable[[Archive, list[int]], None] = lambda archive, numbers: None
    parameters: list[int] = field(default_factory=list)
    children: list[Module] = field(default_factory=list)

    @property
    def all_parameters(self) -> list[int]:
        return self.parameters + [number for child in self.children for number in child.all_parameters]


class Archive(ABC):
    """cereal's book-keeping of classes, class names and objects that were met, the same for both ways.

    `scalar` takes a value, which is written, or which a reader expects; None where a reader takes whatever comes.
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        self.versions: dict[str, int] = {}  # of the classes that were met
        self.names: list[str] = []
        self.num_objects = 0

    @abstractmethod
    def scalar(self, form: str, value):
        """A number or boolean, in the format of `struct`."""

    @abstractmethod
    def string(self, value: str | None = None) -> str:
        """A text with its length before it."""

    @abstractmethod
    def tensors(self, limit: int) -> list[Place]:
        """A network's tensors, at most `limit`, and its mode; returns where they are in a file that is read."""

    @abstractmethod
    def child_map(self, pairs: dict[int, tuple[int, int]]) -> None:
        """Where each of a container's parameters is among those of its children."""

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

    def setting(self, network, name: str, c_type: str) -> None:
        """A double, which the original may have had as a float: attribute `name` of `network`, which a reader sets
        where it is None. So all modules that have a setting must have it equal."""
        value = getattr(network, name)
        as_c = (lambda x: float(np.float32(x))) if c_type == "float" else float
        stored = self.scalar("<d", None if value is None else as_c(value))
        if value is None:
            if not 0 <= stored < 1:
                raise FlashlightError(f"{name} is {stored}; it must be at least 0 and below 1")
            setattr(network, name, float(str(np.float32(stored))) if c_type == "float" else stored)

    @abstractmethod
    def version(self, newest: int) -> int:
        """The version of a class."""

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

    def module(self, module: Module) -> int:
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

    def container(self, module: Module) -> None:
        """What follows a container's parameters: its children, where they have which parameter, its own fields."""
        self.scalar("<Q", len(module.children))
        numbers = [self.module(child) for child in module.children]
        places = [(i, j) for i, child in enumerate(module.children) for j in range(len(child.all_parameters))]
        self.child_map(dict(enumerate(places, start=len(module.parameters))))
        module.fields(self, numbers)


class ArchiveReader(Archive):
    """Compares a file with what is expected, and keeps where its tensors are."""

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.end = file.seek(0, os.SEEK_END)
        self.position = file.seek(0)

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

    def tensors(self, limit: int) -> list[Place]:
        places = []
        for _ in range(self.count(limit)):
            self.begin("fl::Variable")
            self.new_object()
            self.begin("fl::Variable::SharedData", "af::array")
            dims = tuple(self.scalar("<q") for _ in range(4))
            self.scalar("<i", FLOAT32)
            start = self.position
            size = self.scalar("<Q")
            if min(dims) < 1 or size != 4 * math.prod(dims):
                self.mismatch(start, size, f"the bytes of dimensions {dims} in fp32")
            places.append((dims, self.position))
            if size > self.end - self.position:
                self.take(size)  # fails
            self.position = self.file.seek(size, os.SEEK_CUR)
            self.new_object()
            self.begin("fl::Variable::SharedGrad")
            self.boolean(None)
        self.boolean(None)
        return places

    def child_map(self, pairs: dict[int, tuple[int, int]]) -> None:
        start = self.position
        self.scalar("<Q", len(pairs))
        found = {self.scalar("<i"): (self.scalar("<i"), self.scalar("<i")) for _ in pairs}
        if found != pairs:
            self.mismatch(start, "a map of parameters", "that of the modules")


class ArchiveWriter(Archive):
    """Writes what a reader expects.

    Args:
        parameters: the network's, in their order, with ArrayFire's four dimensions.
    """

    def __init__(self, file: BinaryIO, parameters: Sequence[tuple[tuple[int, ...], torch.Tensor]]):
        super().__init__(file)
        self.parameters = parameters

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

    def tensors(self, limit: int) -> list[Place]:
        self.scalar("<Q", len(self.parameters))
        for dims, tensor in self.parameters:
            self.begin("fl::Variable")
            self.new_object()
            self.begin("fl::Variable::SharedData", "af::array")
            self.longs(*dims)
            self.ints(FLOAT32)
            self.scalar("<Q", 4 * tensor.numel())
            tensor = tensor.T if tensor.dim() == 2 else tensor  # the first dimension is the fastest
            self.file.write(tensor.float().contiguous().cpu().numpy().astype("<f4", copy=False).data)
            self.new_object()
            self.begin("fl::Variable::SharedGrad")
            self.boolean(None)
        self.boolean(None)
        return []

    def child_map(self, pairs: dict[int, tuple[int, int]]) -> None:
        self.scalar("<Q", len(pairs))
        for number in _hash_order(pairs):
            self.ints(number, *pairs[number])


def _hash_order(numbers: Iterable[int]) -> list[int]:
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
