#!/bin/sh
# Every fuzz target on the inputs that fuzzing starts from, on those that once did harm (test/fuzz/corpus), and on some thousands
# of changes of them, the same each time.
set -u
cd "$(dirname "$0")/.."

# In memory where there is such a place: every input is a file.
directory=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d)
trap 'rm -rf "$directory"' EXIT
passed=0 failed=0
"${BUILD:-build}/test/fuzz/seeds" "$directory/seeds" || exit 1
mkdir "$directory/work"
for source in test/fuzz/*.c; do
    target=$(basename "$source" .c)
    case $target in fuzz | replay | seeds) continue ;; esac
    known="$directory/seeds/$target"
    [ ! -d "test/fuzz/corpus/$target" ] || known="$known test/fuzz/corpus/$target"
    case $target in calls) changes=3 ;; layout) changes=20 ;; structs) changes=30 ;; *) changes=100 ;; esac
    # shellcheck disable=SC2086
    if TMPDIR=$directory/work AWQ_FUZZ_KEEP="$directory/input" "${BUILD:-build}/test/fuzz/$target" $changes $known; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$target failed on this input:"
        od -A d -t x1z "$directory/input" | head -n 40
    fi
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
