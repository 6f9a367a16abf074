"""Speaks sentences with espeak-ng; imports little, because each process that speaks is a new one."""

import os
from dataclasses import dataclass
from pathlib import Path

import espeakng_loader
import numpy as np
import soundfile
import soxr
from cffi import FFI

from .sentences import DEMO_LANGUAGES

VOXPOPULI_RATE = 16_000  # samples per second
SILENCE_SECONDS = 0.25  # at most, before and after each utterance


@dataclass(frozen=True)
class Utterance:
    language: str
    sentence: str
    speaker: tuple[str, int, int]  # variant, speed, pitch
    random_key: str  # seed of everything random in its audio


def record(path: Path, utterances: list[Utterance]) -> list[tuple[float, float]]:
    """Writes an mp3 clip of one utterance or a long ogg of many; returns each one's start and end in seconds."""
    if path.suffix == ".mp3":
        (utterance,) = utterances
        samples, rate, span = _speak(utterance)
        soundfile.write(path, samples, rate, format="MP3")
        return [span]
    spans = []
    # One utterance at a time, because libsndfile may overflow its stack when it writes a long Vorbis file at once.
    with soundfile.SoundFile(path, "w", VOXPOPULI_RATE, channels=1, format="OGG", subtype="VORBIS") as file:
        for utterance in utterances:
            samples, rate, (start, end) = _speak(utterance)
            offset = file.tell() / VOXPOPULI_RATE
            file.write(soxr.resample(samples, rate, VOXPOPULI_RATE))
            spans.append((round(offset + start, 3), round(offset + end, 3)))
    return spans


_ffi = FFI()
_ffi.cdef("""
    int espeak_Initialize(int output, int buffer_ms, const char *data_path, int options);
    void espeak_SetSynthCallback(int (*collect)(short *samples, int count, void *events));
    int espeak_SetVoiceByName(const char *name);
    int espeak_SetParameter(int parameter, int value, int relative);
    int espeak_Synth(const void *text, size_t size, unsigned position, int position_type, unsigned end_position,
                     unsigned flags, unsigned *identifier, void *user_data);
    int espeak_Terminate(void);
""")
AUDIO_OUTPUT_SYNCHRONOUS, ESPEAK_RATE, ESPEAK_PITCH, POS_CHARACTER, ESPEAK_CHARS_UTF8 = 2, 1, 3, 1, 1


def _espeak(sentence: str, voice: str, speed: int, pitch: int) -> tuple[np.ndarray, int]:
    """Returns int16 samples and their rate."""
    chunks = []

    @_ffi.callback("int(short *, int, void *)")
    def collect(samples, count, events):
        if samples != _ffi.NULL:
            chunks.append(np.frombuffer(_ffi.buffer(samples, 2 * count), dtype=np.int16).copy())
        return 0

    # The library keeps state from one text to the next, even through espeak_Terminate, so a repeated text differs.
    # It is loaded for each text (a few ms), which makes the audio a function of the arguments alone.
    library = _ffi.dlopen(espeakng_loader.get_library_path())
    try:
        rate = library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(espeakng_loader.get_data_path()), 0)
        library.espeak_SetSynthCallback(collect)
        text = sentence.encode() + b"\0"
        failed = library.espeak_SetVoiceByName(voice.encode())
        failed |= library.espeak_SetParameter(ESPEAK_RATE, speed, 0)
        failed |= library.espeak_SetParameter(ESPEAK_PITCH, pitch, 0)
        failed |= library.espeak_Synth(text, len(text), 0, POS_CHARACTER, 0, ESPEAK_CHARS_UTF8, _ffi.NULL, _ffi.NULL)
        library.espeak_Terminate()
    finally:
        _ffi.dlclose(library)
    if failed or not chunks:
        raise RuntimeError(f"espeak-ng did not speak {sentence!r} with voice {voice!r}")
    return np.concatenate(chunks), rate


def _speak(utterance: Utterance) -> tuple[np.ndarray, int, tuple[float, float]]:
    """Returns float32 samples with faint noise, their rate, and the start and end of speech in seconds."""
    variant, speed, pitch = utterance.speaker
    speech, rate = _espeak(utterance.sentence, f"{DEMO_LANGUAGES[utterance.language].voice}+{variant}", speed, pitch)
    rng = np.random.default_rng(list(utterance.random_key.encode()))
    before, after = (rng.uniform(SILENCE_SECONDS / 2, SILENCE_SECONDS, size=2) * rate).astype(int)
    samples = np.pad(rng.uniform(0.3, 0.9) / 32768 * speech.astype(np.float32), (before, after))
    samples += 10 ** rng.uniform(-3.5, -2.5) * rng.standard_normal(len(samples), dtype=np.float32)
    margin = int(0.4 * SILENCE_SECONDS * rate)
    span = (before - margin) / rate, (before + len(speech) + margin) / rate
    return np.clip(samples, -1, 1), rate, span
