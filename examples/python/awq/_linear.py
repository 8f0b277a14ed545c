"""Running a linear layer."""

import os
from ctypes import byref
from enum import IntEnum
from types import SimpleNamespace
from typing import Any, Optional

import numpy as np

from . import _declarations as declarations
from ._library import Handle, check, choose, lib, query, struct, text_of
from ._tensor import numpy_dtype, refer, view
from ._weight import Weight


class Activation(IntEnum):
    """What activations may lose inside a product."""

    DEFAULT = declarations.AWQ_ACTIVATION_DEFAULT
    EXACT = declarations.AWQ_ACTIVATION_EXACT
    SPLIT = declarations.AWQ_ACTIVATION_SPLIT
    BF16 = declarations.AWQ_ACTIVATION_BF16
    INT8 = declarations.AWQ_ACTIVATION_INT8


class Kernel(IntEnum):
    AUTO = declarations.AWQ_KERNEL_AUTO
    REFERENCE = declarations.AWQ_KERNEL_REFERENCE
    GEMV = declarations.AWQ_KERNEL_GEMV
    GEMM = declarations.AWQ_KERNEL_GEMM
    MARLIN = declarations.AWQ_KERNEL_MARLIN
    HOPPER = declarations.AWQ_KERNEL_HOPPER
    DEQUANT = declarations.AWQ_KERNEL_DEQUANT


class Tuning(Handle):
    """Measured kernel choices.  Made by ``Context.measure_tuning`` and ``Context.load_tuning``."""

    _kind = declarations.awq_tuning
    _destroy = lib.awq_tuning_destroy

    def save(self, path) -> None:
        check(lib.awq_tuning_save(self, os.fsencode(path)))


class Linear(Handle):
    """A weight prepared for the context's device: ``y = linear(x)``.  Threads may share it.

    ``weight`` is a Weight, or a dense array W[N][K] that is not to be quantised.
    """

    _kind = declarations.awq_linear
    _destroy = lib.awq_linear_destroy

    def __init__(
        self,
        context,
        weight: Any,
        *,
        bias: Optional[Any] = None,
        activation="default",
        kernel="auto",
        silu_mul: bool = False,
        tuning: Optional[Tuning] = None,
    ):
        options = struct(
            declarations.awq_linear_options,
            flags=silu_mul * declarations.AWQ_LINEAR_SILU_MUL,
            activation=choose(Activation, activation),
            kernel=choose(Kernel, kernel),
        )
        refer(options, bias=bias)
        if tuning is not None:
            options.tuning = tuning._as_parameter_
        if isinstance(weight, Weight):
            self._open(lib.awq_linear_create, context, weight, byref(options), keep=context)
        else:
            self._open(lib.awq_linear_create_dense, context, view(weight), byref(options), keep=context)

    @property
    def info(self) -> SimpleNamespace:
        """The fields of awq_linear_info, as in awq.h."""
        return query(declarations.awq_linear_info, lib.awq_linear_get_info, self)

    def __call__(
        self,
        x: Any,
        *,
        out: Optional[Any] = None,
        residual: Optional[Any] = None,
        norm_weight: Optional[Any] = None,
        norm_epsilon: float = 0.0,
    ) -> Any:
        """x W^T + bias (+ residual), for x[..][K] of float32, float16 or bfloat16.

        The result goes to ``out`` (a NumPy array, or any writable tensor with ``__dlpack__``), or to a new NumPy array
        of x's own type.  ``norm_weight`` has x RMS-normalised and multiplied by it first.
        """
        x = view(x)
        if out is None:
            shape = (*x.shape[:-1], self.info.outputs)
            out = np.empty(shape, numpy_dtype(x.dtype))
            y = view(out, x.dtype)
        else:
            y = view(out, writable=True)
        options = struct(declarations.awq_run_options, norm_epsilon=norm_epsilon)
        refer(options, residual=residual, norm_weight=norm_weight)
        check(lib.awq_linear_run(self, x, y, byref(options)))
        return out

    def describe(self, rows: int = 1) -> str:
        """Which kernel runs for that many rows, and why the others do not."""
        return text_of(lib.awq_linear_describe, self, rows)
