//! What all objects of the library have in common, and the ways of C.

use std::ffi::{c_char, CStr, CString};
use std::mem::{size_of, MaybeUninit};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{check, Error, Result};
use awq_sys as sys;

/// An object of the library under its own type: owned, released when dropped, movable between threads.
macro_rules! handle {
    ($(#[$attributes:meta])* $name:ident, $raw:ident, $destroy:ident) => {
        $(#[$attributes])*
        #[derive(Debug)]
        pub struct $name(std::ptr::NonNull<awq_sys::$raw>);

        // awq.h: distinct handles may be used from distinct threads, and none is bound to the thread that made it.
        unsafe impl Send for $name {}

        impl $name {
            /// The object for functions of [`awq_sys`], which must leave its ownership here.
            pub fn as_ptr(&self) -> *mut awq_sys::$raw {
                self.0.as_ptr()
            }

            /// The object that `make` stores.
            pub(crate) fn make(
                make: impl FnOnce(*mut *mut awq_sys::$raw) -> awq_sys::awq_status,
            ) -> $crate::Result<Self> {
                $crate::handle::make(make).map($name)
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                unsafe { awq_sys::$destroy(self.0.as_ptr()) }
            }
        }
    };
}
pub(crate) use handle;

pub(crate) fn make<T>(make: impl FnOnce(*mut *mut T) -> sys::awq_status) -> Result<std::ptr::NonNull<T>> {
    let mut object = std::ptr::null_mut();
    check(make(&mut object))?;
    std::ptr::NonNull::new(object).ok_or_else(|| Error::invalid("the library made nothing".to_string()))
}

/// The plain structs of `awq.h` that begin with their size: integers, floats, nullable pointers and callbacks.
///
/// # Safety
/// Zero bytes must be a value of the type.
pub(crate) unsafe trait Plain: Copy {}

macro_rules! sized {
    ($($name:ident)*) => { $(unsafe impl Plain for sys::$name {})* };
}
sized! {
    awq_context_options awq_device_info awq_calibration_options awq_calibration_info awq_quantize_options
    awq_weight_info awq_search_options awq_search_result awq_clip_options awq_clip_result awq_fold_options
    awq_unpack_options awq_linear_options awq_linear_info awq_run_options awq_checkpoint_writer_options
}

/// A struct prepared as the library wants it: all defaults.
pub(crate) fn sized<T: Plain>() -> T {
    let mut value = MaybeUninit::<T>::zeroed();
    unsafe {
        sys::awq_struct_init(value.as_mut_ptr().cast(), size_of::<T>());
        value.assume_init()
    }
}

/// The info struct that `get` fills.
pub(crate) fn query<T: Plain>(get: impl FnOnce(*mut T) -> sys::awq_status) -> Result<T> {
    let mut info = sized();
    check(get(&mut info))?;
    Ok(info)
}

/// Text of the library, which is UTF-8; it must live as long as the caller says.
pub(crate) fn text<'a>(string: *const c_char) -> Option<&'a str> {
    if string.is_null() {
        return None;
    }
    unsafe { CStr::from_ptr(string) }.to_str().ok()
}

pub(crate) fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::invalid(format!("{text:?} has a zero byte")))
}

pub(crate) fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::invalid(format!("{path:?} has a zero byte")))
}

/// A pointer to what is there, or NULL.
pub(crate) fn pointer<T>(value: Option<&T>) -> *const T {
    value.map_or(std::ptr::null(), |value| value)
}

/// Sizes cross the border as int64_t.
pub(crate) fn signed(size: usize) -> Result<i64> {
    i64::try_from(size).map_err(|_| Error::invalid(format!("{size} is too large")))
}
