"""Views of arrays: NumPy's, and those of anything that speaks DLPack, in and out."""

import ctypes
from ctypes import byref
from enum import IntEnum
from typing import Any, Optional, Tuple

import numpy as np

from . import _declarations as declarations
from ._library import check, choose, lib

try:
    import ml_dtypes  # gives NumPy a bfloat16, if it is there
except ImportError:
    ml_dtypes = None


class Dtype(IntEnum):
    """Element types, under the names safetensors uses."""

    F32 = declarations.AWQ_F32
    F16 = declarations.AWQ_F16
    BF16 = declarations.AWQ_BF16
    U8 = declarations.AWQ_U8
    I8 = declarations.AWQ_I8
    U16 = declarations.AWQ_U16
    I16 = declarations.AWQ_I16
    U32 = declarations.AWQ_U32
    I32 = declarations.AWQ_I32
    U64 = declarations.AWQ_U64
    I64 = declarations.AWQ_I64
    F64 = declarations.AWQ_F64
    BOOL = declarations.AWQ_BOOL
    F8_E4M3 = declarations.AWQ_F8_E4M3
    F8_E5M2 = declarations.AWQ_F8_E5M2


_NUMPY = {
    Dtype.F32: "float32",
    Dtype.F16: "float16",
    Dtype.F64: "float64",
    Dtype.BOOL: "bool",
    Dtype.U8: "uint8",
    Dtype.U16: "uint16",
    Dtype.U32: "uint32",
    Dtype.U64: "uint64",
    Dtype.I8: "int8",
    Dtype.I16: "int16",
    Dtype.I32: "int32",
    Dtype.I64: "int64",
    Dtype.BF16: "bfloat16",
    Dtype.F8_E4M3: "float8_e4m3fn",
    Dtype.F8_E5M2: "float8_e5m2",
}
_FROM_NUMPY = {name: dtype for dtype, name in _NUMPY.items()}

# What NumPy has no type for travels as unsigned integers of the same width...
_BITS = {Dtype.BF16: "uint16", Dtype.F8_E4M3: "uint8", Dtype.F8_E5M2: "uint8"}
# ...and gets its DLPack type code back on the way out.
_DLPACK_CODES = {Dtype.BF16: 4, Dtype.F8_E4M3: 10, Dtype.F8_E5M2: 12}


def numpy_dtype(dtype: Dtype) -> np.dtype:
    """The NumPy type of these elements; bfloat16 and float8 are unsigned integers where ml_dtypes is not installed."""
    if dtype in _BITS:
        return np.dtype(getattr(ml_dtypes, _NUMPY[dtype]) if ml_dtypes else _BITS[dtype])
    return np.dtype(_NUMPY[dtype])


class Tensor:
    """A view of an array that somebody else owns, and which it keeps alive.

    ``numpy()`` and ``__dlpack__`` hand the same memory on without copying.
    """

    def __init__(self, struct: declarations.awq_tensor, owner: Any, export=None):
        self._struct, self._owner, self._export = struct, owner, export

    @property
    def _as_parameter_(self):
        return byref(self._struct)

    @property
    def dtype(self) -> Dtype:
        return Dtype(self._struct.dtype)

    @property
    def shape(self) -> Tuple[int, ...]:
        return tuple(self._struct.shape[: self._struct.ndim])

    @property
    def readonly(self) -> bool:
        return bool(self._struct.flags & declarations.AWQ_TENSOR_READONLY)

    @property
    def __array_interface__(self):
        if self._struct.device_type != declarations.AWQ_DEVICE_CPU:
            raise TypeError("the tensor is not in the memory of the CPU")
        dtype = np.dtype(_BITS.get(self.dtype) or _NUMPY[self.dtype])
        strides = tuple(stride * dtype.itemsize for stride in self._struct.strides[: self._struct.ndim])
        address = (self._struct.data or 0) + self._struct.byte_offset
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": dtype.str,
            "strides": strides,
            "data": (address, self.readonly),
        }

    def numpy(self) -> np.ndarray:
        """The elements as an array over the same memory."""
        return np.asarray(self).view(numpy_dtype(self.dtype))

    def __dlpack_device__(self) -> Tuple[int, int]:
        return (2, self._struct.device_id) if self._struct.device_type == declarations.AWQ_DEVICE_CUDA else (1, 0)

    def __dlpack__(self, **request):
        """A capsule for ``from_dlpack`` of NumPy, PyTorch and others.  Read-only views need one that knows DLPack 1."""
        if self._export is not None and (request.get("max_version") or (0, 0)) >= (1, 0):
            return _capsule(self._export())
        capsule = np.asarray(self).__dlpack__(**request)
        if self.dtype in _DLPACK_CODES:
            _dl_tensor(capsule).dtype_code = _DLPACK_CODES[self.dtype]
        return capsule

    def __repr__(self) -> str:
        return f"<awq.Tensor {self.dtype.name} {list(self.shape)}{' read-only' if self.readonly else ''}>"


