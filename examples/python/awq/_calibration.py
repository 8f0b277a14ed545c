"""Calibration: statistics of what a linear layer sees, and the archives that keep them."""

import os
from ctypes import POINTER, c_double
from enum import IntEnum
from types import SimpleNamespace
from typing import Any, Iterator, Mapping, Optional

import numpy as np

from . import _declarations as declarations
from ._library import Handle, check, choose, lib, query
from ._tensor import Tensor, optional_view, view


class Statistic(IntEnum):
    MEAN_ABS = declarations.AWQ_STATISTIC_MEAN_ABS
    MEAN_SQUARE = declarations.AWQ_STATISTIC_MEAN_SQUARE
    MAX_ABS = declarations.AWQ_STATISTIC_MAX_ABS


class Calibration(Handle):
    """Statistics of the input of one linear layer, or of several that share it.  One thread at a time.

    Made by ``Context.calibration``.
    """

    _kind = declarations.awq_calibration
    _destroy = lib.awq_calibration_destroy

    def observe(self, x: Any, weights: Optional[Any] = None) -> None:
        """Add activations x[..][channels].  ``weights``, float32, say how often each row counts."""
        rows = optional_view(weights)
        if rows is None:
            check(lib.awq_calibration_observe(self, view(x)))
        else:
            check(lib.awq_calibration_observe_weighted(self, view(x), rows))

    def merge(self, source: "Calibration") -> None:
        """Add what ``source`` has seen."""
        check(lib.awq_calibration_merge(self, source))

    def trim(self) -> None:
        """Round the sums, so that parts merge to the same bytes in any order."""
        check(lib.awq_calibration_trim(self))

    @property
    def info(self) -> SimpleNamespace:
        """The fields of awq_calibration_info, as in awq.h."""
        return query(declarations.awq_calibration_info, lib.awq_calibration_get_info, self)

    @property
    def channels(self) -> int:
        return self.info.channels

    @property
    def rows(self) -> int:
        """Rows observed so far."""
        return self.info.rows

    def statistic(self, which="mean_abs") -> np.ndarray:
        """One number per channel: the mean of |x|, the mean of x^2, or the largest |x|."""
        values = np.empty(self.channels)
        check(lib.awq_calibration_get_statistic(self, choose(Statistic, which), _doubles(values), values.size))
        return values

    def samples(self) -> np.ndarray:
        """A copy of the kept rows, float32 [rows][channels]."""
        samples = Tensor(declarations.awq_tensor(), self)
        check(lib.awq_calibration_get_samples(self, samples))
        return np.array(samples.numpy())

    def save(self, path) -> None:
        """Write an archive that holds this calibration alone."""
        check(lib.awq_calibration_save(self, os.fsencode(path)))


def _doubles(values: np.ndarray):
    return values.ctypes.data_as(POINTER(c_double))


class Archive(Handle, Mapping[str, Calibration]):
    """A file of named calibrations, open for reading.  A mapping: ``archive["layers.0.q_proj"]`` loads one."""

    _kind = declarations.awq_archive
    _destroy = lib.awq_archive_destroy

    @property
    def provenance(self) -> str:
        """The text its writer gave."""
        return lib.awq_archive_provenance(self).decode()

    def __getitem__(self, name: str) -> Calibration:
        return Calibration._create(lib.awq_archive_load, self, name.encode(), keep=self)

    def __iter__(self) -> Iterator[str]:
        return (lib.awq_archive_name(self, index).decode() for index in range(len(self)))

    def __len__(self) -> int:
        return lib.awq_archive_count(self)


class ArchiveWriter(Handle):
    """Writes an archive.  Leaving a ``with`` block without an exception commits it; before that nothing appears."""

    _kind = declarations.awq_archive_writer
    _destroy = lib.awq_archive_writer_destroy

    def add(self, name: str, calibration: Calibration) -> None:
        check(lib.awq_archive_writer_add(self, name.encode(), calibration))

    def commit(self) -> None:
        check(lib.awq_archive_writer_commit(self))

    def __exit__(self, kind, *exception) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self.close()
