#!/bin/sh
# The Rust crates: their declarations against the header, and their tests, through pkg-config and without the network.
set -eu
cd "$(dirname "$0")/../.."
build=$(realpath "${BUILD:-build}")
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

[ -z "${SANITIZE:-}" ] || { echo "Rust programs do not load the sanitizers' runtime"; exit 77; }
for tool in cargo rustc pkg-config python3; do
    command -v $tool >/dev/null || { echo "$tool is not installed"; exit 77; }
done
minor=$(rustc --version | sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p')
[ "${minor:-0}" -ge 77 ] || { echo "$(rustc --version) is older than 1.77"; exit 77; }

# The same functions, and constants and layouts as the C compiler has them.
bindings=examples/rust/awq-sys/src/bindings.rs
python3 test/ffi/header.py facts include/awq.h | sed -n 's/^function \([a-z0-9_]*\) .*/\1/p' | sort >"$directory/header"
sed -n 's/^    pub fn \(awq_[a-z0-9_]*\)(.*/\1/p' $bindings | sort | diff -u "$directory/header" - ||
    { echo "the declarations are not those of awq.h; make bindings renews them"; exit 1; }
cp $bindings "$directory/bindings.rs"
python3 test/ffi/header.py rust include/awq.h >"$directory/main.rs"
rustc --edition 2021 -o "$directory/main" "$directory/main.rs"
"$directory/main"

# Types of parameters are what only bindgen can say; its output changes with its version.
if bindgen --version 2>/dev/null | grep -qF "$(sed -n '1s/.*rust-\(bindgen [0-9.]*\) .*/\1/p' $bindings)" &&
    command -v rustfmt >/dev/null; then
    sh examples/rust/awq-sys/generate.sh | diff -u $bindings - || { echo "make bindings renews them"; exit 1; }
fi

make -s BUILD="${BUILD:-build}" PREFIX="$build/ffi" install-headers install-shared install-pc >/dev/null
export PKG_CONFIG_PATH="$build/ffi/lib/pkgconfig" LD_LIBRARY_PATH="$build/ffi/lib" CARGO_TARGET_DIR="$build/rust"
cd examples/rust
cargo run --quiet --offline --locked --example quantize_layer | grep "AWQ: "
cargo test --offline --locked >"$directory/output" 2>&1 || { cat "$directory/output"; exit 1; }
sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$directory/output" |
    awk '{ passed += $1 } END { print passed " passed, 0 failed, 0 skipped" }'
