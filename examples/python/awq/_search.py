"""The search for column scales, and its options."""

from ctypes import POINTER, byref, c_double, c_float, pointer
from dataclasses import dataclass
from enum import IntEnum
from types import SimpleNamespace
from typing import Any, Callable, List, NamedTuple, Optional, Sequence

import numpy as np

from . import _declarations as declarations
from ._library import Error, Handle, Status, check, choose, lib, query, struct
from ._tensor import Dtype, Tensor, refer, view


class Profile(IntEnum):
    """Arithmetic: the library's own, or that of AutoAWQ or llm-awq bit for bit."""

    EXACT = declarations.AWQ_PROFILE_EXACT
    AUTOAWQ = declarations.AWQ_PROFILE_AUTOAWQ
    LLM_AWQ = declarations.AWQ_PROFILE_LLM_AWQ


class Range(IntEnum):
    MINMAX = declarations.AWQ_RANGE_MINMAX
    SEARCH = declarations.AWQ_RANGE_SEARCH


class Rounding(IntEnum):
    NEAREST = declarations.AWQ_ROUND_NEAREST
    FEEDBACK = declarations.AWQ_ROUND_FEEDBACK
    DESCENT = declarations.AWQ_ROUND_DESCENT


class Scales(IntEnum):
    PLAIN = declarations.AWQ_SCALES_PLAIN
    DUO = declarations.AWQ_SCALES_DUO
    BOTH = declarations.AWQ_SCALES_BOTH


class Normalization(IntEnum):
    GEOMETRIC = declarations.AWQ_NORMALIZE_GEOMETRIC
    MEAN = declarations.AWQ_NORMALIZE_MEAN


class Objective(IntEnum):
    SAMPLES = declarations.AWQ_OBJECTIVE_SAMPLES
    GRAM = declarations.AWQ_OBJECTIVE_GRAM


@dataclass(frozen=True)
class Quantizer:
    """How weights are rounded.  What is left out is the search's choice, or else 4 bits, groups of 128, zero points."""

    bits: int = 0
    group_size: int = 0  # inputs per group; -1: one group a row
    symmetric: bool = False
    folded: bool = False  # the caller folds the search's scales, so the weight records none
    profile: "Profile | str" = Profile.EXACT
    scale_dtype: "Dtype | str | None" = None
    range: "Range | str" = Range.MINMAX
    rounding: "Rounding | str" = Rounding.NEAREST  # others want a calibration with gram=True
    damping: float = 0.0

    def _struct(self, clip: Optional[Any] = None, input_scale: Optional[Any] = None, calibration=None):
        flags = self.symmetric * declarations.AWQ_QUANTIZE_SYMMETRIC
        flags |= self.folded * declarations.AWQ_QUANTIZE_INPUT_SCALE_FOLDED
        options = struct(
            declarations.awq_quantize_options,
            bits=self.bits,
            group_size=self.group_size,
            flags=flags,
            profile=choose(Profile, self.profile),
            scale_dtype=0 if self.scale_dtype is None else choose(Dtype, self.scale_dtype),
            calibration=None if calibration is None else calibration._as_parameter_,
            range=choose(Range, self.range),
            rounding=choose(Rounding, self.rounding),
            damping=self.damping,
        )
        return refer(options, clip=clip, input_scale=input_scale)


class Candidate(NamedTuple):
    alpha: float
    loss: float


class _Callbacks:
    """Python functions for the library to call.  An exception ends the work and comes out of the call that did it."""

    def __init__(self, loss, progress):
        self.exception = None
        self.loss = declarations.awq_loss_callback(self._loss) if loss else declarations.awq_loss_callback()
        self.progress = (
            declarations.awq_progress_callback(self._progress) if progress else declarations.awq_progress_callback()
        )
        self._user_loss, self._user_progress = loss, progress

    def _guard(self, function) -> int:
        try:
            return 1 if function() else 0
        except BaseException as exception:
            self.exception = exception
            return 1

    def _loss(self, _, count, candidates, loss):
        def call():
            arrays = [Tensor(candidates[i].contents, self).numpy() for i in range(count)]
            loss[0] = self._user_loss(arrays)

        return self._guard(call)

    def _progress(self, _, done, total):
        return self._guard(lambda: self._user_progress(done, total))

    def check(self, status: int) -> None:
        """Raise what a callback raised, or else what the library says."""
        try:
            check(status)
        except Error as error:
            if error.status == Status.CANCELLED and self.exception is not None:
                raise self.exception from None
            raise


class Search(Handle):
    """A finished search over linears that share one input.  Made by ``Context.search``, for ``Context.quantize``."""

    _kind = declarations.awq_search
    _destroy = lib.awq_search_destroy

    def __init__(
        self,
        context,
        calibration,
        weights: Sequence[Any],
        *,
        quantizer: Optional[Quantizer] = None,
        grid_points: int = 0,
        scales="plain",
        normalization="geometric",
        objective="samples",
        closed_grid: bool = False,
        smooth_factor: float = 0.0,
        max_rows: int = 0,
        tie_copies: int = 0,
        tie_width: int = 0,
        sketch_rows: int = 0,
        loss: Optional[Callable[[List[np.ndarray]], float]] = None,
        progress: Optional[Callable[[int, int], Any]] = None,
    ):
        callbacks = _Callbacks(loss, progress)
        options = struct(
            declarations.awq_search_options,
            flags=closed_grid * declarations.AWQ_SEARCH_CLOSED_GRID,
            grid_points=grid_points,
            scales=choose(Scales, scales),
            normalization=choose(Normalization, normalization),
            objective=choose(Objective, objective),
            smooth_factor=smooth_factor,
            max_rows=max_rows,
            tie_copies=tie_copies,
            tie_width=tie_width,
            sketch_rows=sketch_rows,
            loss=callbacks.loss,
            progress=callbacks.progress,
        )
        if quantizer is not None:
            options.quantize = pointer(quantizer._struct())
        views = [view(weight) for weight in weights]
        self._channels, self._quantizer = calibration.channels, quantizer or Quantizer()
        self._open(lib.awq_search_create, context, calibration, byref(options), keep=(callbacks, context))
        for weight in views:
            check(lib.awq_search_add_weight(self, weight))
        callbacks.check(lib.awq_search_run(self))

    @property
    def result(self) -> SimpleNamespace:
        """The fields of awq_search_result, as in awq.h."""
        return query(declarations.awq_search_result, lib.awq_search_get_result, self)

    @property
    def alpha(self) -> float:
        return self.result.alpha

    @property
    def loss(self) -> float:
        """Mean squared error of the outputs with the best scales."""
        return self.result.loss

    @property
    def loss_identity(self) -> float:
        """The same of plain rounding."""
        return self.result.loss_identity

    @property
    def scales(self) -> np.ndarray:
        """The best scale of every input channel."""
        values = np.empty(self._channels, np.float32)
        check(lib.awq_search_get_scales(self, values.ctypes.data_as(POINTER(c_float)), values.size))
        return values

    @property
    def history(self) -> List[Candidate]:
        """Alpha and loss of every candidate, in the order they were tried."""
        alphas, losses = np.empty((2, self.result.candidates))
        doubles = POINTER(c_double)
        check(
            lib.awq_search_get_history(
                self, alphas.ctypes.data_as(doubles), losses.ctypes.data_as(doubles), alphas.size
            )
        )
        return [Candidate(*pair) for pair in zip(alphas.tolist(), losses.tolist())]
