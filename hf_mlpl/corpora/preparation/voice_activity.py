"""Detects speech with silero-vad, whose weights come in its wheel (extra `vad`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import ClassVar

import numpy as np

from ...audio.reading import SAMPLING_RATE
from ...installation import install_command

FRAME, CONTEXT = 512, 64  # samples of a frame, and samples before it that the model sees too
STATE = (1, 1, 128)  # shape of the two states of its LSTM
GRAPH = "silero_vad_16k_sequence.onnx"


@dataclass(frozen=True)
class SileroDetector:
    """Computes the probabilities of speech in frames of 32 ms; raises ImportError if the extra `vad` is missing."""

    sampling_rate: ClassVar[int] = SAMPLING_RATE
    frame_seconds: ClassVar[float] = FRAME / SAMPLING_RATE

    def __post_init__(self):
        _session()

    def __call__(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields the probabilities (f,) of successive frames; the last frame is filled up with silence.

        Args:
            blocks: successive samples (n,) of a recording, at `SAMPLING_RATE`; they change nothing but the memory.
        """
        held, state = (
            np.zeros(CONTEXT, np.float32),
            {"h": np.zeros(STATE, np.float32), "c": np.zeros(STATE, np.float32)},
        )
        for block in chain(blocks, [None]):
            if block is None:
                block = np.zeros((CONTEXT - len(held)) % FRAME, np.float32)
            held = np.concatenate([held, block])
            if num_frames := (len(held) - CONTEXT) // FRAME:
                windows = np.lib.stride_tricks.sliding_window_view(held, CONTEXT + FRAME)[::FRAME][:num_frames]
                inputs = {"input": np.ascontiguousarray(windows), **state}
                probabilities, state["h"], state["c"] = _session().run(["speech_probs", "hn", "cn"], inputs)
                held = held[num_frames * FRAME :]
                yield probabilities.reshape(-1)


@cache
def _session():
    """Opens the graph that computes many frames at once.

    `silero_vad.load_silero_vad(sequence=True)` does the same, but its import takes that of torch, and sets torch's
    number of threads for the whole process.
    """
    package = find_spec("silero_vad")
    graph = Path(package.submodule_search_locations[0], "data", GRAPH) if package else None
    if graph is None or not graph.is_file() or find_spec("onnxruntime") is None:
        raise ImportError(
            "detecting speech needs silero-vad >= 6.2.3 and onnxruntime, which come with "
            f"{install_command('vad')}; `--segment model` needs neither"
        )
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1  # the processes of a preparation use the cores
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
