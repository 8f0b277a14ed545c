//! The declarations of `awq.h`, as bindgen makes them.  The crate `awq` wraps them safely; awq.h documents them.
#![no_std]
#![allow(non_camel_case_types)]

#[rustfmt::skip]
mod bindings;
pub use bindings::*;
