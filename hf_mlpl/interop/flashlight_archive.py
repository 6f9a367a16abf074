"""Reads and writes the archives in which flashlight 0.3 stores networks, both from one description of their content.

Such a file is a cereal `BinaryOutputArchive`: values one after another, little-endian, without separators. All tensors
of a network come first; the tree of modules that follows refers to them by number. An `Archive` processes a
description, `Module`: `ArchiveReader` compares a file with it, and accepts any value where the description has None;
`ArchiveWriter` writes it. No count or length in a file allocates memory before it has been checked against its limit.
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

MAX_TEXT = 2**20  # bytes of a note of the program; the longest, all flags, has 4 kB
FLOAT32 = 0  # ArrayFire's number for it

NEW = 0x80000000  # marks the number of an object or class name at its first occurrence
DECLARED_TYPE = 0x40000000  # a pointer to exactly the class that its declaration names
CLASS_VERSIONS = {"fl::LayerNorm": 1, "fl::Conv2D": 1}  # all others have 0; in older files these may have 0 too
CRITERION = "fl::app::asr::ConnectionistTemporalClassificationCriterion"
BASES = {
    "slimIPL::myModel": ("fl::Container", "fl::Module"),
    "fl::Sequential": ("fl::Container", "fl::Module"),
    "fl::Transformer": ("fl::Container", "fl::Module"),
    CRITERION: ("fl::app::asr::SequenceCriterion", "fl::Container", "fl::Module"),
}
UNARY = ("fl::UnaryModule", "fl::Module")  # bases of all other modules

Place = tuple[tuple[int, ...], int]  # a tensor's ArrayFire dimensions, and its offset in the file


class FlashlightError(ValueError):
    """Reports in one line why a file is no complete checkpoint of this network, or why a model cannot be one."""


@dataclass
class Module:
    """Describes an object of a C++ class.

    Args:
        fields: reads or writes the members beside those of base classes, given the children's object numbers.
        parameters: numbers of its own parameters, without its children's, in the network.
        children: modules in a container.
    """

    name: str
    fields: Callable[[Archive, list[int]], None] = lambda archive, numbers: None
    parameters: list[int] = field(default_factory=list)
    children: list[Module] = field(default_factory=list)

    @property
    def all_parameters(self) -> list[int]:
        return self.parameters + [number for child in self.children for number in child.all_parameters]


class Archive(ABC):
    """Numbers classes, class names and objects as cereal does, which is the same for reading and writing.

    To exchange a value means that a writer writes it, and that a reader expects it, or reads any value for None.
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        self.versions: dict[str, int] = {}  # of the classes so far
        self.names: list[str] = []
        self.num_objects = 0

    @abstractmethod
    def scalar(self, form: str, value):
        """Exchanges a number or boolean, in the format of `struct`."""

    @abstractmethod
    def string(self, value: str | None = None) -> str:
        """Exchanges a text, which its length precedes."""

    @abstractmethod
    def count(self, limit: int, form: str = "<Q") -> int:
        """Reads a number of at most `limit`, or writes `limit`."""

    @abstractmethod
    def tensor(self, number: int) -> Place:
        """Exchanges a network's tensor of that number."""

    @abstractmethod
    def child_map(self, pairs: dict[int, tuple[int, int]]) -> None:
        """Exchanges for each parameter of a container the numbers of a child and of the parameter in it."""

    def tensors(self, limit: int) -> list[Place]:
        """Exchanges a network's tensors, `limit` or, for a reader, fewer, and its mode."""
        places = []
        for number in range(self.count(limit)):
            self.begin("fl::Variable")
            self.new_object()
            self.begin("fl::Variable::SharedData", "af::array")
            places.append(self.tensor(number))
            self.new_object()
            self.begin("fl::Variable::SharedGrad")
            self.boolean(None)
        self.boolean(None)
        return places

    def boolean(self, value: bool | None) -> None:
        self.scalar("<?", value)

    def ints(self, *values: int) -> None:
        for value in values:
            self.scalar("<i", value)

    def longs(self, *values: int) -> None:
        for value in values:
            self.scalar("<q", value)

    def references(self, *numbers: int) -> None:
        """Exchanges pointers to objects that are already in the archive, as members of a declared class."""
        for number in numbers:
            self.scalar("<I", DECLARED_TYPE)
            self.scalar("<I", number)

    def setting(self, network, name: str, c_type: str) -> None:
        """Exchanges attribute `name` of `network` as a double, which the original may have had as a float.

        A reader sets it where it is None, so it must be equal in all modules that have it.
        """
        value = getattr(network, name)
        is_float = c_type == "float"
        stored = self.scalar("<d", float(np.float32(value)) if is_float and value is not None else value)
        if value is None:
            if not 0 <= stored < 1:
                raise FlashlightError(f"{name} is {stored}; it must be at least 0 and below 1")
            setattr(network, name, float(str(np.float32(stored))) if is_float else stored)

    def begin(self, *classes: str) -> None:
        """Exchanges the version of each class that occurs for the first time, with which its object begins."""
        for name in classes:
            if name not in self.versions:
                self.versions[name] = self.count(CLASS_VERSIONS.get(name, 0), "<I")

    def new_object(self, name: str | None = None) -> int:
        """Exchanges a pointer to an object that follows, with the name of a polymorphic class; returns its number."""
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
        """Exchanges a pointer and the module behind it; returns its number."""
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
        """Exchanges what follows a container's parameters: its children, the map of their parameters, its fields."""
        self.scalar("<Q", len(module.children))
        numbers = [self.module(child) for child in module.children]
        places = [(i, j) for i, child in enumerate(module.children) for j in range(len(child.all_parameters))]
        self.child_map(dict(enumerate(places, start=len(module.parameters))))
        module.fields(self, numbers)


