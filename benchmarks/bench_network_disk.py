"""How often is a disk asked for the parts of recordings that are labelled, where each answer takes 20 ms?

    python benchmarks/bench_network_disk.py

Prints a table and writes network_disk.json: opens, reads and KB for each of 100 utterances, in 4 recordings of ten
minutes or as members of 4 tars. Before: in the order of durations, each part of a file that is opened anew. After: in
the order of labelling, with recordings that stay open. On a disk the system calls are counted, of which a network file
system answers some from memory. On a fake store, a file system of fsspec, each open and each read waits for 20 ms, and
the seconds are those that one loader worker waits and decodes. Counts are the same on every machine.
"""

import io
import os
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import fsspec
import numpy as np
import soundfile
from bench_audio import speechlike
from fsspec.implementations.local import LocalFileSystem
from side_by_side import benchmark_arguments, versions, write_results

from hf_mlpl.audio.open_recordings import OpenRecordings
from hf_mlpl.audio.reading import stream_audio
from hf_mlpl.audio.tar_index import tar_index
from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.labels.labelling import ORDERS

RECORDINGS, PARTS, SECONDS, RATE = 4, 25, 600, 16_000
DELAY = 0.02  # seconds
counts = Counter()


class SlowFile(io.FileIO):
    def __init__(self, path: str):
        super().__init__(path)
        answer("opens", 0)

    def read(self, size: int = -1) -> bytes:
        content = super().read(size)
        answer("reads", len(content))
        return content


class SlowStore(LocalFileSystem):
    protocol = "slow"

    def _open(self, path: str, mode: str = "rb", **options) -> SlowFile:
        return SlowFile(path)


def answer(kind: str, size: int) -> None:
    time.sleep(DELAY)
    counts[kind] += 1
    counts["bytes"] += size


def system_calls(folder: str) -> Counter:
    """Counts of this process so far: reads by any library, and opens of files in a folder, by Python."""
    if not system_calls.hooked:
        system_calls.hooked = True
        sys.addaudithook(
            lambda event, values: system_calls.opens.update([str(values[0])]) if event == "open" else None
        )
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    opens = sum(number for name, number in system_calls.opens.items() if name.startswith(folder))
    return Counter(opens=opens, reads=int(lines["syscr"]), bytes=int(lines["rchar"]))


system_calls.hooked, system_calls.opens = False, Counter()


def write_recordings(folder: Path, kind: str) -> list[dict]:
    """Rows of utterances, without the folder."""
    rng, rows = np.random.default_rng(0), []
    for number in range(RECORDINGS):
        samples = np.tile(speechlike(60, RATE, number), SECONDS // 60)
        spans = np.cumsum(rng.uniform(2, 22, PARTS + 1))  # 600 s or less
        spans = list(zip(spans * min(1, SECONDS / spans[-1]), spans[1:] * min(1, SECONDS / spans[-1]), strict=False))
        path = folder / f"{number}.{kind}"
        if kind == "tar":
            with tarfile.open(path, "w") as tar:
                for i, (start, end) in enumerate(spans):
                    clip = io.BytesIO()
                    soundfile.write(clip, samples[int(start * RATE) : int(end * RATE)], RATE, format="OGG")
                    member = tarfile.TarInfo(f"{i:02d}.ogg")
                    member.size = clip.tell()
                    clip.seek(0)
                    tar.addfile(member, clip)
            index = tar_index(path)
            places = [
                {"offset": int(offset), "size": int(size), "start": None, "end": None}
                for offset, size in zip(index.offsets, index.sizes, strict=True)
            ]
        else:
            with soundfile.SoundFile(path, "w", RATE, 1) as file:
                for begin in range(0, len(samples), RATE):  # libsndfile cannot write a long ogg at once
                    file.write(samples[begin : begin + RATE])
            places = [{"offset": None, "size": None, "start": start, "end": end} for start, end in spans]
        for place, (start, end) in zip(places, spans, strict=True):
            row = {"id": f"{number}-{start:.2f}", "audio": {"path": path.name} | place, "language": "de"}
            rows.append(row | {"duration_seconds": end - start} | dict.fromkeys(["text", "speaker", "source"]))
    return rows


def measure(folder: str, rows: list[dict], order: str, recordings: OpenRecordings | None, is_slow: bool) -> dict:
    """Decodes all utterances in an order; returns what it asked for each of them, and the seconds of all."""
    for row in rows:
        row["audio"]["path"] = f"{'slow://' * is_slow}{folder}/{Path(row['audio']['path']).name}"
    write_utterances(rows, Path(folder, "utterances.parquet"))
    dataset = read_utterances([Path(folder, "utterances.parquet")])
    audio = [dataset[int(row)]["audio"] for row in ORDERS[order](dataset)]
    counts.clear()
    before, start = counts.copy() if is_slow else system_calls(folder), time.perf_counter()
    for each in audio:
        for _ in stream_audio(each, RATE, recordings):
            pass
    seconds = time.perf_counter() - start
    asked = (counts if is_slow else system_calls(folder)) - before
    if recordings is not None:
        recordings.close()
    each = {name: round(asked[name] / len(rows), 2) for name in ("opens", "reads")}
    return each | {"KB": round(asked["bytes"] / 1000 / len(rows), 1), "seconds of all": round(seconds, 2)}


def main() -> None:
    options = benchmark_arguments(__doc__).parse_args()
    fsspec.register_implementation("slow", SlowStore)
    table, ratios = [], {}
    for kind in ("ogg", "flac", "wav", "tar"):
        with TemporaryDirectory() as folder:
            rows = write_recordings(Path(folder), kind)
            part = sum(os.path.getsize(Path(folder, f"{number}.{kind}")) for number in range(RECORDINGS)) / 1000
            for disk, is_slow in (("disk", False), ("store, 20 ms", True)):
                if kind == "tar" and is_slow:
                    continue  # a tar in a store is kept open, and asked once for each member, in either way
                before = measure(folder, rows, "duration", None, is_slow)
                after = measure(folder, rows, "duration bucket, recording", OpenRecordings(), is_slow)
                for way, found in (("before", before), ("after", after)):
                    row = {"recordings": kind, "where": disk, "way": way} | found
                    table.append(row | {"KB stored": round(part / len(rows), 1)})
                asked = [found["opens"] + found["reads"] for found in (before, after)]
                ratios[f"{kind}, {disk}: fewer requests"] = asked[0] / asked[1]
    write_results(options.results, "network_disk", 1, table, ratios, {"hf_mlpl": versions(["soundfile", "fsspec"])})


if __name__ == "__main__":
    main()
