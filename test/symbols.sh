#!/bin/sh
# The header, the symbol map and the shared library name the same functions, and nothing else is exported.
set -eu
cd "$(dirname "$0")/.."
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

sed -n 's/.*\bAWQ_API .*[ *]\(awq_[a-z0-9_]*\)(.*/\1/p' include/awq.h | sort >"$directory/header"
sed -n 's/^ *\(awq_[a-z0-9_]*\);$/\1/p' libawq/libawq.map >"$directory/map"
nm -D --defined-only "${BUILD:-build}/libawq.so" | awk '$2 != "A" { sub("@.*", "", $3); print $3 }' | sort >"$directory/library"

[ "$(wc -l <"$directory/header")" -gt 90 ] || { echo "only $(wc -l <"$directory/header") declarations found"; exit 1; }
sort -c "$directory/map"
diff -u "$directory/header" "$directory/map"
diff -u "$directory/map" "$directory/library"

# The static library may define internal names too, but none outside the project's prefixes.
strangers=$(nm --defined-only "${BUILD:-build}/libawq.a" 2>/dev/null | awk 'NF == 3 && $2 ~ /[A-Z]/ { print $3 }' |
    grep -v '^awq_\|^awqi_' | grep -v '^DW.ref\|^__odr_asan' || true)
[ -z "$strangers" ] || { echo "global names without a prefix: $strangers"; exit 1; }
