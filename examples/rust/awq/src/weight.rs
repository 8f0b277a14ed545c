//! Quantised weights and the formats they are packed in.

use std::ffi::{c_char, CString};
use std::ptr::null_mut;

use crate::error::{check, Result};
use crate::handle::{c_string, handle, query, signed, sized, text};
use crate::search::{Quantizer, Search};
use crate::tensor::{empty, optional, Element, View, ViewMut};
use crate::Context;
use awq_sys as sys;

handle! {
    /// The quantised weight of one linear layer, or of several concatenated.  Immutable.
    Weight, awq_weight, awq_weight_destroy
}
handle! {
    /// A weight laid out in one format: a few named planes.  Immutable.
    Packed, awq_packed, awq_packed_destroy
}
unsafe impl Sync for Weight {}
unsafe impl Sync for Packed {}

/// Packed formats; see `docs/layouts.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[non_exhaustive]
pub enum Layout {
    Gemm = sys::AWQ_LAYOUT_GEMM as i32,
    CompressedTensors = sys::AWQ_LAYOUT_COMPRESSED_TENSORS as i32,
    CompressedTensors2025 = sys::AWQ_LAYOUT_COMPRESSED_TENSORS_2025 as i32,
    Gemv = sys::AWQ_LAYOUT_GEMV as i32,
    GemvFast = sys::AWQ_LAYOUT_GEMV_FAST as i32,
    Marlin = sys::AWQ_LAYOUT_MARLIN as i32,
    GptqV1 = sys::AWQ_LAYOUT_GPTQ_V1 as i32,
    GptqV2 = sys::AWQ_LAYOUT_GPTQ_V2 as i32,
    CudaBlock = sys::AWQ_LAYOUT_CUDA_BLOCK as i32,
    CpuStream = sys::AWQ_LAYOUT_CPU_STREAM as i32,
    LlmAwq = sys::AWQ_LAYOUT_LLM_AWQ as i32,
}

/// What planes do not say of themselves; zero where they do.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnpackOptions {
    pub bits: i32,
    pub group_size: i64,
    pub symmetric: bool,
}

impl Context {
    /// Quantise W[N][K], with a search's scales or plainly.
    pub fn quantize(&self, w: View<'_>, search: Option<&Search>, quantizer: Quantizer<'_>) -> Result<Weight> {
        let raw = quantizer.raw();
        let search = search.map_or(null_mut(), Search::as_ptr);
        Weight::make(|out| unsafe { sys::awq_quantize(self.as_ptr(), w.as_ptr(), search, &raw, out) })
    }

    /// A weight from u8 codes[N][K], scales[N][groups] and u8 zeros[N][groups], which a symmetric one has not.
    pub fn weight(
        &self,
        codes: View<'_>,
        scales: View<'_>,
        zeros: Option<View<'_>>,
        quantizer: Quantizer<'_>,
    ) -> Result<Weight> {
        let (raw, zeros) = (quantizer.raw(), optional(zeros.as_ref()));
        Weight::make(|out| unsafe {
            sys::awq_weight_create(self.as_ptr(), codes.as_ptr(), scales.as_ptr(), zeros, &raw, out)
        })
    }

    pub fn pack(&self, weight: &Weight, layout: Layout) -> Result<Packed> {
        Packed::make(|out| unsafe { sys::awq_pack(self.as_ptr(), weight.as_ptr(), layout as i32, out) })
    }

