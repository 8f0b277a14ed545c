#!/bin/sh
# Install into an empty place, then build and run the lessons from there with nothing but pkg-config's word, shared and static.
set -eu
cd "$(dirname "$0")/.."
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

make -s BUILD="${BUILD:-build}" CC="${CC:-cc}" DESTDIR="$directory" PREFIX=/usr install >/dev/null
for file in include/awq.h lib/libawq.so lib/libawq.a lib/pkgconfig/awq.pc bin/awq; do
    [ -e "$directory/usr/$file" ] || { echo "not installed: $file"; exit 1; }
done

# The .pc file names no place of its own, so the tree may be moved.
mv "$directory/usr" "$directory/moved"
export PKG_CONFIG_PATH="$directory/moved/lib/pkgconfig"
[ "$(pkg-config --modversion awq)" = "$(sed -n 's/^#define AWQ_VERSION_[A-Z]* //p' include/awq.h | paste -sd.)" ]

for lesson in examples/[0-9]*.c; do
    # shellcheck disable=SC2046
    ${CC:-cc} -std=c11 -D_GNU_SOURCE ${SANITIZE:-} "$lesson" -o "$directory/shared" $(pkg-config --cflags --libs awq) -lm
    LD_LIBRARY_PATH="$directory/moved/lib" "$directory/shared" >"$directory/shared.out"
    # shellcheck disable=SC2046
    ${CC:-cc} -std=c11 -D_GNU_SOURCE ${SANITIZE:-} "$lesson" -o "$directory/static" $(pkg-config --cflags awq) "$directory/moved/lib/libawq.a" \
        $(pkg-config --static --libs-only-l awq | sed 's/-lawq//')
    "$directory/static" >"$directory/static.out"
    sed -i 's/ *[0-9.]* us$//' "$directory/shared.out" "$directory/static.out" # times differ
    diff "$directory/shared.out" "$directory/static.out"
done
LD_LIBRARY_PATH="$directory/moved/lib" "$directory/moved/bin/awq" --version >/dev/null
