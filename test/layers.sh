#!/bin/sh
# Who may include whom: the core knows the seam but no device, devices know the seam but not each other, and examples know awq.h
# only, as any program outside does.
set -eu
cd "$(dirname "$0")/.."
failed=0

# Files of $1 (a glob list) include no header that matches $2, an extended regular expression over the quoted name.
forbid() {
    for file in $1; do
        [ -e "$file" ] || continue
        if grep -nE "^#include \"($2)\"" "$file"; then
            echo "  in $file: $3"
            failed=1
        fi
    done
}

forbid "libawq/*.c libawq/*.h libawq/layout/*.c libawq/layout/*.h" "(\.\./)*cpu/.*" "the core reaches into the CPU backend"
forbid "libawq/*.c libawq/*.h libawq/*/*.c libawq/*/*.h" ".*cuda.*" "CUDA lives behind the seam"
forbid "libawq/cpu/*.c libawq/cpu/*.h" "(\.\./)?(search|calibration|checkpoint|archive)\.h" "a kernel asks the core"
forbid "cuda/*" "(\.\./)*(libawq/)?cpu/.*" "one backend reaches into another"
forbid "examples/*.c examples/*/*.c examples/*/*.cc examples/*/*.h" "(.*/)?(internal|backend|weight|search|calibration|cpu|layout)\.h" \
    "an example reaches into the library"
forbid "examples/*.c examples/*/*.c examples/*/*.h" "\.\./.*" "an example reaches out of its folder"
exit $failed
