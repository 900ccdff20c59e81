#!/usr/bin/env bash
# Everything that needs a GPU, in one go: the closed loop of the shipped model against its reference dump in fp32, tf32
# and fp16, then the tests marked gpu. Leaves artifacts/trt/*.json, the tests' log and junit among them. Whatever fails,
# the rest is run and kept; the worst exit code comes last. Exits 3 where there is no GPU.
#   scripts/check_on_gpu.sh [tensorrt|tensorrt_rtx]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin=${BIN:-.venv/bin}
runtime=${1:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=${OUT:-artifacts/trt}

"$bin"/python - "$work/device.json" $runtime <<'PYTHON'
import json
import sys

from streamparity.errors import StreamparityError
from streamparity.tensorrt.device import open_device
from streamparity.tensorrt.module import load_module

try:
    module, device = load_module(sys.argv[2] if len(sys.argv) > 2 else None), open_device()
except StreamparityError as error:
    print(f"error: {error.message}\n  try: {error.hint}", file=sys.stderr)
    sys.exit(error.exit_code)
with open(sys.argv[1], "w") as file:
    json.dump({"runtime": module.name, "version": module.version, **device.describe()}, file, indent=1)
PYTHON
cat "$work/device.json"
runtime=$("$bin"/python -c 'import json, sys; print(json.load(open(sys.argv[1]))["runtime"])' "$work/device.json")
target=()
if [ "$runtime" = tensorrt_rtx ]; then target=(--target current); fi

data=src/streamparity/data
"$bin"/streamparity dump $data/demo.nemo --audio $data/medium.wav --att-context 70,1 --noise-floor --out "$work/reference"
"$bin"/streamparity export $data/demo.nemo --att-context 70,1 --out "$work/export"
mkdir -p "$out"
cp "$work/device.json" "$out/device.json"

# Exit code of a step, said and remembered; the next step runs all the same.
worst=0
step() {
    local name=$1 code=0
    shift
    "$@" || code=$?
    echo "$name: exit $code" | tee -a "$work/codes"
    if [ $code -gt $worst ]; then worst=$code; fi
    return $code
}
# A verdict of fail is a finding, and is kept: only a run that could not be made counts.
run() {
    local name=$1 code=0
    shift
    "$bin"/streamparity run --backend trt --model "$work/export" --reference "$work/reference" \
        --allow-unmatched '*' --json "$out/$name.json" "$@" || code=$?
    echo "verdict of $name: exit $code" | tee -a "$work/codes"
    if [ $code -gt 1 ]; then return $code; fi
}
build() {
    local graph=$1
    shift
    "$bin"/streamparity build "$work/export/$graph.onnx" --out "$work/export/$graph.engine" --force --runtime "$runtime" "$@"
}
inspect() {
    "$bin"/streamparity inspect "$work/export/encoder.engine" --json "$out/$1.json" > /dev/null
}
taps=(--taps 'encoder.layers.?.conv' --taps 'encoder.layers.?.self_attn')
for precision in fp32 tf32 fp16; do
    step "build of $precision" build encoder "${target[@]}" --precision $precision "${taps[@]}" || continue
    step "build of the decoder" build decoder_joint "${target[@]}" || continue
    step $precision run $precision "${taps[@]}" || true
    step "inspect of $precision" inspect "inspect-$precision" || true
done
rm -f "$work/export"/encoder.taps.engine*
step fp16-cuda-graph run fp16-cuda-graph -o cuda_graph=1 -o device=cuda-python || true

# Does this GPU run what was built ahead of time for another? Either answer is the finding.
if [ "$runtime" = tensorrt_rtx ] && step "build for sm80" build encoder --target sm80; then
    inspect built-for-sm80 || true
fi

tests() {
    "$bin"/python -m pytest -m gpu -rs --junitxml "$out/gpu-tests.xml" tests 2>&1 | tee "$out/gpu-tests.log"
}
step "tests marked gpu" tests || true
cp "$work/codes" "$out/exit-codes.txt"
ls -l "$out"
exit $worst
