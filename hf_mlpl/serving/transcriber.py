"""Transcribes the recordings of concurrent requests in common batches.

A recording goes through the pipeline piece by piece, as in `hf-mlpl transcribe`. The pieces of all requests wait in
one queue, and each batch takes the oldest of them. So a long recording delays others by a few batches, never by its
length. The event loop owns all state, which therefore needs no locks; threads decode audio and run the model.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from transformers.pipelines.base import pad_collate_fn
from transformers.pipelines.pt_utils import PipelineIterator

from ..audio.parts import SeekableFile
from ..inference.pieces import PIECE_SECONDS

MOST_DECODERS = 8  # threads


class Abandoned(Exception):
    """Ends the work on a recording for which nobody waits any more."""


@dataclass(frozen=True)
class Transcript:
    """Holds what the pipeline returns for a recording."""

    results: dict[str | None, dict]  # by kind of timestamps
    seconds: float  # duration of the recording

    @property
    def result(self) -> dict:
        """Returns one of the results, for its text and language."""
        return next(iter(self.results.values()))


@dataclass(eq=False)
class _Request:
    """Holds a piece that waits for the model."""

    piece: dict  # from the pipeline's `preprocess`
    allowed_ids: list[int] | None
    seconds: float
    output: asyncio.Future  # of the pipeline's `forward`


class Transcriber:
    """
    Transcribes recordings with a pipeline while `run` runs.

    Args:
        recognize: a `MlplSpeechRecognitionPipeline`.
        batch_seconds: seconds of audio in one batch, padding counted; by default 200, and on a CPU 50.
    """

    def __init__(self, recognize, batch_seconds: float | None = None):
        if batch_seconds is None:
            batch_seconds = 50.0 if recognize.device.type == "cpu" else 200.0
        self.recognize, self.batch_seconds = recognize, batch_seconds
        self.num_batches = self.num_pieces = 0  # that the model has recognised
        self._waiting: list[_Request] = []  # the oldest first
        self._arrived = asyncio.Event()
        self._collate = pad_collate_fn(recognize.tokenizer, recognize.feature_extractor)
        self._decoders = ThreadPoolExecutor(min(MOST_DECODERS, os.cpu_count() or 1), "audio")
        self._model = ThreadPoolExecutor(1, "model")

    @property
    def num_waiting(self) -> int:
        """Returns the number of pieces that wait for the model."""
        return len(self._waiting)

    async def transcribe(
        self,
        audio: SeekableFile,
        timestamps: Sequence[str | None] = (None,),
        language: str | None = None,
        is_abandoned: Callable[[], Awaitable[bool]] | None = None,
    ) -> Transcript:
        """Returns the transcript of a recording.

        Args:
            audio: a file at its beginning, with the `name` for error messages.
            timestamps: kinds of timestamps, each of which gives a result: None, `word` or `char`.
            language: the text has characters of this language only.
            is_abandoned: is asked after each batch of a long recording.

        Raises:
            ValueError: for a language that the tokenizer has not learned.
            AudioError: for audio that cannot be read.
            Abandoned: if `is_abandoned` returns true.
        """
        rate = self.recognize.feature_extractor.sampling_rate
        allowed_ids = None if language is None else self.recognize.tokenizer.allowed_ids(language)
        most_pending = 2 * max(1, int(self.batch_seconds / PIECE_SECONDS))  # a batch in work, and one that waits
        outputs: list[dict] = []
        pending: deque[asyncio.Future] = deque()
        num_samples = 0
        try:
            with closing(self.recognize.preprocess(audio)) as pieces:
                while (piece := await self._in_thread(next, pieces, None)) is not None:
                    num_samples += piece["num_samples"]
                    pending.append(self._submit(piece, allowed_ids))
                    if len(pending) == most_pending:
                        outputs.append(await pending.popleft())
                        if not piece["is_last"] and is_abandoned is not None and await is_abandoned():
                            raise Abandoned
            while pending:
                outputs.append(await pending.popleft())
        finally:
            for output in pending:
                output.cancel()
        results = {}
        for kind in timestamps:  # `postprocess` takes entries out of its arguments
            copies = [dict(output) for output in outputs]
            results[kind] = await self._in_thread(partial(self.recognize.postprocess, return_timestamps=kind), copies)
        return Transcript(results, num_samples / rate)

    async def _in_thread(self, function, *arguments):
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function, *arguments)

    def _submit(self, piece: dict, allowed_ids: list[int] | None) -> asyncio.Future:
        extractor = self.recognize.feature_extractor
        seconds = piece["input_features"].shape[1] * extractor.hop_length / extractor.sampling_rate
        request = _Request(piece, allowed_ids, seconds, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        self._arrived.set()
        return request.output

    async def run(self) -> None:
        """Runs the model on what waits, batch after batch, until it is cancelled."""
        try:
            while True:
                await self._arrived.wait()
                batch = self._next_batch()
                if not batch:
                    self._arrived.clear()
                    continue
                outputs = await asyncio.get_running_loop().run_in_executor(self._model, self._forward, batch)
                self.num_batches += 1
                self.num_pieces += len(batch)
                for request, output in zip(batch, outputs, strict=True):
                    if request.output.cancelled():
                        continue
                    if isinstance(output, Exception):
                        request.output.set_exception(output)
                    else:
                        request.output.set_result(output)
        finally:
            self._model.shutdown(wait=False)
            self._decoders.shutdown(wait=False)

    def _next_batch(self) -> list[_Request]:
        """Takes from the queue the oldest request, and others that fit into a batch with it, in their order."""
        self._waiting = [request for request in self._waiting if not request.output.cancelled()]
        batch: list[_Request] = []
        for request in self._waiting:
            longest = max([request.seconds, *(other.seconds for other in batch)])
            fits = (len(batch) + 1) * longest <= self.batch_seconds
            if not batch or (fits and request.allowed_ids == batch[0].allowed_ids):
                batch.append(request)
        self._waiting = [request for request in self._waiting if request not in batch]
        return batch

    def _forward(self, batch: list[_Request]) -> list[dict | Exception]:
        """Returns the output of each request; where a batch fails, each request is tried alone."""
        try:
            pieces = [request.piece for request in batch]
            inputs = pieces[0] if len(pieces) == 1 else self._collate(pieces)
            arguments = {"allowed_ids": batch[0].allowed_ids}
            return list(PipelineIterator([inputs], self.recognize.forward, arguments, loader_batch_size=len(batch)))
        except Exception as error:
            if len(batch) == 1:
                return [error]
        # here, where the error no longer holds the memory of the batch
        return [output for request in batch for output in self._forward([request])]
