#!/bin/sh
# The library for AArch64, built by a cross compiler and run by qemu: the kernels of the CPU on processors with and without the
# optional instructions, then, where Debian's libraries for that architecture lie (libcmocka0:arm64 libjansson4:arm64
# zlib1g:arm64), the unit tests of what has code of its own there, or all of them.
#
#   test/aarch64.sh [all]
set -eu
cd "$(dirname "$0")/.."

compiler=$(command -v aarch64-linux-gnu-gcc) || { echo "no aarch64-linux-gnu-gcc"; exit 77; }
qemu=$(command -v qemu-aarch64 || command -v qemu-aarch64-static) || { echo "no qemu-aarch64"; exit 77; }
[ -z "${SANITIZE:-}" ] || { echo "sanitizers run natively"; exit 77; }

# A build of its own, whatever variables the make that runs this was given; what it needs was looked for above.
unset MAKEFLAGS MAKEOVERRIDES
build=${BUILD:-build}/aarch64
passed=0 failed=0 skipped=0
mkdir -p "$build"
touch "$build/deps.ok"

cross_make() { # LDFLAGS, TEST_LIBS, LIB_LIBS, targets
    flags=$1 test_libs=$2 lib_libs=$3
    shift 3
    make -s -j2 "BUILD=$build" "CC=$compiler" "CFLAGS=-O2 -g" "LDFLAGS=$flags" "TEST_LIBS=$test_libs" "LIB_LIBS=$lib_libs" "$@" \
        >"$build/log" 2>&1 || { cat "$build/log"; exit 1; }
}

# What the kernels need of the library needs none but C's.
cross_make -static "" "-ldl -lm" "$build/test/test_cpu_kernels"
for processor in cortex-a72 neoverse-n1 max; do
    echo "== kernels on $processor"
    if "$qemu" -cpu "$processor" "$build/test/test_cpu_kernels" --problems 40; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
done

tests="convert quantize_kernels statistics threads linear_kernels layout"
[ "${1:-}" != all ] || tests=$(cd test && ls test_*.c | sed 's/^test_\(.*\)\.c$/\1/;/^cpu_kernels$/d')
libraries=/usr/lib/aarch64-linux-gnu
if [ -e /lib/ld-linux-aarch64.so.1 ] && [ -e $libraries/libcmocka.so.0 ] && [ -e $libraries/libjansson.so.4 ]; then
    # shellcheck disable=SC2046
    cross_make "-L$libraries" -l:libcmocka.so.0 "-l:libjansson.so.4 -l:libz.so.1 -ldl -lm" \
        $(for name in $tests; do echo "$build/test/test_$name"; done)
    for name in $tests; do
        echo "== $name"
        "$qemu" -cpu max "$build/test/test_$name" && status=0 || status=$?
        case $status in
        0) passed=$((passed + 1)) ;;
        77) skipped=$((skipped + 1)) ;;
        *) failed=$((failed + 1)) ;;
        esac
    done
else
    echo "unit tests skipped: no libcmocka0:arm64 or libjansson4:arm64"
    skipped=$((skipped + 1))
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
