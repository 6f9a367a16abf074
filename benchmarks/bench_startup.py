"""How long until something happens? Imports and --help, and loading the large model from its safetensors file.

    python benchmarks/bench_startup.py

Each measurement is a process of its own, its start included in the first part. The peer of the import is
`import transformers`, which every user of its Auto classes waits for anyhow. The peer of loading is reading a file of
that size through a small buffer, 4.2 GB of random weights in a temporary folder. Loading maps the file and reads
nothing, so one number of each page of the weights is added up too: that is what the first batch would wait for. "Cold"
is with the file dropped from the system's cache, as far as the system does what it is asked.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from side_by_side import alone, benchmark_arguments, in_turns, print_table, ratio, seconds, versions, write_results

from hf_mlpl import MlplConfig, MlplForCTC

ROUNDS, LOADS = 3, {"cached": 5, "cold": 2}
ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {
    "python": ["-c", ""],
    "import transformers": ["-c", "import transformers"],
    "import hf_mlpl": ["-c", "import hf_mlpl"],
    "from hf_mlpl import MlplForCTC": ["-c", "from hf_mlpl import MlplForCTC"],
    "from transformers import PreTrainedModel": ["-c", "from transformers import PreTrainedModel"],
    "hf-mlpl --help": ["-m", "hf_mlpl.cli.main", "--help"],
    "recipes/train.py --help": ["recipes/train.py", "--help"],
}
PAGE = 1024  # floats


def start(arguments: list[str]) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *arguments], check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


def write_large_model(folder: Path) -> None:
    with torch.device("meta"):
        model = MlplForCTC(MlplConfig.large(8065, [f"language {number}" for number in range(60)]))
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(folder)


def read(path: Path) -> float:
    buffer = bytearray(2**24)
    with open(path, "rb", buffering=0) as file:
        return seconds(lambda: sum(iter(lambda: file.readinto(buffer), 0)))


def load(folder: Path) -> float:
    def with_all_pages():
        model = MlplForCTC.from_pretrained(folder)
        return sum(parameter.detach().view(-1)[::PAGE].sum() for parameter in model.parameters())

    return seconds(with_all_pages)


def measure(what, path: Path, cold: bool) -> float:
    with open(path / "model.safetensors" if path.is_dir() else path, "rb") as file:
        if cold:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return alone(what, path)[0]


def main() -> None:
    options = benchmark_arguments(__doc__).parse_args()
    started = in_turns({name: partial(seconds, start, of) for name, of in COMMANDS.items()}, ROUNDS)
    rows = [{"what": name, "seconds": statistics.median(of)} for name, of in started.items()]
    print_table(rows)
    ratios = {
        "import transformers over import hf_mlpl": ratio(started["import transformers"], started["import hf_mlpl"]),
        "import transformers over hf-mlpl --help": ratio(started["import transformers"], started["hf-mlpl --help"]),
        "import transformers over train.py --help": ratio(
            started["import transformers"], started["recipes/train.py --help"]
        ),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_large_model(folder)
        os.sync()
        for how, cold in (("cached", False), ("cold", True)):
            candidates = {
                f"read 4.2 GB, {how}": partial(measure, read, folder / "model.safetensors", cold),
                f"load the large model, {how}": partial(measure, load, folder, cold),
            }
            measured = in_turns(candidates, LOADS[how])
            rows += [{"what": name, "seconds": statistics.median(of)} for name, of in measured.items()]
            ratios[f"reading over loading, {how}"] = ratio(*measured.values())
    write_results(options.results, "startup", ROUNDS, rows, ratios, {"hf_mlpl": versions(["safetensors"])})


if __name__ == "__main__":
    main()
