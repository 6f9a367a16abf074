"""How fast is audio read? Clips at random from archives and from files, and whole or in parts, against two peers.

    python benchmarks/bench_audio.py

Prints two tables and writes benchmarks/results/audio.json: medians over alternating rounds on one core. The peers,
`datasets` with torchcodec and lhotse, run in an environment of their own, which the script makes once with pip in the
user's cache folder (about 1.5 GB). torchcodec needs FFmpeg's libraries and brings none: it is given those of the
package PyAV. Where that fails, the column says so. Recordings are synthetic: noise in the rhythm of speech, mono.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from huggingface_hub.constants import HF_HOME
from tqdm import tqdm

from hf_mlpl.atomic import write_json
from hf_mlpl.audio import load_audio
from hf_mlpl.containers import open_member, tar_index

NUM_CLIPS = 5000
CLIP_SECONDS, CLIP_RATE = 5.0, 48_000  # as in Common Voice
LONG_SECONDS, LONG_RATE = 1800.0, 16_000  # as in VoxPopuli
PART_SECONDS = 15.0
READS, SLOW_READS, DECODED, ROUNDS = 1000, 50, 20, 7
PEERS = Path(HF_HOME) / "hf_mlpl" / "bench-peers"
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


def random_reads(folder: Path) -> dict:
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
    return {
        "clips": NUM_CLIPS,
        "index_seconds": index_seconds,
        "rows": [
            {
                "source": name,
                "reads_per_second": statistics.median(reads[name]),
                "share_of_files": statistics.median(np.divide(reads[name], reads["files"])),
                "decoded_per_second": statistics.median(loads[name]),
                "decoded_share_of_files": statistics.median(np.divide(loads[name], loads["files"])),
            }
            for name in sources
        ],
    }


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

# One program for each peer: reads a list of [path, start, seconds or null] from stdin, line by line, and answers with
# the seconds that it took to have all as 16 kHz mono samples, and how many these are.
PEER = """
import json, sys, time
sys.stdout, answers = sys.stderr, sys.stdout
{imports}
def load(path, start, seconds):
{load}
for line in sys.stdin:
    started, total = time.perf_counter(), 0
    for path, start, seconds in json.loads(line):
        total += len(load(path, start, seconds))
    print(json.dumps([time.perf_counter() - started, total]), file=answers, flush=True)
"""
TORCH = "import torch; torch.set_num_threads(1)"
PROGRAMS = {
    "hf_mlpl": PEER.format(
        imports=f"{TORCH}; from hf_mlpl.audio import load_audio",
        load="    return load_audio({'path': path, 'start': start, 'end': seconds and start + seconds})",
    ),
    "datasets_torchcodec": PEER.format(
        imports=f"{TORCH}; from datasets import Audio; audio = Audio(sampling_rate=16000, num_channels=1)",
        load="    decoder = audio.decode_example({'path': path, 'bytes': None})\n"
        "    if seconds is None: return decoder.get_all_samples().data[0]\n"
        "    return decoder.get_samples_played_in_range(start, start + seconds).data[0]",
    ),
    "lhotse": PEER.format(
        imports=f"{TORCH}; from lhotse import Recording",
        load="    recording = Recording.from_file(path).resample(16000)\n"
        "    return recording.load_audio(offset=start or 0, duration=seconds)[0]",
    ),
}


class Peer:
    def __init__(self, name: str):
        python = sys.executable if name == "hf_mlpl" else PEERS / "bin" / "python"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        if name == "datasets_torchcodec":
            environment["LD_LIBRARY_PATH"] = str(PEERS / "ffmpeg")
        if name == "hf_mlpl":
            environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [python, "-c", PROGRAMS[name]],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def ask(self, tasks: list) -> tuple[float, int] | None:
        """Seconds and samples; None if it cannot."""
        try:
            self.process.stdin.write(json.dumps(tasks) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self.process.stdout.readline()
        return tuple(json.loads(answer)) if answer else None

    def why(self) -> str:
        self.errors.seek(0)
        return (self.errors.read().strip().splitlines() or ["it ended"])[-1]


def make_peers() -> None:
    if (PEERS / "complete").exists():
        return
    print(f"installing the peers into {PEERS} ...")
    venv.create(PEERS, with_pip=True, clear=True)
    subprocess.run([PEERS / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES], check=True)
    libraries = next(PEERS.glob("lib/python*/site-packages/av.libs"))
    (PEERS / "ffmpeg").mkdir()
    for path in libraries.iterdir():  # libavcodec-1a2b3c4d.so.62.11.100: its own name, and the one that is looked for
        (PEERS / "ffmpeg" / path.name).symlink_to(path)
        stem, _, version = path.name.partition(".so.")
        if stem.startswith(("libav", "libsw")):
            (PEERS / "ffmpeg" / f"{stem.partition('-')[0]}.so.{version.partition('.')[0]}").symlink_to(path)
    (PEERS / "complete").touch()


def decoding(folder: Path) -> list[dict]:
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
    peers = {name: Peer(name) for name in PROGRAMS}
    rows = []
    for what, task in tasks.items():
        rates: dict[str, list[float]] = {name: [] for name in peers}
        for number in tqdm(range(ROUNDS + 1), desc=what):
            for name, peer in peers.items():
                if (answer := peer.ask(task)) and number:  # the first warms up
                    rates[name].append(answer[1] / 16000 / answer[0])
        row = {"what": what}
        for name, of in rates.items():
            row[name] = statistics.median(of) if of else f"cannot: {peers[name].why()}"
            if of and name != "hf_mlpl":
                row[f"times_{name}"] = statistics.median(np.divide(rates["hf_mlpl"], of))
        rows.append(row)
    return rows


def main() -> None:
    make_peers()
    with tempfile.TemporaryDirectory() as folder:
        reads = random_reads(Path(folder))
        decoded = decoding(Path(folder))
    for row in (*reads["rows"], *decoded):
        print(
            "  ".join(f"{name} {value:.2f}" if isinstance(value, float) else f"{value}" for name, value in row.items())
        )
    listed = subprocess.run([PEERS / "bin" / "pip", "freeze"], capture_output=True, text=True).stdout.splitlines()
    names = {requirement.partition("=")[0].partition(">")[0] for requirement in PACKAGES}
    versions = {"python": platform.python_version(), "soundfile": soundfile.__version__}
    peers = {name: version for name, _, version in (line.partition("==") for line in listed) if name in names}
    path = Path(__file__).parent / "results" / "audio.json"
    machine = {"processor": platform.machine(), "threads": 1, **versions}
    write_json(path, {"machine": machine, "peers": peers, "rounds": ROUNDS, "reads": reads, "decoding": decoded})
    print(f"results: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    main()
