"""What the benchmarks rest on: the guard's comparison, workers, and results of one shape; no timings."""

import json
import re
import subprocess
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _as_scripts_see_it(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_a_ratio_may_fall_to_four_fifths():
    from check import compare

    before = {"kept": 2.0, "just": 2.0, "fell": 2.0, "gone": 2.0}
    rows = compare(before, {"kept": 3.0, "just": 1.6, "fell": 1.59, "more": 1.0})
    verdicts = {"kept": "", "just": "", "fell": "worse", "gone": "worse", "more": "new"}
    assert {row["ratio"]: row["verdict"] for row in rows} == verdicts
    assert [row["share"] for row in rows][:2] == [1.5, 0.8]


@pytest.mark.parametrize(
    ("runs", "needed", "worse"),
    [
        ([{"a": 2.0, "b": 2.0}], 1, []),
        ([{"a": 1.0, "b": 2.0}, {"a": 2.0, "b": 1.0}], 2, []),  # each was good once
        ([{"a": 1.0, "b": 2.0}, {"a": 1.5, "b": 2.0}], 2, ["a"]),
        ([{"b": 2.0}, {"b": 2.0}], 2, ["a"]),
    ],
)
def test_a_benchmark_that_falls_short_is_run_once_more(runs, needed, worse):
    from check import check

    left = list(runs)
    rows = check({"a": 2.0, "b": 2.0}, lambda: left.pop(0))
    assert len(runs) - len(left) == needed
    assert [row["ratio"] for row in rows if row["verdict"] == "worse"] == worse


def test_candidates_take_turns_and_warm_up():
    from side_by_side import in_turns, ratio

    calls = []

    def candidate(name, factor):
        def measure():
            calls.append(name)
            return factor * len(calls)

        return measure

    measured = in_turns({"a": candidate("a", 1.0), "b": candidate("b", 10.0)}, rounds=3)
    assert calls == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert measured == {"a": [4.0, 5.0, 8.0], "b": [30.0, 60.0, 70.0]}
    assert ratio(measured["b"], measured["a"]) == 8.75


def test_a_worker_answers_and_its_death_is_explained():
    from side_by_side import Worker, WorkerError

    program = "print('loud')\nhoard = b'x' * 2**26\ndef answer(request):\n    return 1 / request"
    with Worker("peer", program, threads=1) as worker:
        told = worker.ask(4)
        assert told["answer"] == 0.25 and told["seconds"] > 0 and 64 < told["peak_mb"] < 512
        with pytest.raises(WorkerError, match="peer: ZeroDivisionError"):
            worker.ask(0)


def test_results_have_one_shape(tmp_path, capsys):
    from side_by_side import versions, write_results

    rows = [{"length": 1.5, "ours": 2}, {"length": 2.5, "peer": "cannot"}]
    write_results(tmp_path, "name", 3, rows, {"ours over peer": 1.25}, {"hf_mlpl": versions(["soundfile"])})
    written = json.loads((tmp_path / "name.json").read_text())
    assert written["rows"] == rows and written["ratios"] == {"ours over peer": 1.25} and written["rounds"] == 3
    assert written["machine"]["cores"] >= 1 and {"torch", "soundfile"} <= written["versions"]["hf_mlpl"].keys()
    table = [line.split() for line in capsys.readouterr().out.splitlines()[:4]]
    assert table == [["length", "ours"], ["1.5", "2"], ["length", "peer"], ["2.5", "cannot"]]


@pytest.mark.parametrize("name", sorted(path.stem for path in (BENCHMARKS / "results").glob("*.json")))
def test_committed_results_are_what_scripts_write(name):
    committed = json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())
    if name == "old_port":
        return  # of no benchmark: it measures no speed
    assert (BENCHMARKS / f"bench_{name}.py").is_file()
    assert committed.keys() == {"machine", "versions", "rounds", "rows", "ratios"}
    assert all(value > 0 for value in committed["ratios"].values())


def test_what_is_checked_has_committed_results():
    shown = subprocess.run(["make", "--dry-run", "bench-check"], cwd=BENCHMARKS.parent, capture_output=True, text=True)
    names = re.findall(r"bench_(\w+)\.py", shown.stdout)
    assert len(names) > 3
    assert not [name for name in names if not (BENCHMARKS / "results" / f"{name}.json").is_file()]


SHOW_HELP = """
import contextlib, io, runpy, sys
sys.path.insert(0, "benchmarks")  # as Python does for a script
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        runpy.run_path("benchmarks/" + script, run_name="__main__")
    assert out.getvalue().startswith("usage:"), script
    assert script.endswith("_error.py") or "results" in out.getvalue(), script  # these print a table alone
"""


@pytest.mark.slow
def test_scripts_explain_themselves(quick_python):
    scripts = [path.name for path in sorted(BENCHMARKS.glob("*.py")) if "__main__" in path.read_text()]
    assert "check.py" in scripts and len(scripts) > 5
    told = subprocess.run(
        [quick_python, "-c", SHOW_HELP, *scripts], cwd=BENCHMARKS.parent, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize("frames", [[33], [20, 7, 33]])
def test_operations_are_those_that_pytorch_counts(frames):
    """Counts without gradients, so that padding costs nothing, and without the language head, which is left out."""
    import torch
    from large_model import operations
    from torch.utils.flop_counter import FlopCounterMode

    from hf_mlpl import MlplConfig, MlplForCTC

    config = MlplConfig.tiny(30, [], num_attention_heads=3)
    model = MlplForCTC._from_config(config, attn_implementation="eager").eval()
    alone = [torch.randn(1, 3 * n, 80) for n in frames]  # the convolution alone is computed with padding
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for features in alone:
            model(features)
    first_frames = len(frames) * 2 * config.hidden_size * config.vocab_size  # of which the head makes its blank
    assert operations(config, frames) == counter.get_total_flops() - first_frames


@pytest.mark.slow
def test_the_gpu_benchmark_runs_without_one(quick_python):
    """Runs it in both precisions, with a real label job, and looks for the tests that the script of checks names."""
    command = [quick_python, BENCHMARKS / "bench_gpu.py", "--tiny", "--rounds", "1", "--batch-size", "1"]
    command += ["--train-batch-size", "1", "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for dtype in ("bfloat16", "float32"):
        for what in ("matrix products", "inference, eager", "training, eager", "label job"):
            assert f"\n{what}, {dtype}" in "\n" + done.stdout, (what, dtype)
    script = (BENCHMARKS / "gpu_checks.sh").read_text()
    for path, name in re.findall(r"(tests/\S+\.py)(?:::(\w+))?", script):
        assert f"def {name}" in (BENCHMARKS.parent / path).read_text()
