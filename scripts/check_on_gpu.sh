#!/usr/bin/env bash
# Everything that needs a GPU, in one go: the tests marked gpu, and the closed loop of the shipped model against its
# reference dump in fp32, tf32 and fp16. Leaves artifacts/trt/*.json. Exits 3 where there is no GPU.
#   scripts/check_on_gpu.sh [tensorrt|tensorrt_rtx]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin=${BIN:-.venv/bin}
runtime=${1:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=artifacts/trt

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

"$bin"/python -m pytest -m gpu -rs tests

data=src/streamparity/data
"$bin"/streamparity dump $data/demo.nemo --audio $data/medium.wav --att-context 70,1 --noise-floor --out "$work/reference"
"$bin"/streamparity export $data/demo.nemo --att-context 70,1 --out "$work/export"
mkdir -p $out
cp "$work/device.json" $out/device.json

# A fail is a finding, and is kept: what must not happen is that a command cannot be run.
run() {
    local name=$1
    shift
    local code=0
    "$bin"/streamparity run --backend trt --model "$work/export" --reference "$work/reference" \
        --allow-unmatched '*' --json "$out/$name.json" "$@" || code=$?
    if [ $code -gt 1 ]; then exit $code; fi
    echo "$name: exit $code"
}
for precision in fp32 tf32 fp16; do
    "$bin"/streamparity build "$work/export/encoder.onnx" --out "$work/export/encoder.engine" --force \
        --runtime "$runtime" "${target[@]}" --precision $precision --taps 'encoder.layers.?.conv' --taps 'encoder.layers.?.self_attn'
    "$bin"/streamparity build "$work/export/decoder_joint.onnx" --out "$work/export/decoder_joint.engine" --force \
        --runtime "$runtime" "${target[@]}"
    run $precision --taps 'encoder.layers.?.conv' --taps 'encoder.layers.?.self_attn'
    "$bin"/streamparity inspect "$work/export/encoder.engine" --json "$out/inspect-$precision.json" > /dev/null
done
rm "$work/export"/encoder.taps.engine*
run fp16-cuda-graph -o cuda_graph=1 -o device=cuda-python

# Does this GPU run what was built ahead of time for another? Either answer is the finding.
if [ "$runtime" = tensorrt_rtx ]; then
    "$bin"/streamparity build "$work/export/encoder.onnx" --out "$work/export/encoder.engine" --force --runtime "$runtime" --target sm80
    "$bin"/streamparity inspect "$work/export/encoder.engine" --json "$out/built-for-sm80.json" > /dev/null || true
fi
ls -l $out
