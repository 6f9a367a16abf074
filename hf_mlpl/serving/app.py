"""Answers HTTP requests: transcriptions and models as OpenAI's API has them, and the server's health."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from ..installation import install_command

try:
    from python_multipart.exceptions import FormParserError
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import Message, Receive
except ImportError as error:
    raise ImportError(f"the server needs {error.name}, which comes with {install_command('serve')}") from error

from ..audio.decoders import AudioError
from ..audio.parts import Section
from ..inference.pipeline_mlpl import MlplSpeechRecognitionPipeline
from ..inference.transcription import printable
from .openai_api import ApiError, check_model_name, error_response, read_request, transcription_response
from .transcriber import Abandoned, Transcriber

MAX_FIELDS = 32
STALL_SECONDS = 60.0  # without a byte of an upload
RETRY_SECONDS = 5  # after which a refused client may ask again
CLOSED_BY_CLIENT = 499  # nginx's status, which nobody reads but the log


def build_app(
    recognize: MlplSpeechRecognitionPipeline,
    name: str,
    *,
    max_upload_mb: float,
    max_requests: int,
    batch_seconds: float | None = None,
    api_key: str | None = None,
) -> Starlette:
    """Returns the application that serves a pipeline.

    It has `POST /v1/audio/transcriptions`, `GET /v1/models`, `GET /v1/models/NAME` and `GET /health`.

    Args:
        name: of the model in requests.
        max_upload_mb: size of a request in millions of bytes; more is answered with status 413.
        max_requests: transcriptions in work at a time, uploads counted; more are answered with status 503.
        batch_seconds: of `Transcriber`.
        api_key: what requests must have as `Authorization: Bearer KEY`; None for no key. `/health` needs none.
    """
    endpoints = _Endpoints(
        Transcriber(recognize, batch_seconds), name, int(max_upload_mb * 1e6), max_requests, api_key
    )
    return Starlette(
        routes=[
            Route("/v1/audio/transcriptions", endpoints.transcribe, methods=["POST"]),
            Route("/v1/models", endpoints.list_models),
            Route("/v1/models/{name:path}", endpoints.show_model),
            Route("/health", endpoints.show_health),
        ],
        exception_handlers={
            HTTPException: _answer_error,
            FormParserError: _answer_damaged_form,
            ClientDisconnect: _answer_nobody,
            Abandoned: _answer_nobody,
            Exception: _answer_fault,
        },
        lifespan=endpoints.run_transcriber,
    )


class _Endpoints:
    def __init__(self, transcriber: Transcriber, name: str, max_bytes: int, max_requests: int, api_key: str | None):
        self.transcriber, self.name, self.api_key = transcriber, name, api_key
        self.max_bytes, self.max_requests = max_bytes, max_requests
        self.num_in_work = self.num_answered = 0
        self.created = int(time.time())

    @asynccontextmanager
    async def run_transcriber(self, app: Starlette) -> AsyncIterator[None]:
        """Runs the transcriber while the server runs."""
        task = asyncio.create_task(self.transcriber.run())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def transcribe(self, request: Request) -> Response:
        """Answers an upload with its transcript."""
        self._check_key(request)
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise ApiError(415, "send a form with the file: Content-Type: multipart/form-data")
        self._check_size(int(request.headers.get("content-length", 0)))
        languages = self.transcriber.recognize.tokenizer.language_characters
        with self._in_work():
            upload = Request(request.scope, self._limited(request.receive))
            async with upload.form(max_files=1, max_fields=MAX_FIELDS) as form:
                wanted = read_request(form, self.name, languages)
                audio = Section(wanted.file.file, 0, wanted.file.size)
                name = printable(wanted.file.filename or "the upload")
                audio.name = name  # type: ignore[attr-defined]  # for error messages
                try:
                    transcript = await self.transcriber.transcribe(
                        audio, wanted.timestamps, wanted.language, request.is_disconnected
                    )
                except AudioError as error:
                    raise ApiError(400, str(error), "file", "unreadable_audio") from error
            self.num_answered += 1
            return await run_in_threadpool(transcription_response, wanted, transcript)

    async def list_models(self, request: Request) -> JSONResponse:
        """Lists the one model."""
        self._check_key(request)
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def show_model(self, request: Request) -> JSONResponse:
        """Describes the model."""
        self._check_key(request)
        check_model_name(request.path_params["name"], self.name)
        return JSONResponse(self._model())

    async def show_health(self, request: Request) -> JSONResponse:
        """Shows that the server answers, and how much it has to do."""
        return JSONResponse(
            {
                "status": "ok",
                "model": self.name,
                "requests_in_work": self.num_in_work,
                "requests_answered": self.num_answered,
                "pieces_waiting": self.transcriber.num_waiting,
                "pieces_recognized": self.transcriber.num_pieces,
                "batches": self.transcriber.num_batches,
            }
        )

    def _model(self) -> dict:
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "hf_mlpl"}

    def _check_key(self, request: Request) -> None:
        if self.api_key is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.encode("latin-1"), self.api_key.encode()):
            raise ApiError(
                401,
                "the API key is missing or wrong; send it as Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _check_size(self, num_bytes: int) -> None:
        if num_bytes > self.max_bytes:
            limit = f"{self.max_bytes / 1e6:g} MB"
            raise ApiError(413, f"the upload is larger than {limit}, the limit of this server", "file")

    @contextmanager
    def _in_work(self) -> Iterator[None]:
        if self.num_in_work >= self.max_requests:
            raise ApiError(
                503,
                f"{self.num_in_work} requests are in work, as many as this server takes; ask again later",
                code="overloaded",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
        self.num_in_work += 1
        try:
            yield
        finally:
            self.num_in_work -= 1

    def _limited(self, receive: Receive) -> Receive:
        """Returns a `receive` that ends uploads which are too large, or of which nothing arrives."""
        num_bytes = 0

        async def receive_limited() -> Message:
            nonlocal num_bytes
            try:
                message = await asyncio.wait_for(receive(), STALL_SECONDS)
            except asyncio.TimeoutError as error:
                raise ApiError(408, f"no byte of the upload came for {STALL_SECONDS:g} s") from error
            num_bytes += len(message.get("body", b""))
            self._check_size(num_bytes)
            return message

        return receive_limited


def _answer_error(request: Request, error: Any) -> Response:
    """Answers with an `HTTPException` of ours or of starlette."""
    if error.status_code in (404, 405) and not isinstance(error, ApiError):
        error = ApiError(error.status_code, f"there is no {request.method} {request.url.path}", headers=error.headers)
    return error_response(error)


def _answer_damaged_form(request: Request, error: Exception) -> Response:
    return error_response(ApiError(400, f"the form is not multipart data, or is damaged: {error}"))


def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=CLOSED_BY_CLIENT)


def _answer_fault(request: Request, error: Exception) -> Response:
    """Answers after a fault of the server, whose traceback goes to the log."""
    return error_response(ApiError(500, "the server failed; its log says why"))
