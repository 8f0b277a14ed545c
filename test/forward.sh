#!/bin/sh
# Compare the host application's forward pass with one in NumPy, where the Python in AWQ_PYTHON has it: on random models,
# and on the embedded one.
cd "$(dirname "$0")/.." || exit 1
python=${AWQ_PYTHON:-python3}
command -v "$python" >/dev/null || { echo "there is no $python"; exit 77; }
exec "$python" test/interop/forward_numpy.py "${BUILD:-build}/awq" examples/models/docs-6m
