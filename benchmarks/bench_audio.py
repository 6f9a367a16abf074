"""How fast is audio read? Clips at random from archives and from files, and whole or in parts, against two peers.

    python benchmarks/bench_audio.py

On one core. The peers, `datasets` with torchcodec and lhotse, share an environment (about 1.5 GB). torchcodec needs
FFmpeg's libraries and brings none: it is given those of the package PyAV. Recordings are synthetic, mono: noise in the
rhythm of speech.
"""

import re
import statistics
import tarfile
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from side_by_side import Worker, benchmark_arguments, in_turns, peer_environment, ratio, versions, write_results
from tqdm import tqdm

from hf_mlpl.atomic import atomic_write
from hf_mlpl.audio.containers import open_member
from hf_mlpl.audio.reading import load_audio
from hf_mlpl.audio.tar_index import tar_index

NUM_CLIPS = 5000
CLIP_SECONDS, CLIP_RATE = 5.0, 48_000  # as in Common Voice
LONG_SECONDS, LONG_RATE = 1800.0, 16_000  # as in VoxPopuli
PART_SECONDS = 15.0
READS, SLOW_READS, DECODED, ROUNDS = 1000, 50, 20, 7
# torchcodec 0.12 works without CUDA's libraries, later wheels on PyPI (0.14, 0.16, 0.17 were tried) do not. lhotse
# imports the last two without saying so.
PACKAGES = "torch==2.13.0 torchcodec==0.12.0 av==18.1.0 datasets>=4.4 lhotse soundfile requests scipy".split()


def speechlike(seconds: float, rate: int, seed: int) -> np.ndarray:
    """Noise that gets louder and softer four times a second."""
    rng, times = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    knots = np.arange(0, seconds + 0.25, 0.25)
    loudness = np.interp(times, knots, rng.random(len(knots)))
    return (0.1 * loudness**2 * rng.standard_normal(len(times))).astype(np.float32)


# ---- random reads


