//! Views of arrays.

use std::fmt;
use std::marker::PhantomData;

use crate::error::{check, Error, Result};
use crate::handle::{signed, text};
use awq_sys as sys;

/// Element types, by the numbers of `awq.h`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Dtype(pub(crate) i32);

impl Dtype {
    pub const F32: Dtype = Dtype(sys::AWQ_F32 as i32);
    pub const F16: Dtype = Dtype(sys::AWQ_F16 as i32);
    pub const BF16: Dtype = Dtype(sys::AWQ_BF16 as i32);
    pub const U8: Dtype = Dtype(sys::AWQ_U8 as i32);
    pub const I8: Dtype = Dtype(sys::AWQ_I8 as i32);
    pub const U16: Dtype = Dtype(sys::AWQ_U16 as i32);
    pub const I16: Dtype = Dtype(sys::AWQ_I16 as i32);
    pub const U32: Dtype = Dtype(sys::AWQ_U32 as i32);
    pub const I32: Dtype = Dtype(sys::AWQ_I32 as i32);
    pub const U64: Dtype = Dtype(sys::AWQ_U64 as i32);
    pub const I64: Dtype = Dtype(sys::AWQ_I64 as i32);
    pub const F64: Dtype = Dtype(sys::AWQ_F64 as i32);
    pub const BOOL: Dtype = Dtype(sys::AWQ_BOOL as i32);
    pub const F8_E4M3: Dtype = Dtype(sys::AWQ_F8_E4M3 as i32);
    pub const F8_E5M2: Dtype = Dtype(sys::AWQ_F8_E5M2 as i32);

    /// Bytes per element.
    pub fn size(self) -> usize {
        unsafe { sys::awq_dtype_size(self.0) }
    }
}

impl fmt::Debug for Dtype {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(text(unsafe { sys::awq_dtype_name(self.0) }).unwrap_or(""))
    }
}

/// An IEEE 754 half, by its bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct F16(pub u16);

/// A bfloat16, by its bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(pub u16);

/// Types that arrays may have.
///
/// # Safety
/// `DTYPE` must be of the type's size, and every pattern of bits a value of the type.
pub unsafe trait Element: Copy {
    const DTYPE: Dtype;
}

macro_rules! element {
    ($($element:ty: $dtype:ident),*) => {
        $(unsafe impl Element for $element { const DTYPE: Dtype = Dtype::$dtype; })*
    };
}
element!(f32: F32, f64: F64, F16: F16, Bf16: BF16);
element!(u8: U8, u16: U16, u32: U32, u64: U64, i8: I8, i16: I16, i32: I32, i64: I64);

/// A row-major array, borrowed for reading.
#[derive(Clone, Copy)]
pub struct View<'a> {
    tensor: sys::awq_tensor,
    memory: PhantomData<&'a [u8]>,
}

/// A row-major array, borrowed for writing.
pub struct ViewMut<'a> {
    tensor: sys::awq_tensor,
    memory: PhantomData<&'a mut [u8]>,
}

/// The view that `init` makes of a shape, if as many elements are there as it has.
fn describe(
    length: usize,
    shape: &[usize],
    init: impl FnOnce(*mut sys::awq_tensor, i32, *const i64) -> sys::awq_status,
) -> Result<sys::awq_tensor> {
    if shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent)) != Some(length) {
        return Err(Error::invalid(format!("{length} elements do not make an array of shape {shape:?}")));
    }
    let extents = shape.iter().map(|&extent| signed(extent)).collect::<Result<Vec<i64>>>()?;
    let rank = i32::try_from(shape.len()).map_err(|_| Error::invalid(format!("{} dimensions", shape.len())))?;
    let mut tensor = empty();
    check(init(&mut tensor, rank, extents.as_ptr()))?;
    Ok(tensor)
}

/// A view of nothing, to be overwritten.
pub(crate) fn empty() -> sys::awq_tensor {
    unsafe { std::mem::zeroed() }
}

impl<'a> View<'a> {
    /// See `elements` as an array of this shape.
    pub fn new<T: Element>(elements: &'a [T], shape: &[usize]) -> Result<Self> {
        let tensor = describe(elements.len(), shape, |tensor, rank, extents| unsafe {
            sys::awq_tensor_init_const(tensor, elements.as_ptr().cast(), T::DTYPE.0, rank, extents)
        })?;
        Ok(View { tensor, memory: PhantomData })
    }

    /// # Safety
    /// What the tensor describes must stay readable and unchanged for `'a`.
    pub(crate) unsafe fn from_raw(tensor: sys::awq_tensor) -> Self {
        View { tensor, memory: PhantomData }
    }

    pub fn dtype(&self) -> Dtype {
        Dtype(self.tensor.dtype)
    }

    pub fn shape(&self) -> Vec<usize> {
        self.tensor.shape[..self.tensor.ndim as usize].iter().map(|&extent| extent as usize).collect()
    }

    /// The elements in order, if they are of this type and contiguous.
    pub fn as_slice<T: Element>(&self) -> Option<&'a [T]> {
        let mut expected = 1i64;
        for axis in (0..self.tensor.ndim as usize).rev() {
            if self.tensor.shape[axis] != 1 && self.tensor.strides[axis] != expected {
                return None;
            }
            expected *= self.tensor.shape[axis].max(1);
        }
        if self.dtype() != T::DTYPE || self.tensor.device_type != sys::AWQ_DEVICE_CPU as i32 {
            return None;
        }
        let length = self.shape().iter().product();
        if length == 0 {
            return Some(&[]);
        }
        let first = self.tensor.data.cast::<u8>().wrapping_add(self.tensor.byte_offset as usize);
        Some(unsafe { std::slice::from_raw_parts(first.cast(), length) })
    }

    pub(crate) fn as_ptr(&self) -> *const sys::awq_tensor {
        &self.tensor
    }
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "View({:?} {:?})", self.dtype(), self.shape())
    }
}

impl<'a> ViewMut<'a> {
    /// See `elements` as an array of this shape.
    pub fn new<T: Element>(elements: &'a mut [T], shape: &[usize]) -> Result<Self> {
        let tensor = describe(elements.len(), shape, |tensor, rank, extents| unsafe {
            sys::awq_tensor_init(tensor, elements.as_mut_ptr().cast(), T::DTYPE.0, rank, extents)
        })?;
        Ok(ViewMut { tensor, memory: PhantomData })
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut sys::awq_tensor {
        &mut self.tensor
    }
}

/// A pointer to a view that may be absent.
pub(crate) fn optional(view: Option<&View<'_>>) -> *const sys::awq_tensor {
    view.map_or(std::ptr::null(), View::as_ptr)
}
