#!/bin/sh
# A program compiled against the oldest header, and one against a header of the future, run with today's library.
set -eu
cd "$(dirname "$0")/../.."
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
build=${BUILD:-build}

# In the future every struct that knows its size has grown.
sed -E 's/^\} awq_[a-z_]*_(options|info|result|request);/    uint64_t later[3];\n&/' include/awq.h \
    >"$directory/awq-future.h"
[ "$(grep -c 'later\[3\]' "$directory/awq-future.h")" -gt 10 ]

for header in test/abi/awq-0.1.h "$directory/awq-future.h"; do
    # shellcheck disable=SC2086
    ${CC:-cc} -std=c11 -Wall -Wextra -Werror ${SANITIZE:-} -DAWQ_HEADER="\"$(realpath "$header")\"" \
        test/abi/program.c -o "$directory/program" -L"$build" -lawq -Wl,-rpath,"$(realpath "$build")"
    "$directory/program"
done
