#!/bin/sh
# An installed and then moved libawq is found by CMake, shared and static, in the versions it serves.
set -eu
cd "$(dirname "$0")/../.."
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
command -v cmake >/dev/null || { echo "cmake is not installed"; exit 77; }
[ -z "${SANITIZE:-}" ] || { echo "the sanitizers' library is not installed"; exit 77; }

make -s BUILD="${BUILD:-build}" DESTDIR="$directory" PREFIX=/usr LIBDIR=/usr/lib/any \
    install-headers install-static install-shared install-cmake >/dev/null
mv "$directory/usr" "$directory/moved"
export awq_DIR="$directory/moved/lib/any/cmake/awq"
cmake -S examples/cpp -B "$directory/build" -DCMAKE_CXX_COMPILER="${CXX:-c++}" >/dev/null
cmake --build "$directory/build" >/dev/null
for program in quantize_layer quantize_layer_static; do
    "$directory/build/$program" "$directory/$program.model" | grep "AWQ: "
done

# Whether the version that is installed serves a request for $1.
serves() {
    mkdir -p "$directory/version"
    cat >"$directory/version/CMakeLists.txt" <<END
cmake_minimum_required(VERSION 3.13)
project(version LANGUAGES NONE)
find_package(awq $1 CONFIG QUIET)
file(WRITE found "\${awq_FOUND}")
END
    (cd "$directory/version" && cmake . >/dev/null && [ "$(cat found)" = 1 ])
}
version=$(sed -n 's/^#define AWQ_VERSION_[A-Z]* //p' include/awq.h | paste -sd.)
for good in "" "$version" "${version%.*}" "$version EXACT"; do
    serves "$good" || { echo "version '$good' was not found"; exit 1; }
done
for bad in 99.0 "${version%.*}.999"; do
    if serves "$bad"; then echo "version $bad was found"; exit 1; fi
done
