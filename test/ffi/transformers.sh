#!/bin/sh
# Load what awq quantize writes with transformers, where the Python in AWQ_PYTHON has it, and compare logits.
set -eu
cd "$(dirname "$0")/../.."
build=$(realpath "${BUILD:-build}")
[ -z "${SANITIZE:-}" ] || { echo "PyTorch does not load the sanitizers' runtime"; exit 77; }
python=${AWQ_PYTHON:-python3}
command -v "$python" >/dev/null || { echo "there is no $python"; exit 77; }
export AWQ_LIBRARY="$build/libawq.so" PYTHONPATH=examples/python PYTHONDONTWRITEBYTECODE=1
exec "$python" test/interop/transformers_load.py "$build/awq" examples/models/docs-6m
