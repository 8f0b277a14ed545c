//! Running a linear layer.

use crate::error::{check, Result};
use crate::handle::{handle, query, signed, sized};
use crate::tensor::{optional, View, ViewMut};
use crate::{Context, Weight};
use awq_sys as sys;

handle! {
    /// A weight prepared for the context's device.  Immutable; threads may run it at the same time.
    Linear, awq_linear, awq_linear_destroy
}
unsafe impl Sync for Linear {}

/// What activations may lose inside a product.
#[derive(Clone, Copy, Debug, Default)]
#[repr(i32)]
pub enum Activation {
    #[default]
    Default = sys::AWQ_ACTIVATION_DEFAULT as i32,
    Exact = sys::AWQ_ACTIVATION_EXACT as i32,
    Split = sys::AWQ_ACTIVATION_SPLIT as i32,
    Bf16 = sys::AWQ_ACTIVATION_BF16 as i32,
    Int8 = sys::AWQ_ACTIVATION_INT8 as i32,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(i32)]
pub enum Kernel {
    #[default]
    Auto = sys::AWQ_KERNEL_AUTO as i32,
    Reference = sys::AWQ_KERNEL_REFERENCE as i32,
    Gemv = sys::AWQ_KERNEL_GEMV as i32,
    Gemm = sys::AWQ_KERNEL_GEMM as i32,
    Marlin = sys::AWQ_KERNEL_MARLIN as i32,
    Hopper = sys::AWQ_KERNEL_HOPPER as i32,
    Dequant = sys::AWQ_KERNEL_DEQUANT as i32,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct LinearOptions<'a> {
    /// [N], copied.
    pub bias: Option<View<'a>>,
    pub activation: Activation,
    pub kernel: Kernel,
    /// Outputs are gate rows, then up rows: y = silu(gate) * up.
    pub silu_mul: bool,
}

impl LinearOptions<'_> {
    /// Points into `self`.
    fn raw(&self) -> sys::awq_linear_options {
        let mut raw: sys::awq_linear_options = sized();
        raw.flags = if self.silu_mul { sys::AWQ_LINEAR_SILU_MUL } else { 0 };
        raw.activation = self.activation as i32;
        raw.kernel = self.kernel as i32;
        raw.bias = optional(self.bias.as_ref());
        raw
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions<'a> {
    /// Added to the result.
    pub residual: Option<View<'a>>,
    /// [K]: x is RMS-normalised and multiplied by this first.
    pub norm_weight: Option<View<'a>>,
    pub norm_epsilon: f64,
}

impl Context {
    /// Prepare a weight to be multiplied by.
    pub fn linear(&self, weight: &Weight, options: LinearOptions<'_>) -> Result<Linear> {
        let raw = options.raw();
        Linear::make(|out| unsafe { sys::awq_linear_create(self.as_ptr(), weight.as_ptr(), &raw, out) })
    }

    /// The same for a dense W[N][K].
    pub fn linear_dense(&self, w: View<'_>, options: LinearOptions<'_>) -> Result<Linear> {
        let raw = options.raw();
        Linear::make(|out| unsafe { sys::awq_linear_create_dense(self.as_ptr(), w.as_ptr(), &raw, out) })
    }
}

impl Linear {
    /// Columns of x.
    pub fn inputs(&self) -> Result<usize> {
        Ok(self.info()?.inputs as usize)
    }

    /// Columns of y.
    pub fn outputs(&self) -> Result<usize> {
        Ok(self.info()?.outputs as usize)
    }

    fn info(&self) -> Result<sys::awq_linear_info> {
        query(|info| unsafe { sys::awq_linear_get_info(self.as_ptr(), info) })
    }

    /// y = x W^T + bias (+ residual).
    pub fn run(&self, x: View<'_>, mut y: ViewMut<'_>, options: RunOptions<'_>) -> Result<()> {
        let mut raw: sys::awq_run_options = sized();
        raw.residual = optional(options.residual.as_ref());
        raw.norm_weight = optional(options.norm_weight.as_ref());
        raw.norm_epsilon = options.norm_epsilon;
        check(unsafe { sys::awq_linear_run(self.as_ptr(), x.as_ptr(), y.as_mut_ptr(), &raw) })
    }

    /// Which kernel runs for that many rows, and why the others do not.
    pub fn describe(&self, rows: usize) -> Result<String> {
        let (rows, mut length) = (signed(rows)?, 0);
        check(unsafe { sys::awq_linear_describe(self.as_ptr(), rows, std::ptr::null_mut(), 0, &mut length) })?;
        let mut text = vec![0u8; length + 1];
        let (buffer, capacity) = (text.as_mut_ptr().cast(), text.len());
        check(unsafe { sys::awq_linear_describe(self.as_ptr(), rows, buffer, capacity, &mut length) })?;
        text.truncate(length);
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
