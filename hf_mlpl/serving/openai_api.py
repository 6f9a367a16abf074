"""Defines the requests, answers and errors of OpenAI's API for transcription."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ..inference.subtitles import build_cues
from ..inference.transcription import Recording, format_transcript
from .transcriber import Transcript

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
GRANULARITIES = ("segment", "word")
WITHOUT_EFFECT = ("prompt", "temperature", "chunking_strategy")  # of sampling decoders, and of servers that do not cut
FIELDS = ("file", "model", "language", "response_format", "timestamp_granularities[]", "stream", *WITHOUT_EFFECT)
# of a segment, which clients may look for: a CTC model that decodes greedily has none of them
UNKNOWN = ("seek", "tokens", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob")


class ApiError(HTTPException):
    """Answers a request with an error of OpenAI's form."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(status, message, headers)
        self.param, self.code = param, code


def error_response(error: HTTPException) -> JSONResponse:
    """Returns the answer for an error of ours or of starlette."""
    content = {
        "message": error.detail,
        "type": "invalid_request_error" if error.status_code < 500 else "server_error",
        "param": getattr(error, "param", None),
        "code": getattr(error, "code", None),
    }
    return JSONResponse({"error": content}, error.status_code, error.headers)


@dataclass(frozen=True)
class TranscriptionRequest:
    """Holds the fields of a request that have an effect."""

    file: UploadFile
    response_format: str
    granularities: frozenset[str]  # of verbose_json
    language: str | None  # one of the tokenizer's

    @property
    def timestamps(self) -> tuple[str | None, ...]:
        """Returns the kinds of timestamps that the answer needs, as the pipeline names them."""
        if self.response_format in ("srt", "vtt"):
            return ("char",)
        return tuple({"segment": "char", "word": "word"}[name] for name in sorted(self.granularities)) or (None,)


def read_request(form: FormData, model: str, languages: Iterable[str]) -> TranscriptionRequest:
    """Returns the request in a form.

    Args:
        model: name of the model that is served.
        languages: those whose characters the tokenizer has learned.

    Raises:
        ApiError: for a field that is missing, unknown or has a value that is not accepted.
    """
    for name, value in form.multi_items():
        if name not in FIELDS:
            raise ApiError(400, f"there is no field {name!r}; the fields are {', '.join(FIELDS)}", name)
        if isinstance(value, UploadFile) != (name == "file"):
            raise ApiError(400, f"{name} must be a {'file' if name == 'file' else 'text'}", name)
    fields: dict[str, Any] = dict(form)
    for name in ("file", "model"):
        if not fields.get(name):
            raise ApiError(400, f"the field {name} is missing", name)
    check_model_name(fields["model"], model)
    if fields.get("stream", "").lower() not in ("", "0", "false"):
        raise ApiError(400, "stream is not supported; leave it out, and the whole transcript is the answer", "stream")
    response_format = _choice("response_format", fields.get("response_format") or "json", FORMATS)
    name = "timestamp_granularities[]"
    granularities = frozenset(_choice(name, value, GRANULARITIES) for value in form.getlist(name))
    if response_format == "verbose_json":
        granularities = granularities or frozenset(["segment"])
    elif granularities:
        raise ApiError(400, f"{name} is for response_format verbose_json, not {response_format}", name)
    language = _language(fields["language"], languages) if fields.get("language") else None
    return TranscriptionRequest(fields["file"], response_format, granularities, language)


def check_model_name(name, served: str) -> None:
    """Raises `ApiError` for another model than the one that is served."""
    if name != served:
        raise ApiError(404, f"there is no model {name!r}; this server has {served!r}", "model", "model_not_found")


def _choice(name: str, value, accepted: Iterable[str]) -> str:
    if value not in accepted:
        raise ApiError(400, f"{name} is {value!r}; it must be {', '.join(accepted)}", name)
    return value


def _language(language: str, languages: Iterable[str]) -> str:
    """Returns the tokenizer's name of a language, which may have a region, as in sv-SE, where ISO 639 has sv."""
    names = list(languages)
    found = [name for name in names if name == language] or [
        name for name in names if name.partition("-")[0] == language.lower()
    ]
    if len(found) != 1:
        known = ", ".join(found or names) or "none: its tokenizer has not learned their characters"
        raise ApiError(
            400,
            f"language is {language!r}; the model has {known}; without it the model finds the language",
            "language",
        )
    return found[0]


def transcription_response(request: TranscriptionRequest, transcript: Transcript) -> Response:
    """Returns the answer in the format of the request; text, srt and vtt are those of `hf-mlpl transcribe`."""
    result = transcript.result
    if request.response_format == "json":
        return JSONResponse({"text": result["text"]})
    if request.response_format == "verbose_json":
        return JSONResponse(_verbose(request.granularities, transcript))
    recording = Recording(Path(), Path(), result=result, seconds=transcript.seconds)
    content = format_transcript(recording, request.response_format, with_words=False, with_name=False)
    return PlainTextResponse(content)


def _verbose(granularities: frozenset[str], transcript: Transcript) -> dict:
    result = transcript.result
    content = {
        "task": "transcribe",
        "language": result.get("language"),
        "language_probability": result.get("language_probability"),
        "duration": round(transcript.seconds, 3),
        "text": result["text"],
    }
    if "word" in granularities:
        words = transcript.results["word"]["chunks"]
        content["words"] = [{"word": word["text"], **_times(*word["timestamp"])} for word in words]
    if "segment" in granularities:
        content["segments"] = _segments(transcript.results["char"]["chunks"], transcript.seconds)
    return content


def _segments(characters: list[dict], seconds: float) -> list[dict]:
    """Returns a segment for each subtitle, with its text as it stands in the transcript."""
    text, position, segments = "".join(character["text"] for character in characters), 0, []
    for number, cue in enumerate(build_cues(characters, seconds)):
        letters = re.sub(r"\s", "", "".join(cue.lines))  # a line may end within a word, and spaces at its end are gone
        found = re.compile(r"\s*".join(map(re.escape, letters))).search(text, position)
        position = found.end()
        segments.append({"id": number, **_times(cue.start, cue.end), "text": found[0], **dict.fromkeys(UNKNOWN)})
    return segments


def _times(start: float, end: float) -> dict[str, float]:
    return {"start": round(float(start), 3), "end": round(float(end), 3)}
