#!/bin/sh
# The public header compiles alone, in C11 and C++, without a warning and without padding in any struct.
set -eu
cd "$(dirname "$0")/.."
flags='-Wall -Wextra -Wpedantic -Wpadded -Werror -Iinclude -fsyntax-only'
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

echo '#include "awq.h"' >"$directory/header.c"
cp "$directory/header.c" "$directory/header.cc"
# shellcheck disable=SC2086
{
    ${CC:-cc} -std=c11 $flags "$directory/header.c"
    for standard in c++11 c++17; do ${CXX:-c++} -std=$standard $flags "$directory/header.cc"; done
}

# A struct with a hole must be noticed, or the flags above prove nothing.
echo 'struct hole { char c; double d; };' >>"$directory/header.c"
# shellcheck disable=SC2086
if ${CC:-cc} -std=c11 $flags "$directory/header.c" 2>/dev/null; then
    echo "padding went unnoticed"
    exit 1
fi
includes=$(grep '^#include' include/awq.h | sort | tr '\n' ' ')
[ "$includes" = "#include <stddef.h> #include <stdint.h> " ] || { echo "awq.h includes $includes"; exit 1; }
