#!/bin/sh
# The C++ header compiles without a warning, and the example runs.
set -eu
cd "$(dirname "$0")/../.."
build=$(realpath "${BUILD:-build}")
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
command -v "${CXX:-c++}" >/dev/null || { echo "there is no C++ compiler"; exit 77; }

# shellcheck disable=SC2086
${CXX:-c++} -std=c++17 -Wall -Wextra -Wpedantic -Wshadow -Werror ${SANITIZE:-} -Iinclude \
    examples/cpp/quantize_layer.cpp -o "$directory/quantize_layer" -L"$build" -lawq -Wl,-rpath,"$build"
"$directory/quantize_layer" "$directory/model" | tee "$directory/output"
grep -q "AWQ_ERROR_NOT_FOUND is an exception" "$directory/output"
