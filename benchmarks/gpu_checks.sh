#!/usr/bin/env bash
# Runs in at most 10 minutes all that needs a GPU, on one: the tests that use it, the speed of labelling and training in
# bf16 and fp32, and a real label job.
#
#     benchmarks/gpu_checks.sh [--tiny] [FOLDER]
#
# FOLDER, by default gpu-checks, gets tests.log, bench.log and gpu.json, which belongs into benchmarks/results. --tiny
# runs every line with a tiny model on whatever the machine has, to see that the script works. We had no GPU: it has run
# with --tiny alone, and there are no results yet.
set -euo pipefail
cd "$(dirname "$0")/.."
tiny=()
if [[ ${1:-} == --tiny ]]; then tiny=(--tiny --repeats 2 --rounds 1 --batch-size 1 --train-batch-size 1); shift; fi
folder=${1:-gpu-checks}
mkdir -p "$folder"

if [[ ${#tiny[@]} == 0 ]] && ! python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    echo "error: torch sees no GPU here; --tiny runs the checks without one" >&2
    exit 1
fi
nvidia-smi 2>/dev/null || echo "no GPU"
status=0
echo "1 of 2: tests, 3 minutes at most"
timeout 180 python -m pytest -m "" -rs tests/training/test_gpu.py \
    tests/model/test_feature_extraction_mlpl.py::test_features_on_a_gpu 2>&1 | tee "$folder/tests.log" || status=$?
echo "2 of 2: products, updates and label jobs, 7 minutes at most"
timeout 420 python benchmarks/bench_gpu.py --eager --results "$folder" "${tiny[@]}" 2>&1 |
    tee "$folder/bench.log" || status=$?
exit $status
