"""Quantised weights, and the packed formats they travel in."""

from ctypes import byref, c_char_p, c_void_p
from enum import IntEnum
from types import SimpleNamespace
from typing import Any, Iterator, Mapping, Optional

import numpy as np

from . import _declarations as declarations
from ._library import Handle, check, lib, query
from ._tensor import Dtype, Tensor, numpy_dtype, view


class Layout(IntEnum):
    """Packed formats; see docs/layouts.md."""

    GEMM = declarations.AWQ_LAYOUT_GEMM
    COMPRESSED_TENSORS = declarations.AWQ_LAYOUT_COMPRESSED_TENSORS
    COMPRESSED_TENSORS_2025 = declarations.AWQ_LAYOUT_COMPRESSED_TENSORS_2025
    GEMV = declarations.AWQ_LAYOUT_GEMV
    GEMV_FAST = declarations.AWQ_LAYOUT_GEMV_FAST
    MARLIN = declarations.AWQ_LAYOUT_MARLIN
    GPTQ_V1 = declarations.AWQ_LAYOUT_GPTQ_V1
    GPTQ_V2 = declarations.AWQ_LAYOUT_GPTQ_V2
    CUDA_BLOCK = declarations.AWQ_LAYOUT_CUDA_BLOCK
    CPU_STREAM = declarations.AWQ_LAYOUT_CPU_STREAM
    LLM_AWQ = declarations.AWQ_LAYOUT_LLM_AWQ


class Weight(Handle):
    """The quantised weight of one linear layer, or of several concatenated.  Immutable; threads may share it.

    Made by ``Context.quantize``, ``Context.weight``, ``Context.unpack`` and ``Context.concatenate``.
    """

    _kind = declarations.awq_weight
    _destroy = lib.awq_weight_destroy

    @property
    def info(self) -> SimpleNamespace:
        """The fields of awq_weight_info, as in awq.h."""
        return query(declarations.awq_weight_info, lib.awq_weight_get_info, self)

    @property
    def shape(self) -> "tuple[int, int]":
        """(outputs, inputs)"""
        info = self.info
        return info.n, info.k

    @property
    def bits(self) -> int:
        return self.info.bits

    @property
    def group_size(self) -> int:
        return self.info.group_size

    @property
    def symmetric(self) -> bool:
        return bool(self.info.flags & declarations.AWQ_QUANTIZE_SYMMETRIC)

    @property
    def codes(self) -> np.ndarray:
        """uint8 [N][K]; signed codes are stored plus 2^(bits - 1)."""
        out = np.empty(self.shape, np.uint8)
        check(lib.awq_weight_export(self, view(out), None, None, None))
        return out

    @property
    def scales(self) -> np.ndarray:
        """[N][groups] in the type they are stored in."""
        info = self.info
        out = _empty((info.n, info.groups), Dtype(info.scale_dtype))
        check(lib.awq_weight_export(self, None, out, None, None))
        return out.numpy()

    @property
    def zeros(self) -> np.ndarray:
        """Zero points, uint8 [N][groups]."""
        info = self.info
        out = np.empty((info.n, info.groups), np.uint8)
        check(lib.awq_weight_export(self, None, None, view(out), None))
        return out

    @property
    def input_scale(self) -> Optional[np.ndarray]:
        """What the input is divided by, float32 [K]; None if that was folded or there is none."""
        info = self.info
        if not info.has_input_scale:
            return None
        out = np.empty(info.k, np.float32)
        check(lib.awq_weight_export(self, None, None, None, view(out)))
        return out

    def dequantize(self, out: Optional[Any] = None, *, unscaled: bool = False) -> Any:
        """(codes - zeros) * scales, into ``out`` or a new float32 array; ``unscaled``: over the input scale."""
        out = np.empty(self.shape, np.float32) if out is None else out
        flags = unscaled * declarations.AWQ_DEQUANTIZE_UNSCALED
        check(lib.awq_weight_dequantize(self, flags, view(out, writable=True)))
        return out

    def slice_rows(self, begin: int, end: int) -> "Weight":
        """Outputs [begin, end) with all their inputs."""
        return Weight._create(lib.awq_weight_slice, self, declarations.AWQ_SLICE_ROWS, begin, end, keep=self._keep)

    def slice_columns(self, begin: int, end: int) -> "Weight":
        """Inputs [begin, end) of all outputs; both on group boundaries, or the end."""
        return Weight._create(lib.awq_weight_slice, self, declarations.AWQ_SLICE_COLUMNS, begin, end, keep=self._keep)


def _empty(shape, dtype: Dtype) -> Tensor:
    return view(np.empty(shape, numpy_dtype(dtype)), dtype)


class Packed(Handle, Mapping[str, Tensor]):
    """A weight laid out in one format: a mapping from the names of its planes ("qweight") to read-only tensors.

    The tensors, and the arrays made of them, keep the memory alive by themselves.
    """

    _kind = declarations.awq_packed
    _destroy = lib.awq_packed_destroy

    def _plane(self, index: int) -> "tuple[str, Tensor]":
        name, plane, owned = c_char_p(), declarations.awq_tensor(), self._owned
        check(lib.awq_packed_get_plane(self, index, byref(name), byref(plane)))
        return name.value.decode(), Tensor(plane, owned, lambda: _export(owned.pointer, index))

    def _planes(self) -> "dict[str, Tensor]":
        return dict(self._plane(index) for index in range(lib.awq_packed_plane_count(self)))

    def __getitem__(self, name: str) -> Tensor:
        return self._planes()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._planes())

    def __len__(self) -> int:
        return lib.awq_packed_plane_count(self)


def _export(packed, index: int) -> int:
    """Give a plane away; it needs no Python any more to be kept and released."""
    managed = c_void_p()
    check(lib.awq_packed_export_dlpack(packed, index, byref(managed)))
    return managed.value
