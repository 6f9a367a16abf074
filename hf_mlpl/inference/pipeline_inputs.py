"""Converts inputs of the pipeline: several to a list or a torch data set, a single one to what `load_audio` takes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

from ..audio.dataset_rows import UndecodedRows
from ..audio.reading import AudioError

AUDIO_KEYS = ("array", "bytes", "path", "offset", "size", "sampling_rate", "start", "end")  # that load_audio reads
SOURCES = ("array", "raw", "bytes", "path")  # an input has one of them


@dataclass(eq=False)
class Inputs(IterableDataset):
    """Reads inputs one by one, each when the pipeline needs it."""

    items: Iterable  # the inputs, or the rows that hold them
    keys: tuple[str, ...] = ()  # that lead to an input within a row
    audio: str | None = None  # the column to rename to `audio`

    def __iter__(self) -> Iterator:
        with _explain_decoding():
            for item in self.items:
                for key in self.keys:
                    item = item[key]
                if self.audio is not None:
                    item = {"audio": item[self.audio]} | {key: item[key] for key in item if key != self.audio}
                yield item


@contextmanager
def _explain_decoding() -> Iterator[None]:
    """Raises `ImportError` with other ways than torchcodec, where `datasets` needs it for rows of a generator."""
    try:
        yield
    except ImportError as error:
        if "torchcodec" not in str(error):
            raise
        raise ImportError(
            "datasets decodes the audio of a row with torchcodec, which is not installed; pass the data set itself or "
            "a column, dataset['audio'], or cast the column to Audio(decode=False) before"
        ) from error


def collect_inputs(inputs):
    """
    Returns several inputs as a list, or as a torch data set that is read as it is needed; a single one unchanged.

    Lists and tuples become lists. Data sets of `datasets` and their columns, also in a `KeyDataset` or an evaluator of
    evaluate, are read without torchcodec, which `datasets` needs to decode audio. Every other iterable, such as a
    generator, is read as it is.

    Raises:
        ValueError: for a data set in which it is not clear which column is the audio, and for several data sets.
    """
    if isinstance(inputs, (list, tuple)) and not _is_column(inputs):
        return list(inputs)
    datasets = sys.modules.get("datasets")  # a program that passes a data set has imported it
    if datasets is not None:
        source, keys = _find_source(inputs, datasets)
        if isinstance(source, (datasets.Dataset, datasets.IterableDataset)):
            if isinstance(source, datasets.Dataset) and source.format["type"] == "custom":
                return Inputs(source, keys)  # the user's transform
            rows = UndecodedRows(source, keys[:1] or None)
            return Inputs(rows, keys) if keys else Inputs(rows, audio=_audio_column(rows.features, rows.audio))
        if isinstance(source, (datasets.DatasetDict, datasets.IterableDatasetDict)):
            names = ", ".join(map(str, source))
            raise ValueError(f"a {type(source).__name__} has several data sets ({names}); pass one of them")
    if _is_column(inputs) or (isinstance(inputs, Iterable) and not _is_one_input(inputs)):
        return Inputs(inputs)
    return inputs


def _is_column(inputs) -> bool:
    """Returns whether an input is transformers' `KeyDataset`, or evaluate's list that stands for such a column."""
    from transformers.pipelines.pt_utils import KeyDataset  # here: its package imports this module

    evaluators = sys.modules.get("evaluate.evaluator.utils")
    return isinstance(inputs, KeyDataset) or (evaluators is not None and isinstance(inputs, evaluators.DatasetColumn))


def _is_one_input(inputs) -> bool:
    is_known = isinstance(inputs, (str, bytes, bytearray, memoryview, os.PathLike, Mapping, Dataset))
    return is_known or hasattr(inputs, "read") or hasattr(inputs, "get_all_samples") or is_array(inputs)


def is_array(inputs) -> bool:
    """Returns whether an input is an array or a tensor of numbers, from any library."""
    return isinstance(inputs, torch.Tensor) or (
        hasattr(inputs, "__array__") and getattr(getattr(inputs, "dtype", None), "kind", "O") not in "OSU"
    )


def _find_source(inputs, datasets) -> tuple[Any, tuple[str, ...]]:
    """Returns the data set that a column belongs to, and the keys from a row to the column's value."""
    keys: tuple[str, ...] = ()
    while True:
        if _is_column(inputs):
            inputs, keys = inputs.dataset, (inputs.key, *keys)
        elif isinstance(inputs, (datasets.arrow_dataset.Column, datasets.iterable_dataset.IterableColumn)):
            inputs, keys = inputs.source, (inputs.column_name, *keys)
        else:
            return inputs, keys


def _audio_column(features: Mapping | None, columns: list[str]) -> str | None:
    """Returns the column to rename to `audio`; None where one has this name, or `load_audio` accepts the rows."""
    if not features or "audio" in features:
        return None
    if len(columns) > 1:
        names = ", ".join(columns)
        raise ValueError(f"the data set has several columns of audio, {names}; pass one: dataset[{columns[0]!r}]")
    if not columns and not features.keys() & set(SOURCES):
        names = ", ".join(features)
        raise ValueError(f"the data set has no column of audio, only {names}; pass the column of the files' paths")
    return columns[0] if columns else None


def split_input(inputs, sampling_rate: int) -> tuple[dict, tuple[int, int] | None, dict]:
    """
    Returns the input for `load_audio`, its `stride` in samples, and the other keys of the row.

    Args:
        sampling_rate: the rate of an array that comes without one.

    Raises:
        AudioError: for a dict without audio.
    """
    others = {}
    if isinstance(inputs, Mapping) and "audio" in inputs:
        others = {key: value for key, value in inputs.items() if key != "audio"}
        inputs = inputs["audio"]
    if hasattr(inputs, "get_all_samples"):  # datasets gives a decoder of torchcodec where that is installed
        samples = inputs.get_all_samples()
        inputs = {"array": samples.data, "sampling_rate": samples.sample_rate}
    if isinstance(inputs, list) or is_array(inputs):  # a column of samples is a list
        inputs = {"array": inputs, "sampling_rate": sampling_rate}
    if not isinstance(inputs, Mapping):
        inputs = {"path": inputs}
    if not any(key in inputs for key in SOURCES):
        raise AudioError(
            f"a dict with {', '.join(map(str, inputs)) or 'nothing'} has no audio: it needs array (and sampling_rate),"
            " bytes or path, or one of them under audio"
        )
    audio = {key: inputs.get(key) for key in AUDIO_KEYS}
    if inputs.get("raw") is not None:
        audio["array"] = inputs["raw"]
    for key, value in audio.items():
        if key not in SOURCES and is_array(value):  # a number in a row of a data set in the format of torch or NumPy
            audio[key] = _to_numpy(value).item()
    if audio["array"] is not None:
        audio["array"] = _to_numpy(audio["array"])
    others |= {key: value for key, value in inputs.items() if key not in (*AUDIO_KEYS, "raw", "stride")}
    return audio, inputs.get("stride"), others


def _to_numpy(array) -> np.ndarray:
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()  # NumPy has no bfloat16
    return np.asarray(array)
