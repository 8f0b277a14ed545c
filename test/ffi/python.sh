#!/bin/sh
# The Python package: its declarations against the header, its tests, and the examples.
set -eu
cd "$(dirname "$0")/../.."
build=$(realpath "${BUILD:-build}")
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

python=${AWQ_PYTHON:-python3}
command -v "$python" >/dev/null || { echo "there is no Python"; exit 77; }
if [ -z "${AWQ_PYTHON:-}" ] && ! "$python" -c 'import numpy' 2>/dev/null; then
    [ -x "$build/venv/bin/python" ] || "$python" -m venv "$build/venv" >/dev/null 2>&1 || true
    python=$build/venv/bin/python
    "$python" -c 'import numpy' 2>/dev/null || "$python" -m pip install -q numpy >/dev/null 2>&1 || true
fi
"$python" -c 'import numpy' 2>/dev/null || { echo "no NumPy; AWQ_PYTHON may name a Python that has it"; exit 77; }

"$python" test/ffi/header.py ctypes include/awq.h | diff -u examples/python/awq/_declarations.py - ||
    { echo "the declarations are not those of awq.h; make bindings renews them"; exit 1; }
version=$(sed -n 's/^#define AWQ_VERSION_[A-Z]* //p' include/awq.h | paste -sd.)
grep -qx "version = \"$version\"" examples/python/pyproject.toml ||
    { echo "pyproject.toml is not of version $version"; exit 1; }

# ctypes lays structs out by rules of its own, which the compiler's must equal.
"$python" test/ffi/header.py facts include/awq.h | sort >"$directory/header"
"$python" test/ffi/ctypes_facts.py | sort >"$directory/ctypes"
grep -E '^(constant|struct|field)' "$directory/header" | sed -E 's/^(field \S+ \S+ \S+) .*/\1/' |
    diff -u - "$directory/ctypes"

# A library under the address sanitizer needs its runtime loaded first; Python leaks by design.
runtime=$(${CC:-cc} -print-file-name=libasan.so)
[ -z "${SANITIZE:-}" ] || export LD_PRELOAD="$runtime" ASAN_OPTIONS=detect_leaks=0
export AWQ_LIBRARY="$build/libawq.so" PYTHONPATH=examples/python PYTHONDONTWRITEBYTECODE=1
"$python" examples/python/quantize_layer.py
"$python" examples/python/quantize_checkpoint.py examples/models/docs-6m "$directory/model" >/dev/null
cp examples/models/docs-6m/tokenizer.model "$directory/model"
LD_PRELOAD='' "$build/awq" generate "$directory/model" --prompt "The function" --tokens 4 >/dev/null

"$python" test/ffi/test_python.py
