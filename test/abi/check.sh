#!/bin/sh
# Programs compiled against the oldest header keep working with this library: see docs/abi.md.
#
#   check.sh [LIBRARY HEADER]
#
# Two witnesses.  header.py compares the headers, with the constants, which leave no trace in a library; abidiff
# compares the library with the recorded one, by what the compiler wrote about its types.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
library=${1:-${BUILD:-build}/libawq.so}
header=${2:-$root/include/awq.h}
abi=$root/test/abi
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

[ -z "${SANITIZE:-}" ] || { echo "the sanitizers' library is nobody's interface"; exit 77; }
command -v python3 >/dev/null || { echo "there is no python3"; exit 77; }
python3 "$root/test/ffi/header.py" facts "$abi/awq-0.1.h" >"$directory/old"
python3 "$root/test/ffi/header.py" facts "$header" >"$directory/new"
broken=
python3 "$root/test/ffi/header.py" compare "$directory/old" "$directory/new" || broken="$broken header"

missing=
command -v abidiff >/dev/null || missing="abidiff (abigail-tools) is not installed"
readelf -h "$library" | grep -q 'Machine:.*X86-64' || missing="the library was recorded for another processor"
if [ -z "$missing" ]; then
    abidiff --no-added-syms --suppressions "$abi/awq.suppr" --exported-interfaces-only "$abi/awq.abi" "$library" ||
        broken="$broken library"
fi
if [ -n "$broken" ]; then
    echo "If the interface has to change, read docs/abi.md; make abi-baseline records it anew."
    echo "broken:$broken"
    exit 1
fi
[ -z "$missing" ] || { echo "the headers agree; $missing"; exit 77; }