    /// Read a weight from a format's planes, given by name in any order.
    pub fn unpack(&self, layout: Layout, planes: &[(&str, View<'_>)], options: UnpackOptions) -> Result<Weight> {
        let mut raw: sys::awq_unpack_options = sized();
        raw.bits = options.bits;
        raw.group_size = options.group_size;
        raw.flags = if options.symmetric { sys::AWQ_QUANTIZE_SYMMETRIC } else { 0 };
        let names = planes.iter().map(|(name, _)| c_string(name)).collect::<Result<Vec<CString>>>()?;
        let names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        let views: Vec<*const sys::awq_tensor> = planes.iter().map(|(_, view)| view.as_ptr()).collect();
        let (count, names, views) = (planes.len(), names.as_ptr(), views.as_ptr());
        Weight::make(|out| unsafe { sys::awq_unpack(self.as_ptr(), layout as i32, count, names, views, &raw, out) })
    }
}

impl Weight {
    fn info(&self) -> Result<sys::awq_weight_info> {
        query(|info| unsafe { sys::awq_weight_get_info(self.as_ptr(), info) })
    }

    /// (outputs, inputs)
    pub fn shape(&self) -> Result<(usize, usize)> {
        let info = self.info()?;
        Ok((info.n as usize, info.k as usize))
    }

    pub fn bits(&self) -> Result<i32> {
        Ok(self.info()?.bits)
    }

    pub fn group_size(&self) -> Result<usize> {
        Ok(self.info()?.group_size as usize)
    }

    /// Groups per row.
    pub fn groups(&self) -> Result<usize> {
        Ok(self.info()?.groups as usize)
    }

    pub fn has_input_scale(&self) -> Result<bool> {
        Ok(self.info()?.has_input_scale != 0)
    }

    /// `out` = (codes - zeros) * scales.
    pub fn dequantize(&self, mut out: ViewMut<'_>) -> Result<()> {
        check(unsafe { sys::awq_weight_dequantize(self.as_ptr(), 0, out.as_mut_ptr()) })
    }

    /// [N][K]
    pub fn codes(&self) -> Result<Vec<u8>> {
        self.export(self.shape()?.1, |codes| [codes, null_mut(), null_mut()])
    }

    /// [N][groups], widened to f32.
    pub fn scales(&self) -> Result<Vec<f32>> {
        self.export(self.groups()?, |scales| [null_mut(), scales, null_mut()])
    }

    /// [N][groups]
    pub fn zeros(&self) -> Result<Vec<u8>> {
        self.export(self.groups()?, |zeros| [null_mut(), null_mut(), zeros])
    }

    /// One of codes, scales and zeros, which `place` puts where it belongs.
    fn export<T: Element + Default>(
        &self,
        columns: usize,
        place: impl FnOnce(*mut sys::awq_tensor) -> [*mut sys::awq_tensor; 3],
    ) -> Result<Vec<T>> {
        let (rows, _) = self.shape()?;
        let mut out = vec![T::default(); rows * columns];
        let mut view = ViewMut::new(&mut out, &[rows, columns])?;
        let [codes, scales, zeros] = place(view.as_mut_ptr());
        check(unsafe { sys::awq_weight_export(self.as_ptr(), codes, scales, zeros, null_mut()) })?;
        Ok(out)
    }

    /// Outputs `range` with all their inputs.
    pub fn slice_rows(&self, range: std::ops::Range<usize>) -> Result<Weight> {
        self.slice(sys::AWQ_SLICE_ROWS, range)
    }

    /// Inputs `range` of all outputs; on group boundaries, or the end.
    pub fn slice_columns(&self, range: std::ops::Range<usize>) -> Result<Weight> {
        self.slice(sys::AWQ_SLICE_COLUMNS, range)
    }

    fn slice(&self, axis: u32, range: std::ops::Range<usize>) -> Result<Weight> {
        let (begin, end) = (signed(range.start)?, signed(range.end)?);
        Weight::make(|out| unsafe { sys::awq_weight_slice(self.as_ptr(), axis as i32, begin, end, out) })
    }

    /// Stack weights that share an input along their outputs.
    pub fn concatenate(weights: &[&Weight]) -> Result<Weight> {
        let pointers: Vec<*const sys::awq_weight> = weights.iter().map(|weight| weight.as_ptr().cast_const()).collect();
        Weight::make(|out| unsafe { sys::awq_weight_concatenate(pointers.len(), pointers.as_ptr(), out) })
    }
}

impl Packed {
    /// The planes and their names, in the format's order.
    pub fn planes(&self) -> Result<Vec<(&str, View<'_>)>> {
        (0..unsafe { sys::awq_packed_plane_count(self.as_ptr()) })
            .map(|index| {
                let (mut name, mut tensor) = (std::ptr::null(), empty());
                check(unsafe { sys::awq_packed_get_plane(self.as_ptr(), index, &mut name, &mut tensor) })?;
                Ok((text(name).unwrap_or(""), unsafe { View::from_raw(tensor) }))
            })
            .collect()
    }
}
