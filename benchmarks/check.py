"""Are we still as far ahead as the committed results say? Runs benchmarks, and compares ratios, never times.

    python benchmarks/check.py bench_features.py bench_batches.py

A ratio may fall to 80 % of the committed one. A benchmark in which one falls further is run again, because machines
are noisy, and of each ratio the better value counts. Exits with 1 if one is still below.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from side_by_side import RESULTS, machine, print_table

LEAST = 0.8


def compare(committed: dict[str, float], measured: dict[str, float]) -> list[dict]:
    """A row for each ratio; `share` is what is left of the committed one, 0 where it was not measured any more."""
    rows = []
    for name in {**committed, **measured}:
        before, now = committed.get(name), measured.get(name)
        share = None if before is None else (now or 0.0) / before
        verdict = "new" if share is None else "worse" if share < LEAST else ""
        rows.append({"ratio": name, "committed": before, "now": now, "share": share, "verdict": verdict})
    return rows


def check(committed: dict[str, float], measure) -> list[dict]:
    """`compare`, with a second chance: of two runs of `measure`, which returns ratios, the better of each counts."""
    measured = measure()
    rows = compare(committed, measured)
    if any(row["verdict"] == "worse" for row in rows):
        again = measure()
        best = {name: max(of.get(name, 0.0) for of in (measured, again)) for name in measured | again}
        rows = compare(committed, best)
    return rows


def run(script: Path) -> dict[str, float]:
    print(f"== {script.name}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, script, "--results", folder], check=True)
        return json.loads(results_of(script, Path(folder)).read_text(encoding="utf-8"))["ratios"]


def results_of(script: Path, folder: Path = RESULTS) -> Path:
    return folder / f"{script.stem.removeprefix('bench_')}.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", nargs="+", help="names of benchmarks that have committed results")
    scripts = [RESULTS.parent / Path(name).name for name in parser.parse_args().scripts]
    committed = {script: json.loads(results_of(script).read_text(encoding="utf-8")) for script in scripts}
    rows, this = [], machine()
    for script in scripts:
        known = committed[script]
        rows += [{"benchmark": script.stem} | row for row in check(known["ratios"], lambda s=script: run(s))]
        if (known["machine"]["cpu"], known["machine"]["isa"]) != (this["cpu"], this["isa"]):
            print(f"note: the committed results are of {known['machine']['cpu']}, this is {this['cpu']}")
    print_table(rows)
    worse = [row for row in rows if row["verdict"] == "worse"]
    print(f"{len(worse)} of {len(rows)} ratios are below {LEAST:.0%} of the committed ones")
    return int(bool(worse))


if __name__ == "__main__":
    sys.exit(main())
