"""Mutated recordings: 3,000 files made from 8 containers, with bytes flipped, fields of headers attacked, cut off, and
bytes inserted.

Each must be decoded or refused with one line that names it, in a process of its own, which may not crash, grow by more
than 300 MB, or need more than 10 s for a file. Prints the figures. Takes about five minutes.
"""

import io
import json
import random
import struct
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytestmark = pytest.mark.slow

FILES, SEED = 3000, 16
MAX_GROWTH, MAX_SECONDS = 300, 10  # MB, of a process and for a file

WORKER = """
import json, re, sys, time
from hf_mlpl.audio.reading import AudioError, audio_duration, load_audio
for path in sys.stdin:
    path, start, outcome = path.rstrip("\\n"), time.perf_counter(), []
    for function in (audio_duration, lambda path: len(load_audio(path)) / 16000):
        try:
            outcome.append(function(path))
        except AudioError as error:
            one_line = str(error).startswith(f"{path}: ") and "\\n" not in str(error)
            outcome.append("refused" if one_line else f"not one line: {error}")
        except BaseException as error:
            outcome.append(f"{type(error).__name__}: {error}")
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
    print(json.dumps([outcome, peak, time.perf_counter() - start]), flush=True)
"""


def encoded(form: str, subtype: str | None = None, rate: int = 16000, channels: int = 1, **options) -> bytes:
    rng, file = np.random.default_rng(0), io.BytesIO()
    samples = np.repeat(0.1 * rng.standard_normal((2 * rate, 1)), channels, axis=1)
    with soundfile.SoundFile(file, "w", rate, channels, subtype, format=form, **options) as sound:
        for start in range(0, len(samples), rate // 4):
            sound.write(samples[start : start + rate // 4])
    return file.getvalue()


def encoded_m4a() -> bytes:
    import av

    file, rng = io.BytesIO(), np.random.default_rng(0)
    with av.open(file, "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.layout = "mono"
        for start in range(0, 32000, 1024):
            samples = 0.1 * rng.standard_normal((1, 1024)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def originals() -> dict[str, bytes]:
    files = {
        "wav": encoded("WAV", channels=2),
        "flac": encoded("FLAC", rate=44100),
        "mp3": encoded("MP3", bitrate_mode="VARIABLE", compression_level=0.5),
        "vorbis": encoded("OGG", "VORBIS"),
        "opus": encoded("OGG", "OPUS"),
        "aiff": encoded("AIFF"),
        "w64": encoded("W64"),
    }
    return files | ({"m4a": encoded_m4a()} if find_spec("av") else {"caf": encoded("CAF")})


def mutated(content: bytes, rng: random.Random) -> bytes:
    result, header = bytearray(content), min(len(content), 256)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        kind, at = rng.randrange(6), rng.randrange(min(rng.choice([header, len(result)]), len(result)))
        if kind == 0:  # a bit
            result[at] ^= 1 << rng.randrange(8)
        elif kind == 1:  # a number in a header
            value = rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, rng.randrange(2**32)])
            result[at : at + 4] = struct.pack(rng.choice("<>") + "I", value)
        elif kind == 2:  # a longer number
            result[at : at + 8] = struct.pack(rng.choice("<>") + "Q", rng.choice([2**63 - 1, 2**46, 2**40]))
        elif kind == 3:
            del result[max(at, 4) :]
        elif kind == 4:
            result[at:at] = rng.randbytes(rng.choice([1, 4, 100, 3000]))
        else:
            result[at : at + rng.choice([1, 16, 500])] = b""
        if len(result) < 16:
            break
    return bytes(result)


class Worker:
    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER], stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, path: Path):
        print(path, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            return f"crashed ({self.process.wait()})"
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def test_each_is_decoded_or_refused(tmp_path):
    rng, sources = random.Random(SEED), originals()
    worker, counts, faults, growths, slowest = Worker(), Counter(), [], [], 0.0

    def start_memory() -> float:
        """Peak of a worker that has read each original."""
        for kind, content in sources.items():
            path = tmp_path / f"good.{kind}"
            path.write_bytes(content)
            (duration, seconds), peak, _ = worker.ask(path)
            assert duration == pytest.approx(2, abs=0.1) and seconds == pytest.approx(2, abs=0.1), kind
        return peak

    base = peak = start_memory()
    for number in range(FILES):
        kind = list(sources)[number % len(sources)]
        path = tmp_path / f"{number}.{kind}"
        path.write_bytes(mutated(sources[kind], rng))
        answer = worker.ask(path)
        if isinstance(answer, str):
            counts[kind, "crashed"] += 1
            faults.append((path.name, answer))
            worker = Worker()
            base = peak = start_memory()
            continue
        outcome, peak_now, seconds = answer
        slowest = max(slowest, seconds)
        if peak_now - base > MAX_GROWTH >= peak - base or seconds > MAX_SECONDS:
            faults.append((path.name, f"{peak_now - base:.0f} MB, {seconds:.1f} s"))
        peak = peak_now
        growths.append(peak - base)
        bad = [text for text in outcome if isinstance(text, str) and text != "refused"]
        faults += [(path.name, text) for text in bad]
        counts[kind, "fault" if bad else "refused" if outcome[1] == "refused" else "decoded"] += 1
        if not bad and not any(path.name == name for name, _ in faults):
            path.unlink()
    worker.close()
    for kind in sources:
        print(kind, {result: count for (name, result), count in sorted(counts.items()) if name == kind})
    print(f"{FILES} files, memory at most {max(growths):.0f} MB over the start, slowest {slowest:.1f} s, {faults}")
    assert not faults
    assert sum(counts.values()) == FILES and all(counts[kind, "decoded"] for kind in sources)
