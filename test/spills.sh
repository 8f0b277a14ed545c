#!/bin/sh
# No compiler keeps a hot loop's sums on the stack: in the object code of the x86 kernels, an innermost loop that multiplies
# vectors neither loads nor stores one relative to the stack pointer, nor to the frame pointer where that is what %rbp is.
#
#   test/spills.sh [FILE.c...]        with gcc and clang, those that are there
set -eu
cd "$(dirname "$0")/.."
command -v objdump >/dev/null || { echo "there is no objdump"; exit 77; }
[ "$(uname -m)" = x86_64 ] || { echo "not on this architecture"; exit 77; }
[ $# -gt 0 ] || set -- libawq/cpu/gem[mv]_avx*.c libawq/cpu/linear_avx512.c
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

cat >"$directory/loops.awk" <<'END'
function number(hex,   i, value) {
    value = 0
    for (i = 1; i <= length(hex); i++) value = 16 * value + index("0123456789abcdef", substr(hex, i, 1)) - 1
    return value
}
# Backward jumps close loops; a loop is innermost when no other lies inside it.  What is hot are dot products of integers or
# BF16 where a function has any, since it then adds in single precision only once in a while; else fused multiply-adds.
function finish(   i, j, inner, hot, spilled) {
    for (i = 0; i < loops; i++) {
        inner = 1
        for (j = 0; j < loops; j++)
            if (j != i && first[j] >= first[i] && last[j] <= last[i] && last[j] - first[j] < last[i] - first[i]) inner = 0
        if (!inner) continue
        hot = 0
        spilled = ""
        for (j = 0; j < lines; j++) {
            if (at[j] < first[i] || at[j] > last[i]) continue
            if (text[j] ~ (dots ? "vdpbf16ps|vpdpbusd|vpmaddubsw" : "vfn?madd[0-9]*ps.*[yz]mm")) hot = 1
            if (text[j] ~ /[yz]mm/ && (text[j] ~ /\(%rsp/ || (framed && text[j] ~ /\(%rbp/))) spilled = spilled "\n    " text[j]
        }
        checked += hot
        if (hot && spilled != "") {
            print "  " name ": a loop of " last[i] - first[i] " bytes uses the stack:" spilled
            failed = 1
        }
    }
}
/^[0-9a-f]+ <.*>:$/ { finish(); name = $2; lines = loops = framed = dots = 0; next }
/^ *[0-9a-f]+:/ {
    address = $1
    sub(/:.*/, "", address)
    at[lines] = number(address)
    text[lines++] = $0
    if ($0 ~ /mov +%rsp,%rbp/) framed = 1
    if ($0 ~ /vdpbf16ps|vpdpbusd|vpmaddubsw/) dots = 1
    if ($2 ~ /^j/ && $3 ~ /^[0-9a-f]+$/ && number($3) <= number(address)) {
        first[loops] = number($3)
        last[loops++] = number(address)
    }
}
END { finish(); print "  " checked + 0 " loops"; exit failed }
END

failed=0 compilers=0
for compiler in gcc clang; do
    command -v "$compiler" >/dev/null || continue
    compilers=$((compilers + 1))
    for file in "$@"; do
        echo "$compiler $file"
        "$compiler" -std=c11 -D_GNU_SOURCE -Iinclude -ffp-contract=off -fno-math-errno -fPIC -O3 -c "$file" -o "$directory/object.o"
        objdump -d --no-show-raw-insn "$directory/object.o" | awk -f "$directory/loops.awk" || failed=1
    done
done
[ $compilers -gt 0 ] || { echo "there is neither gcc nor clang"; exit 77; }
exit $failed
