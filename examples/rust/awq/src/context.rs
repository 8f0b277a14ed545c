//! The context, from which everything else is made.

use std::ffi::{c_char, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};

use crate::error::{check, Result};
use crate::handle::{handle, query, signed, sized, text};
use crate::search::Profile;
use crate::tensor::{View, ViewMut};
use awq_sys as sys;

handle! {
    /// A device and its threads.  What is made from it keeps it alive.
    Context, awq_context, awq_context_destroy
}
unsafe impl Sync for Context {}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    #[default]
    Cpu,
    /// The CUDA device of that number.
    Cuda(i32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
pub enum LogLevel {
    Error = sys::AWQ_LOG_ERROR as i32,
    Warning = sys::AWQ_LOG_WARNING as i32,
    Info = sys::AWQ_LOG_INFO as i32,
    Debug = sys::AWQ_LOG_DEBUG as i32,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct ContextOptions {
    pub device: Device,
    /// With the caller's; 0: as many as the process may run on.
    pub threads: i32,
    /// 0: none.
    pub memory_limit_bytes: u64,
    /// A function rather than a closure, because objects made from a context may log after it is dropped.
    pub log: Option<fn(LogLevel, &str)>,
    /// None: warnings.
    pub log_level: Option<LogLevel>,
}

/// How scales are folded into what precedes a linear.
#[derive(Clone, Copy, Debug, Default)]
pub struct FoldOptions {
    /// The norm multiplies by 1 + weight.
    pub one_plus_weight: bool,
    pub profile: Profile,
    pub tie_copies: usize,
    pub tie_width: usize,
}

impl FoldOptions {
    fn raw(&self) -> Result<sys::awq_fold_options> {
        let mut raw: sys::awq_fold_options = sized();
        raw.flags = if self.one_plus_weight { sys::AWQ_FOLD_ONE_PLUS_WEIGHT } else { 0 };
        raw.profile = self.profile as i32;
        raw.tie_copies = signed(self.tie_copies)?;
        raw.tie_width = signed(self.tie_width)?;
        Ok(raw)
    }
}

/// `user_data` is the `fn` of the options.
unsafe extern "C" fn log(user_data: *mut c_void, level: i32, message: *const c_char, _length: usize) {
    let level = match level as u32 {
        sys::AWQ_LOG_ERROR => LogLevel::Error,
        sys::AWQ_LOG_WARNING => LogLevel::Warning,
        sys::AWQ_LOG_INFO => LogLevel::Info,
        _ => LogLevel::Debug,
    };
    let function: fn(LogLevel, &str) = std::mem::transmute(user_data);
    let _ = catch_unwind(AssertUnwindSafe(|| function(level, text(message).unwrap_or("(not UTF-8)"))));
}

impl Context {
    /// The CPU with all its cores.
    pub fn new() -> Result<Self> {
        Self::with(ContextOptions::default())
    }

    pub fn with(options: ContextOptions) -> Result<Self> {
        let mut raw: sys::awq_context_options = sized();
        (raw.device_type, raw.device_id) = match options.device {
            Device::Cpu => (sys::AWQ_DEVICE_CPU as i32, 0),
            Device::Cuda(index) => (sys::AWQ_DEVICE_CUDA as i32, index),
        };
        raw.threads = options.threads;
        raw.memory_limit_bytes = options.memory_limit_bytes;
        raw.log_level = options.log_level.map_or(0, |level| level as i32);
        if let Some(function) = options.log {
            raw.log = Some(log);
            raw.log_data = function as *mut c_void;
        }
        Context::make(|out| unsafe { sys::awq_context_create(&raw, out) })
    }

    /// The name of the device.
    pub fn device_name(&self) -> Result<String> {
        let info: sys::awq_device_info = query(|info| unsafe { sys::awq_context_get_device(self.as_ptr(), info) })?;
        Ok(text(info.name.as_ptr()).unwrap_or("").to_string())
    }

    /// Host bytes held now, and at most so far.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let (mut current, mut peak) = (0, 0);
        check(unsafe { sys::awq_context_get_memory(self.as_ptr(), &mut current, &mut peak) })?;
        Ok((current, peak))
    }

    /// `target` = `source`, between f32, f16 and bf16.
    pub fn convert(&self, source: View<'_>, mut target: ViewMut<'_>) -> Result<()> {
        let stream = std::ptr::null_mut();
        check(unsafe { sys::awq_tensor_copy(self.as_ptr(), source.as_ptr(), target.as_mut_ptr(), stream) })
    }

    /// Divide a norm's weight by the scales of the linears that follow it.
    pub fn fold_norm(&self, scales: View<'_>, mut weight: ViewMut<'_>, options: FoldOptions) -> Result<()> {
        let (raw, bias) = (options.raw()?, std::ptr::null_mut());
        check(unsafe { sys::awq_fold_norm(self.as_ptr(), scales.as_ptr(), weight.as_mut_ptr(), bias, &raw) })
    }

    /// Divide the last rows of a linear's weight by the scales of the linear that follows it.
    pub fn fold_linear(&self, scales: View<'_>, mut weight: ViewMut<'_>, options: FoldOptions) -> Result<()> {
        let (raw, bias) = (options.raw()?, std::ptr::null_mut());
        check(unsafe { sys::awq_fold_linear(self.as_ptr(), scales.as_ptr(), weight.as_mut_ptr(), bias, &raw) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    static SEEN: Mutex<Vec<(LogLevel, String)>> = Mutex::new(Vec::new());

    fn listen(level: LogLevel, text: &str) {
        assert!(text != "panic");
        SEEN.lock().unwrap().push((level, text.to_string()));
    }

    /// The library has little to say, so this calls what it would call.
    #[test]
    fn log_reaches_the_function_and_panics_end_there() {
        let user_data = listen as fn(LogLevel, &str) as *mut c_void;
        for message in [c"panic", c"hello"] {
            unsafe { log(user_data, LogLevel::Warning as i32, message.as_ptr(), message.to_bytes().len()) };
        }
        assert_eq!(*SEEN.lock().unwrap(), [(LogLevel::Warning, "hello".to_string())]);
    }

    #[test]
    fn a_context_takes_a_log() {
        let options = ContextOptions { log: Some(listen), log_level: Some(LogLevel::Debug), ..Default::default() };
        assert!(Context::with(options).is_ok());
    }
}
