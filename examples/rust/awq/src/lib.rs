//! Activation-aware weight quantisation (AWQ) through libawq.
//!
//! ```
//! # fn main() -> awq::Result<()> {
//! # let (n, k) = (16, 128);
//! # let w: Vec<f32> = (0..n * k).map(|i| (i * 7919 % 211) as f32 / 211.0 - 0.5).collect();
//! # let batches = [w.clone()];
//! # let x = &w;
//! use awq::{Context, LinearOptions, Quantizer, RunOptions, SearchOptions, View, ViewMut};
//!
//! let ctx = Context::new()?; // the CPU with all its cores
//! let mut calibration = ctx.calibration(k)?;
//! for batch in &batches {
//!     calibration.observe(View::new(batch, &[batch.len() / k, k])?)?;
//! }
//! let w = View::new(&w, &[n, k])?;
//! let best = ctx.search(&calibration, &[w], SearchOptions::default())?;
//! let linear = ctx.linear(&ctx.quantize(w, Some(&best), Quantizer::default())?, LinearOptions::default())?;
//! let mut y = vec![0.0f32; x.len() / k * n];
//! let rows = x.len() / k;
//! linear.run(View::new(x, &[rows, k])?, ViewMut::new(&mut y, &[rows, n])?, RunOptions::default())?;
//! # Ok(())
//! # }
//! ```
//!
//! Objects own their part of the library and release it when dropped, in any order.  What `awq.h` lets threads share is
//! [`Sync`], and everything may move between threads.  Every failure carries the library's status and text.
//! [`awq_sys`] has the functions that are not wrapped here; `as_ptr` gives it the objects.

mod calibration;
mod checkpoint;
mod context;
mod error;
mod handle;
mod linear;
mod search;
mod tensor;
mod weight;

pub use awq_sys;
pub use calibration::{Archive, ArchiveWriter, Calibration, CalibrationOptions, Statistic};
pub use checkpoint::{Checkpoint, CheckpointWriter, WriterOptions};
pub use context::{Context, ContextOptions, Device, FoldOptions, LogLevel};
pub use error::{Error, Result, Status};
pub use linear::{Activation, Kernel, Linear, LinearOptions, RunOptions};
pub use search::{
    Candidate, ClipOptions, Clipping, LossFn, Normalization, Objective, Profile, ProgressFn, Quantizer, Range, Rounding, Scales,
    Search, SearchOptions,
};
pub use tensor::{Bf16, Dtype, Element, View, ViewMut, F16};
pub use weight::{Layout, Packed, UnpackOptions, Weight};

/// The version of the library that runs, such as "0.1.0".
pub fn version() -> &'static str {
    handle::text(unsafe { awq_sys::awq_version_string() }).unwrap_or("")
}
