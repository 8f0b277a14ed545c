#!/bin/sh
# Compare the host application's forward pass with one in NumPy, where the Python in AWQ_PYTHON has it: on random models,
# and on the embedded one.
cd "$(dirname "$0")/.." || exit 1
"${AWQ_PYTHON:-python3}" test/interop/forward_numpy.py "${BUILD:-build}/awq" examples/models/docs-6m || exit $?
