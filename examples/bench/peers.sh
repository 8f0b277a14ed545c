#!/bin/sh
# awq bench with the peers that can be had: ggml when GGML names a source tree of it, ONNX Runtime when AWQ_PYTHON
# (default python3) has it.  Arguments are for awq bench.
#
#   pip download --no-deps --no-binary llama-cpp-python llama-cpp-python    # carries ggml under vendor/llama.cpp/ggml
#   pip install onnxruntime onnx
set -eu
build=${BUILD:-build}
here=$(dirname "$0")
python=${AWQ_PYTHON:-python3}

if [ -n "${GGML:-}" ]; then
    # shellcheck disable=SC2153
    cmake -S "$here" -B "$build/peers" -DGGML="$(realpath "$GGML")" >"$build/peers.log" 2>&1 &&
        cmake --build "$build/peers" --target peer_ggml -j "${JOBS:-2}" >>"$build/peers.log" 2>&1 || {
        tail -n 20 "$build/peers.log"
        echo "ggml: it cannot be built; $build/peers.log says more"
        exit 1
    }
    set -- --peer "$build/peers/peer_ggml q4_0" "$@"
else
    echo "ggml takes no part: GGML names no source tree of it"
fi
if "$python" -c "import onnxruntime, onnx, numpy" 2>/dev/null; then
    set -- --peer "$python $here/peer_onnxruntime.py 4" --peer "$python $here/peer_onnxruntime.py 1" "$@"
else
    echo "ONNX Runtime takes no part: $python lacks onnxruntime, onnx or numpy"
fi
exec "$build/awq" bench --json "$build/bench-peers.json" --svg "$build/bench-peers.svg" "$@"