def _from_numpy(array: np.ndarray, dtype: Optional[Dtype], writable: bool) -> Tensor:
    if dtype is None:
        dtype = _FROM_NUMPY.get(array.dtype.name)
    if dtype is None or not array.dtype.isnative:
        raise TypeError(f"arrays of {array.dtype} have no equivalent in libawq")
    if array.itemsize != lib.awq_dtype_size(dtype):
        raise TypeError(f"elements of {array.dtype} are not as wide as {Dtype(dtype).name}")
    if array.ndim > declarations.AWQ_MAX_DIMS:
        raise ValueError(f"{array.ndim} dimensions; libawq takes {declarations.AWQ_MAX_DIMS}")
    if writable and not array.flags.writeable:
        raise ValueError("the array is read-only")
    if any(stride % array.itemsize for stride in array.strides) or not array.flags.aligned:
        if writable:
            raise ValueError("the array's elements are not aligned")
        array = np.ascontiguousarray(array)
    struct = declarations.awq_tensor(data=array.ctypes.data, dtype=dtype, ndim=array.ndim)
    struct.shape[: array.ndim] = array.shape
    struct.strides[: array.ndim] = [stride // array.itemsize for stride in array.strides]
    struct.flags = 0 if array.flags.writeable else declarations.AWQ_TENSOR_READONLY
    return Tensor(struct, array)


def view(value: Any, dtype=None, *, writable: bool = False) -> Tensor:
    """See an array through libawq's eyes, without copying it.

    ``value`` is a Tensor, a NumPy array, an object with ``__dlpack__`` (a PyTorch tensor), or anything that
    ``numpy.asarray`` understands.  ``dtype`` gives the elements of a NumPy array another meaning of the same width:
    bfloat16 kept in uint16.
    """
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, np.ndarray):
        if hasattr(value, "detach"):
            value = value.detach()  # PyTorch gives no parameter away that wants a gradient
        if hasattr(value, "__dlpack__"):
            return _from_dlpack(value)
        value = np.asarray(value)
    return _from_numpy(value, None if dtype is None else choose(Dtype, dtype), writable)


def optional_view(value: Any, *, writable: bool = False) -> Optional[Tensor]:
    return None if value is None else view(value, writable=writable)


def refer(options, **values):
    """Let fields of an options struct point to arrays, which live as long as it does."""
    options._tensors = {name: view(value) for name, value in values.items() if value is not None}
    for name, tensor in options._tensors.items():
        setattr(options, name, ctypes.pointer(tensor._struct))
    return options


# ---- DLPack capsules


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("dtype_code", ctypes.c_uint8),
        ("dtype_bits", ctypes.c_uint8),
        ("dtype_lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    ]


class _DLManagedTensorVersioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _DLTensor),
    ]


_VERSIONED, _UNVERSIONED = b"dltensor_versioned", b"dltensor"

# By address rather than by object, since a destructor sees its capsule when no reference may be taken any more.
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)


def _dl_tensor(capsule) -> _DLTensor:
    if _is_valid(id(capsule), _VERSIONED):
        return _DLManagedTensorVersioned.from_address(_get_pointer(id(capsule), _VERSIONED)).tensor
    return _DLTensor.from_address(_get_pointer(id(capsule), _UNVERSIONED))  # DLManagedTensor begins with its DLTensor


def _from_dlpack(value: Any) -> Tensor:
    """Borrow: the capsule stays whole and is kept, so its producer's own destructor releases it with the view."""
    try:
        capsule = value.__dlpack__(max_version=(1, 0))
    except TypeError:  # producers from before DLPack 1.0 know no such argument
        capsule = value.__dlpack__()
    struct = declarations.awq_tensor()
    if _is_valid(id(capsule), _VERSIONED):
        check(lib.awq_tensor_from_dlpack_versioned(_get_pointer(id(capsule), _VERSIONED), byref(struct)))
    else:
        check(lib.awq_tensor_from_dlpack(_get_pointer(id(capsule), _UNVERSIONED), byref(struct)))
    return Tensor(struct, (capsule, value))


@ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
def _release_unconsumed(capsule):
    """Destructor of our capsules.  A consumer renames its capsule and calls the deleter itself; this was not taken."""
    if _is_valid(capsule, _VERSIONED):
        managed = _get_pointer(capsule, _VERSIONED)
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_DLManagedTensorVersioned.from_address(managed).deleter)(managed)


def _capsule(managed: int):
    return _new(managed, _VERSIONED, ctypes.cast(_release_unconsumed, ctypes.c_void_p))
