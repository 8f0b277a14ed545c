#!/bin/sh
# Write the declarations of awq.h for Rust; src/bindings.rs is what bindgen 0.60 makes of it.
set -eu
cd "$(dirname "$0")/../../.."
bindgen include/awq.h --use-core --ctypes-prefix core::ffi --size_t-is-usize --no-layout-tests \
    --allowlist-function 'awq_.*' --allowlist-type 'awq_.*' --allowlist-var 'AWQ_.*' -- -std=c11
