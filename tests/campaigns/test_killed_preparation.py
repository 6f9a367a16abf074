"""Kills a preparation, as `kill -9` does, before each change of its output folder, and gives the command again.

What then lies there equals what an uninterrupted preparation leaves: the same files with the same bytes. Where more
than `MOST` changes are made, as many of them are chosen, evenly spread. Prints how many kills there were.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaigns.killing import KILLED, events_of, run_killed_at, spread
from tests.packing import pack_archives

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
MOST = int(os.environ.get("MOST_KILLS", 25))  # two runs of some seconds each


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("packed", [False, True], ids=["extracted", "archives"])
def test_a_killed_preparation_ends_as_an_uninterrupted_one(tone_corpus, tmp_path, packed):
    release, output = tone_corpus / "common-voice", tmp_path / "data"
    if packed:
        release = pack_archives(release, tmp_path / "downloads", ".tar")
    command = [sys.executable, "-W", "ignore", ROOT / "recipes" / "prepare_data.py", "--output", output]
    command += ["--common-voice", release, "--voxpopuli", tone_corpus / "voxpopuli"]
    events = events_of(command, output)
    expected = content(output)
    numbers = spread(len(events), MOST // 2)
    for number in numbers:
        shutil.rmtree(output)
        assert run_killed_at(command, number, output) == KILLED, events[number - 1]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, (events[number - 1], done.stderr)
        assert content(output) == expected, events[number - 1]
    print(f"\n{len(events)} changes of the folder, killed before {len(numbers)} of them, 0 differences")
