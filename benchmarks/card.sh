#!/bin/sh
# On a machine with a GPU, torch, transformers, peft and pytest, from the source tree alone and without a network:
# the tests marked gpu, then the benchmark. What they say goes to $OUT (build/card by default).
set -u
cd "$(dirname "$0")/.."
OUT=${OUT:-build/card}
DEVICE=${DEVICE:-cuda}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
export PYTHONPATH=src PYTHONUNBUFFERED=1 FEDLORA_TEST_DEVICE="$DEVICE"
"$PYTHON" -m pytest tests/gpu --noconftest -p no:cacheprovider -W ignore -m gpu > "$OUT/tests.txt" 2>&1
tests=$?
tail -n 40 "$OUT/tests.txt"
"$PYTHON" benchmarks/gpu.py "$OUT/gpu.json" "$DEVICE" "$@" > "$OUT/benchmark.txt" 2>&1
benchmark=$?
tail -n 60 "$OUT/benchmark.txt"
echo "tests ended with $tests, the benchmark with $benchmark; see $OUT"
[ "$tests" -eq 0 ] && [ "$benchmark" -eq 0 ]
