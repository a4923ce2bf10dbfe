#!/usr/bin/env bash
# The GPU run, in one command, on a machine without a network: unpacks the bundle that `make gpu-bundle` wrote, and leaves
# at most eight files in OUT. docs/speed.md says what it does, benchmarks/gpu.yaml how long each part may take.
#
#   benchmarks/gpu.sh                           on a GPU
#   DEVICE=cpu benchmarks/gpu.sh --rehearse     does it work? Anywhere, in a few minutes
#
# PYTHON: that of the machine, with torch. BUDGET: seconds, of all. BUNDLE, OUT: folders.
set -euo pipefail
begun=$(date +%s)
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} BUNDLE=${BUNDLE:-outputs/gpu-bundle} OUT=${OUT:-outputs/gpu}

fail() { echo "error: $1" >&2; exit 2; }
[ -f "$BUNDLE/bundle.json" ] || fail "$BUNDLE: no bundle; make gpu-bundle CORPUS=… writes one, where there is a network"
BUNDLE=$(cd "$BUNDLE" && pwd)
wanted=$(sed -n 's/.*"python": "\(.*\)".*/\1/p' "$BUNDLE/bundle.json")
found=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "$PYTHON: does not start; set PYTHON"
[ "$found" = "$wanted" ] || fail "$PYTHON is Python $found, and the bundle's wheels are for $wanted; set PYTHON"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
  --find-links "$BUNDLE/wheels" --target "$work/packages" "$BUNDLE"/wheels/*.whl
# The checkout first: it is run as it stands. The bundle tells what pip would of it.
export PYTHONPATH="$PWD:$BUNDLE:$work/packages"
# What one process has compiled the next one finds.
export TORCHINDUCTOR_CACHE_DIR="$work/inductor"
"$PYTHON" -m benchmarks.gpu --begun "$begun" --budget "${BUDGET:-0}" --device "${DEVICE:-cuda}" \
  --bundle "$BUNDLE" --work "$work" --out "$OUT" "$@"