def write_clips(folder: Path) -> list[Path]:
    """NUM_CLIPS mp3 files: 50 recordings, each cut off at different lengths so that no two are the same."""
    (folder / "clips").mkdir()
    contents = []
    for seed in range(50):
        path = folder / "one.mp3"
        soundfile.write(path, speechlike(CLIP_SECONDS, CLIP_RATE, seed), CLIP_RATE)
        contents.append(path.read_bytes())
    paths = [folder / "clips" / f"common_voice_sl_{number}.mp3" for number in range(NUM_CLIPS)]
    for number, path in enumerate(paths):
        content = contents[number % len(contents)]
        path.write_bytes(content[: len(content) - number // len(contents)])
    return paths


def random_reads(folder: Path) -> tuple[list[dict], dict[str, float]]:
    paths = write_clips(folder)
    for name, how in {"clips.tar": {"mode": "w"}, "clips.tar.gz": {"mode": "w:gz", "compresslevel": 1}}.items():
        with tarfile.open(folder / name, **how) as tar:
            for path in paths:
                tar.add(path, f"cv/sl/clips/{path.name}")
    rows = [{"audio": {"bytes": path.read_bytes(), "path": path.name}} for path in paths]
    pq.write_table(pa.Table.from_pylist(rows), folder / "clips.parquet", row_group_size=100)  # as `datasets` writes

    index_seconds = {}
    for name in ("clips.tar", "clips.tar.gz"):
        start = time.perf_counter()
        tar_index(folder / name)
        index_seconds[name] = time.perf_counter() - start

    def members(name: str) -> list[dict]:
        found = [tar_index(folder / name).find(f"cv/sl/clips/{path.name}") for path in paths]
        return [{"path": folder / name, "offset": offset, "size": size} for offset, size in found]

    sources = {
        "files": [{"path": path} for path in paths],
        "clips.tar": members("clips.tar"),
        "clips.tar.gz": members("clips.tar.gz"),
        "clips.parquet": [{"path": folder / "clips.parquet", "offset": row} for row in range(len(paths))],
    }
    reads, loads = ({name: [] for name in sources} for _ in range(2))
    for number in tqdm(range(ROUNDS), desc="random reads"):
        chosen = np.random.default_rng(number).permutation(NUM_CLIPS)[:READS]
        for name, audios in sources.items():
            picked = [audios[i] for i in chosen]
            reads[name].append(rate(content, picked if name in ("files", "clips.tar") else picked[:SLOW_READS]))
            loads[name].append(rate(load_audio, picked[:DECODED]))
    rows = [
        {
            f"{NUM_CLIPS} clips in": name,
            "index, s": index_seconds.get(name),
            "reads/s": statistics.median(reads[name]),
            "decoded/s": statistics.median(loads[name]),
        }
        for name in sources
    ]
    ratios = {}
    for name in list(sources)[1:]:
        ratios[f"reads from {name}, share of files"] = ratio(reads[name], reads["files"])
        ratios[f"decoded from {name}, share of files"] = ratio(loads[name], loads["files"])
    return rows, ratios


def content(audio: dict) -> bytes:
    if "offset" in audio:
        return open_member(**audio).read()
    with open(audio["path"], "rb") as file:
        return file.read()


def rate(function, audios: list[dict]) -> float:
    """Calls a second."""
    start = time.perf_counter()
    for audio in audios:
        function(audio)
    return len(audios) / (time.perf_counter() - start)


# ---- decoding

# Each answers a list of [path, start, seconds or null] with the number of samples, at 16 kHz, mono.
PROGRAM = """
import torch; torch.set_num_threads(1)
{imports}
def load(path, start, seconds):
{load}
def answer(parts):
    return sum(len(load(*part)) for part in parts)
"""
PROGRAMS = {
    "hf_mlpl": PROGRAM.format(
        imports="from hf_mlpl.audio.reading import load_audio",
        load="    return load_audio({'path': path, 'start': start, 'end': seconds and start + seconds})",
    ),
    "datasets_torchcodec": PROGRAM.format(
        imports="from datasets import Audio; audio = Audio(sampling_rate=16000, num_channels=1)",
        load="    decoder = audio.decode_example({'path': path, 'bytes': None})\n"
        "    if seconds is None: return decoder.get_all_samples().data[0]\n"
        "    return decoder.get_samples_played_in_range(start, start + seconds).data[0]",
    ),
    "lhotse": PROGRAM.format(
        imports="from lhotse import Recording",
        load="    recording = Recording.from_file(path).resample(16000)\n"
        "    return recording.load_audio(offset=start or 0, duration=seconds)[0]",
    ),
}


def peer_with_torchcodec(name: str, packages: Sequence[str]) -> tuple[Path, dict[str, str]]:
    """The Python of an environment with peers, and the variable with which torchcodec finds the libraries of PyAV."""
    python = peer_environment(name, packages)
    ffmpeg = python.parents[1] / "ffmpeg"
    if not ffmpeg.exists():
        with atomic_write(ffmpeg) as folder:
            folder.mkdir()
            libraries = next(python.parents[1].glob("lib/python*/site-packages/av.libs"))
            for path in libraries.iterdir():  # libavcodec-1a2b3c4d.so.62.11.100: as itself, and as it is looked for
                (folder / path.name).symlink_to(path)
                stem, _, version = path.name.partition(".so.")
                if stem.startswith(("libav", "libsw")):
                    (folder / f"{stem.partition('-')[0]}.so.{version.partition('.')[0]}").symlink_to(path)
    return python, {"LD_LIBRARY_PATH": str(ffmpeg)}


def decoding(folder: Path, python: Path, ffmpeg: dict[str, str]) -> tuple[list[dict], dict[str, float]]:
    tasks = {}
    for extension in ("mp3", "flac", "ogg"):
        paths = [folder / f"{number}.{extension}" for number in range(DECODED)]
        for number, path in enumerate(paths):
            soundfile.write(path, speechlike(CLIP_SECONDS, CLIP_RATE, number), CLIP_RATE)
        tasks[f"{extension}, clips of {CLIP_SECONDS:g} s at 48 kHz"] = [[str(path), None, None] for path in paths]
    long = folder / "long.ogg"
    with soundfile.SoundFile(long, "w", LONG_RATE, 1, format="OGG", subtype="VORBIS") as file:
        for number in range(round(LONG_SECONDS / 10)):
            file.write(speechlike(10, LONG_RATE, number))
    starts = np.random.default_rng(0).uniform(0, LONG_SECONDS - PART_SECONDS - 1, DECODED).round(2)
    tasks[f"ogg, parts of {PART_SECONDS:g} s of {LONG_SECONDS / 60:g} min at 16 kHz"] = [
        [str(long), start, PART_SECONDS] for start in starts.tolist()
    ]
    rows, ratios = [], {}
    with ExitStack() as stack:
        peer = {"python": python}
        more = {"hf_mlpl": {}, "datasets_torchcodec": peer | {"variables": ffmpeg}, "lhotse": peer}
        workers = {
            name: stack.enter_context(Worker(name, program, threads=1, **more[name]))
            for name, program in PROGRAMS.items()
        }
        for what, task in tasks.items():
            measured = in_turns(
                {name: partial(decoded_rate, worker, task) for name, worker in workers.items()}, ROUNDS
            )
            rows.append({"decoding, audio s/s": what} | {n: statistics.median(of) for n, of in measured.items()})
            for name in ("datasets_torchcodec", "lhotse"):
                ratios[f"{what}, times {name}"] = ratio(measured["hf_mlpl"], measured[name])
    return rows, ratios


def decoded_rate(worker: Worker, parts: list) -> float:
    told = worker.ask(parts)
    return told["answer"] / 16_000 / told["seconds"]


def main() -> None:
    options = benchmark_arguments(__doc__).parse_args()
    python, ffmpeg = peer_with_torchcodec("audio", PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        read, read_ratios = random_reads(Path(folder))
        decoded, decoded_ratios = decoding(Path(folder), python, ffmpeg)
    names = [re.split("[=>]", requirement)[0] for requirement in PACKAGES]
    used = {"hf_mlpl": versions(["soundfile", "soxr"]), "peers": versions(names, python)}
    write_results(options.results, "audio", ROUNDS, [*read, *decoded], read_ratios | decoded_ratios, used)


if __name__ == "__main__":
    main()
