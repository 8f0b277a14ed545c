#!/bin/sh
# Compare GGUF files with the packages gguf and xllamacpp, where the Python in AWQ_PYTHON has them.
cd "$(dirname "$0")/.." || exit 1
python=${AWQ_PYTHON:-python3}
command -v "$python" >/dev/null || { echo "there is no $python"; exit 77; }
exec "$python" test/interop/gguf_compare.py "${BUILD:-build}/awq" examples/models/docs-6m
