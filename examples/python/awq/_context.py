"""The context, from which everything else is made."""

import os
from ctypes import byref, c_char_p, c_uint64, pointer
from enum import IntEnum
from types import SimpleNamespace
from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from . import _declarations as declarations
from ._calibration import Archive, ArchiveWriter, Calibration
from ._checkpoint import Checkpoint, CheckpointWriter
from ._library import Handle, check, choose, lib, pointers, query, struct
from ._linear import Linear, Tuning
from ._search import Profile, Quantizer, Search, _Callbacks
from ._tensor import Dtype, numpy_dtype, optional_view, view
from ._weight import Layout, Packed, Weight


class LogLevel(IntEnum):
    ERROR = declarations.AWQ_LOG_ERROR
    WARNING = declarations.AWQ_LOG_WARNING
    INFO = declarations.AWQ_LOG_INFO
    DEBUG = declarations.AWQ_LOG_DEBUG


class Clipping(NamedTuple):
    """What ``Context.clip_search`` found."""

    limits: np.ndarray  # float32 [N][groups], for Context.quantize
    loss: float
    loss_unclipped: float
    groups: int
    clipped_groups: int


class Context(Handle):
    """A device and its threads: ``Context()`` is the CPU with all its cores, ``Context("cuda:0")`` a GPU.

    Threads may share it.  ``log(level, text)`` receives what the library has to say, from any thread.
    """

    _kind = declarations.awq_context
    _destroy = lib.awq_context_destroy

    def __init__(
        self,
        device: str = "cpu",
        *,
        threads: int = 0,
        memory_limit_bytes: int = 0,
        log: Optional[Callable[[LogLevel, str], None]] = None,
        log_level="warning",
    ):
        kind, _, index = device.partition(":")
        kinds = {"cpu": declarations.AWQ_DEVICE_CPU, "cuda": declarations.AWQ_DEVICE_CUDA}
        if kind not in kinds or not (index or "0").isdigit():
            raise ValueError(f"{device!r} is no device; write 'cpu', 'cuda' or 'cuda:1'")
        options = struct(
            declarations.awq_context_options,
            device_type=kinds[kind],
            device_id=int(index or 0),
            threads=threads,
            memory_limit_bytes=memory_limit_bytes,
            log_level=choose(LogLevel, log_level),
        )
        callback = declarations.awq_log_callback()
        if log is not None:
            callback = declarations.awq_log_callback(
                lambda _, level, message, length: log(LogLevel(level), message[:length].decode(errors="replace"))
            )
        options.log = callback
        self._open(lib.awq_context_create, byref(options), keep=callback)

    @property
    def device(self) -> SimpleNamespace:
        """What the context runs on: name, cpu_features, compute_units and so on."""
        return query(declarations.awq_device_info, lib.awq_context_get_device, self)

    @property
    def memory(self) -> "tuple[int, int]":
        """Host bytes held now, and at most so far, by everything made from this context."""
        current, peak = c_uint64(), c_uint64()
        check(lib.awq_context_get_memory(self, byref(current), byref(peak)))
        return current.value, peak.value

    def convert(self, source: Any, dtype="f32") -> np.ndarray:
        """A copy of float32, float16 or bfloat16 elements in another of these types."""
        source, dtype = view(source), Dtype(choose(Dtype, dtype))
        result = view(np.empty(source.shape, numpy_dtype(dtype)), dtype)
        check(lib.awq_tensor_copy(self, source, result, None))
        return result.numpy()

    # ---- calibration

    def calibration(self, channels: int, *, gram: bool = False, sample_rows: int = 0, seed: int = 0) -> Calibration:
        """Statistics for a layer with that many inputs.  ``sample_rows``: 0 keeps 512, a negative number none."""
        options = struct(
            declarations.awq_calibration_options,
            flags=gram * declarations.AWQ_CALIBRATION_GRAM,
            sample_rows=sample_rows,
            seed=seed,
        )
        return Calibration._create(lib.awq_calibration_create, self, channels, byref(options), keep=self)

    def load_calibration(self, path) -> Calibration:
        """Read what ``Calibration.save`` wrote."""
        return Calibration._create(lib.awq_calibration_load, self, os.fsencode(path), keep=self)

    def archive(self, path) -> Archive:
        """Open a file of named calibrations."""
        return Archive._create(lib.awq_archive_open, self, os.fsencode(path), keep=self)

    def archive_writer(self, path, provenance: str = "") -> ArchiveWriter:
        """Write a file of named calibrations."""
        return ArchiveWriter._create(
            lib.awq_archive_writer_create, self, os.fsencode(path), provenance.encode(), keep=self
        )

    # ---- quantisation

    def search(self, calibration: Calibration, weights: Sequence[Any], **options) -> Search:
        """Find the column scales of the linears ``weights``, which share the calibrated input.  See ``Search``."""
        return Search(self, calibration, weights, **options)

    def clip_search(
        self,
        w: Any,
        calibration: Calibration,
        search: Optional[Search] = None,
        quantizer: Optional[Quantizer] = None,
        *,
        grid_points: int = 0,
        max_shrink: float = 0.0,
        max_rows: int = 0,
        progress: Optional[Callable[[int, int], Any]] = None,
    ) -> Clipping:
        """Find the range that each group's weights are best limited to before they are rounded."""
        w, callbacks = view(w), _Callbacks(None, progress)
        options = struct(
            declarations.awq_clip_options,
            grid_points=grid_points,
            max_shrink=max_shrink,
            max_rows=max_rows,
            progress=callbacks.progress,
        )
        group_size = 0
        if quantizer is not None:
            options.quantize = pointer(quantizer._struct())
            group_size = quantizer.group_size
        group_size = group_size or (search._quantizer.group_size if search else 0) or 128
        groups = 1 if group_size < 0 or len(w.shape) < 2 else -(-w.shape[1] // group_size)
        limits = np.empty((w.shape[0] if w.shape else 0, groups), np.float32)
        result = struct(declarations.awq_clip_result)
        callbacks.check(lib.awq_clip_search(self, w, calibration, search, byref(options), view(limits), byref(result)))
        return Clipping(limits, result.loss, result.loss_unclipped, result.groups, result.clipped_groups)

    def quantize(
        self,
        w: Any,
        search: Optional[Search] = None,
        quantizer: Optional[Quantizer] = None,
        *,
        clip: Optional[Any] = None,
        input_scale: Optional[Any] = None,
        calibration: Optional[Calibration] = None,
    ) -> Weight:
        """Quantise W[N][K]: with a search's scales, with those given as ``input_scale``, or plainly.

        The quantizer's range and rounding go by ``calibration``, or else by the search's."""
        options = (quantizer or Quantizer())._struct(clip, input_scale, calibration)
        return Weight._create(lib.awq_quantize, self, view(w), search, byref(options), keep=self)

    def weight(
        self,
        codes: Any,
        scales: Any,
        zeros: Optional[Any] = None,
        *,
        bits: int = 0,
        group_size: int = 0,
        input_scale: Optional[Any] = None,
    ) -> Weight:
        """A weight from codes uint8 [N][K], scales [N][groups] and zeros uint8 [N][groups]; symmetric without zeros."""
        quantizer = Quantizer(bits=bits, group_size=group_size, symmetric=zeros is None)
        options = quantizer._struct(input_scale=input_scale)
        return Weight._create(
            lib.awq_weight_create, self, view(codes), view(scales), optional_view(zeros), byref(options), keep=self
        )

    def concatenate(self, weights: Sequence[Weight]) -> Weight:
        """Stack weights that share an input along their outputs."""
        array = pointers(declarations.awq_weight, [weight._as_parameter_ for weight in weights])
        return Weight._create(lib.awq_weight_concatenate, len(weights), array, keep=self)

    # ---- folding: the operation that produces a linear's input takes over the division by its scales, in place

    def fold_norm(
        self, scales: Any, weight: Any, bias: Optional[Any] = None, *, one_plus_weight: bool = False, profile="exact"
    ) -> None:
        """Divide a norm's weight[K] and bias[K]."""
        flags = one_plus_weight * declarations.AWQ_FOLD_ONE_PLUS_WEIGHT
        self._fold(lib.awq_fold_norm, scales, [weight, bias], flags=flags, profile=choose(Profile, profile))

    def fold_linear(
        self,
        scales: Any,
        weight: Any,
        bias: Optional[Any] = None,
        *,
        tie_copies: int = 0,
        tie_width: int = 0,
        profile="exact",
    ) -> None:
        """Divide the last rows of a linear's weight and bias."""
        self._fold(
            lib.awq_fold_linear,
            scales,
            [weight, bias],
            tie_copies=tie_copies,
            tie_width=tie_width,
            profile=choose(Profile, profile),
        )

    def fold_activation(self, scales: Any, factor: Any) -> None:
        """Divide the factor[K] that the caller multiplies an activation function's output by."""
        self._fold(lib.awq_fold_activation, scales, [factor])

    def _fold(self, function, scales, tensors, **fields) -> None:
        options = struct(declarations.awq_fold_options, **fields)
        views = [optional_view(tensor, writable=True) for tensor in tensors]
        check(function(self, view(scales), *views, byref(options)))

    # ---- layouts

    def pack(self, weight: Weight, layout="gemm") -> Packed:
        """Lay a weight out in a format, such as "gemm" or "compressed-tensors"."""
        return Packed._create(lib.awq_pack, self, weight, choose(Layout, layout), keep=self)

    def unpack(
        self, layout, planes: Mapping[str, Any], *, bits: int = 0, group_size: int = 0, symmetric: bool = False
    ) -> Weight:
        """Read a weight from a format's planes, given by name."""
        options = struct(
            declarations.awq_unpack_options,
            bits=bits,
            group_size=group_size,
            flags=symmetric * declarations.AWQ_QUANTIZE_SYMMETRIC,
        )
        views = [view(plane) for plane in planes.values()]
        names = (c_char_p * max(len(views), 1))(*(name.encode() for name in planes))
        tensors = pointers(declarations.awq_tensor, [pointer(plane._struct) for plane in views])
        return Weight._create(
            lib.awq_unpack, self, choose(Layout, layout), len(views), names, tensors, byref(options), keep=self
        )

    def pack_bias(self, layout, bias: Any) -> np.ndarray:
        """A copy of bias[N] in the order in which a format's kernels take it."""
        return self._bias(lib.awq_pack_bias, layout, bias)

    def unpack_bias(self, layout, bias: Any) -> np.ndarray:
        """The reverse of pack_bias."""
        return self._bias(lib.awq_unpack_bias, layout, bias)

    def _bias(self, function, layout, bias) -> np.ndarray:
        bias = view(bias)
        out = np.empty(bias.shape, numpy_dtype(bias.dtype))
        check(function(choose(Layout, layout), bias, view(out, bias.dtype)))
        return out

    # ---- running

    def linear(self, weight: Any, **options) -> Linear:
        """Prepare a Weight, or a dense array, to be multiplied by.  See ``Linear``."""
        return Linear(self, weight, **options)

    def measure_tuning(self, weights: Sequence[Weight], max_rows: int = 0) -> Tuning:
        """Time the kernels on weights of these shapes."""
        array = pointers(declarations.awq_weight, [weight._as_parameter_ for weight in weights])
        return Tuning._create(lib.awq_tuning_measure, self, len(weights), array, max_rows, keep=self)

    def load_tuning(self, path) -> Tuning:
        return Tuning._create(lib.awq_tuning_load, self, os.fsencode(path), keep=self)

    # ---- files

    def checkpoint(self, path) -> Checkpoint:
        """Open a safetensors file, or a directory of them."""
        return Checkpoint._create(lib.awq_checkpoint_open, self, os.fsencode(path), keep=self)

    def checkpoint_writer(self, path, **options) -> CheckpointWriter:
        """Write a model directory.  See ``CheckpointWriter``."""
        return CheckpointWriter(self, path, **options)


def estimate_memory(
    *, tied_head: bool = False, gated_mlp: bool = True, symmetric: bool = False, **shape: int
) -> SimpleNamespace:
    """What a decoder model needs in bytes, from the fields of awq_memory_request: layers, hidden, heads and so on."""
    known = {name for name, _ in declarations.awq_memory_request._fields_}
    if not known.issuperset(shape):
        raise TypeError(f"awq_memory_request has no {', '.join(sorted(set(shape) - known))}")
    flags = tied_head * declarations.AWQ_MODEL_TIED_HEAD | gated_mlp * declarations.AWQ_MODEL_GATED_MLP
    request = struct(
        declarations.awq_memory_request,
        flags=flags,
        quantize_flags=symmetric * declarations.AWQ_QUANTIZE_SYMMETRIC,
        **shape,
    )
    return query(declarations.awq_memory_estimate_result, lib.awq_memory_estimate, byref(request))