class ArchiveReader(Archive):
    """Compares a file with a description, and collects the places of its tensors."""

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.end = file.seek(0, os.SEEK_END)
        self.position = file.seek(0)

    def take(self, size: int) -> bytes:
        if size > self.end - self.position:
            raise FlashlightError(
                f"ends after {self.end} bytes, where {size} more are expected from byte {self.position} on; "
                "is it a complete checkpoint?"
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

    def tensor(self, number: int) -> Place:
        dims = tuple(self.scalar("<q") for _ in range(4))
        self.scalar("<i", FLOAT32)
        start = self.position
        size = self.scalar("<Q")
        if min(dims) < 1 or size != 4 * math.prod(dims):
            self.mismatch(start, size, f"the bytes of dimensions {dims} in fp32")
        place = (dims, self.position)
        if size > self.end - self.position:
            self.take(size)  # raises
        self.position = self.file.seek(size, os.SEEK_CUR)
        return place

    def child_map(self, pairs: dict[int, tuple[int, int]]) -> None:
        start = self.position
        self.scalar("<Q", len(pairs))
        found = {self.scalar("<i"): (self.scalar("<i"), self.scalar("<i")) for _ in pairs}
        if found != pairs:
            self.mismatch(start, "a map of parameters", "that of the modules")


class ArchiveWriter(Archive):
    """Writes a file from a description.

    Args:
        parameters: ArrayFire's four dimensions and the values of the network's parameters, in order.
    """

    def __init__(self, file: BinaryIO, parameters: Sequence[tuple[tuple[int, ...], torch.Tensor]]):
        super().__init__(file)
        self.parameters = parameters

    def scalar(self, form: str, value):
        self.file.write(struct.pack(form, value))
        return value

    def count(self, limit: int, form: str = "<Q") -> int:
        return self.scalar(form, limit)

    def boolean(self, value: bool | None) -> None:
        super().boolean(True if value is None else value)  # the trainer saves in training mode, with gradients

    def string(self, value: str | None = None) -> str:
        self.scalar("<Q", len(value.encode()))
        self.file.write(value.encode())
        return value

    def tensor(self, number: int) -> Place:
        dims, tensor = self.parameters[number]
        self.longs(*dims)
        self.ints(FLOAT32)
        self.scalar("<Q", 4 * tensor.numel())
        place = (dims, self.file.tell())
        tensor = tensor.T if tensor.dim() == 2 else tensor  # the first dimension is the fastest
        self.file.write(tensor.float().contiguous().cpu().numpy().astype("<f4", copy=False).data)
        return place

    def child_map(self, pairs: dict[int, tuple[int, int]]) -> None:
        self.scalar("<Q", len(pairs))
        for number in _hash_order(pairs):
            self.ints(number, *pairs[number])


def _hash_order(numbers: Iterable[int]) -> list[int]:
    """Returns ascending numbers in the order in which GNU's `unordered_map<int, ...>` iterates over them.

    Readers accept any order; with this one, our files equal the original's byte for byte.
    """
    order, bucket_counts = [], iter((13, 29, 59, 127, 257, 541, 1109, 2357, 5087, 10273, 20753))
    buckets = next(bucket_counts)
    for number in numbers:
        if len(order) == buckets:
            buckets = next(bucket_counts)
            order.reverse()
        order.insert(0, number)
    return order
