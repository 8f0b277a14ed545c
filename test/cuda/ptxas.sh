#!/bin/sh
# No kernel keeps registers in memory: ptxas reports no spill and no stack frame, for each architecture.
#
#   ptxas.sh ARCH...          NVCC and NVCCFLAGS as in the Makefile
set -eu
cd "$(dirname "$0")/../.."
output=$(mktemp)
trap 'rm -f "$output"' EXIT
failed=0
for source in cuda/*.cu; do
    for arch in "$@"; do
        "${NVCC:-nvcc}" -std=c++17 -Iinclude -Ilibawq -Icuda ${NVCCFLAGS:--O3} -arch="sm_$arch" -cubin -o /dev/null -Xptxas -v \
            "$source" >"$output" 2>&1 || { cat "$output"; exit 1; }
        spilled=$(awk '/Compiling entry function/ { name = $7 }
            /bytes stack frame/ && ($1 || $5 || $9) { print "  " name ": " $0 }' "$output")
        most=$(sed -n 's/.*Used \([0-9]*\) registers.*/\1/p' "$output" | sort -n | tail -n 1)
        echo "$source for $arch: $(grep -c 'Used [0-9]* registers' "$output") kernels, at most $most registers"
        [ -z "$spilled" ] || { echo "$spilled"; failed=1; }
    done
done
exit $failed
