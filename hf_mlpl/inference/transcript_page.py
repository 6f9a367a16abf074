"""Shows recordings and their transcripts as HTML, for `hf-mlpl transcribe --format html` and the app."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from ..audio.reading import SAMPLING_RATE, stream_audio
from ..pages.audio import COMPRESSION, SpeechEncoder
from ..pages.document import document
from ..pages.spectrogram import Spectrogram
from ..pages.transcript import transcript_view
from .ctc_recognizer import CtcRecognizer
from .tiers import words_of_characters
from .transcription import Recording, format_transcript, printable

MAX_SOUND_BYTES = 24_000_000  # of a page: its address is a third longer, and Firefox takes 32 MB


def view_arguments(recognize) -> dict[str, Any]:
    """Returns the arguments of a recogniser's call, of which the result has what `recording_view` shows."""
    arguments = {"return_timestamps": "char", "return_confidence": True}
    has_languages = not isinstance(recognize, CtcRecognizer) and recognize.model.config.languages
    return arguments | ({"top_k_languages": 3} if has_languages else {})


def transcript_page(recording: Recording, folder: Path | None = None) -> str:
    """Returns a page with a recording and its transcript; see `recording_view`."""
    name = "standard input" if recording.name == "-" else printable(recording.path.name)
    return document(name, recording_view(recording, folder))


def recording_view(recording: Recording, folder: Path | None = None, address: str = "") -> Markup:
    """
    Returns a recording with its transcript, spectrogram, and subtitles and JSON to download.

    The sound is compressed to 4 kB per second, and to less if the recording takes more than two hours. Beyond six
    hours the view plays the file itself, which must stay where it is.

    Args:
        recording: with its `result` for `view_arguments`, `seconds`, and its `path` or `source`.
        folder: of the page, from where it finds the file of a very long recording; by default the current one.
        address: of that file, instead of its path from `folder`.

    Raises:
        AudioError: for a recording that cannot be read any more.
    """
    rates = [rate for rate in COMPRESSION if recording.seconds * rate * 125 <= MAX_SOUND_BYTES]
    kilobits = max(rates, default=min(COMPRESSION) if recording.source else None)  # a stream has no file to play
    encoder = None if kilobits is None else SpeechEncoder(SAMPLING_RATE, kilobits)
    spectrogram, num_samples = Spectrogram(SAMPLING_RATE), 0
    for block in stream_audio(recording.file_to_read(), SAMPLING_RATE):
        spectrogram.add(block)
        num_samples += len(block)
        if encoder is not None:
            encoder.add(block)
    if not address:
        path = recording.path
        address = quote(os.fsencode(os.path.relpath(path, folder))) if isinstance(path, Path) else str(path)
    return transcript_view(
        recording.result,
        address if encoder is None else encoder.source(),
        num_samples / SAMPLING_RATE,  # the header of a file that ends early states more
        spectrogram=spectrogram.finish(),
        downloads=transcript_files(recording),
    )


def transcript_files(recording: Recording) -> dict[str, str]:
    """Returns the subtitles and the JSON of a transcript, by their file names; see `recording_view`."""
    of_words = replace(
        recording, result=recording.result | {"chunks": words_of_characters(recording.result["chunks"])}
    )
    files = {}
    for output_format, transcript in (("srt", recording), ("vtt", recording), ("json", of_words)):
        name = printable(recording.output_path(Path(), output_format).name)
        files[name] = format_transcript(transcript, output_format, with_words=True, with_name=False)
    return files
