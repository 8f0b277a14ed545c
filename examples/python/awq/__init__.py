"""Activation-aware weight quantisation (AWQ) through libawq.

    import awq

    ctx = awq.Context()                      # or awq.Context("cuda:0")
    cal = ctx.calibration(channels=k)
    for batch in batches:
        cal.observe(batch)                   # a NumPy array, or anything with __dlpack__
    best = ctx.search(cal, [w])              # .scales .alpha .loss .history
    layer = ctx.linear(ctx.quantize(w, best))
    y = layer(x)

Arrays are used where they lie: NumPy arrays, PyTorch tensors, and whatever else exports DLPack or converts to NumPy.
Failures raise ``awq.Error`` with the library's text and its ``status``.  What each operation means, awq.h documents.
"""

from ._calibration import Archive, ArchiveWriter, Calibration, Statistic
from ._checkpoint import Checkpoint, CheckpointWriter
from ._context import Clipping, Context, LogLevel, estimate_memory
from ._library import Error, InvalidError, NotFoundError, OutOfMemoryError, Status, version
from ._linear import Activation, Kernel, Linear, Tuning
from ._search import Candidate, Normalization, Objective, Profile, Quantizer, Range, Rounding, Scales, Search
from ._tensor import Dtype, Tensor, view
from ._weight import Layout, Packed, Weight

__all__ = [
    "Activation",
    "Archive",
    "ArchiveWriter",
    "Calibration",
    "Candidate",
    "Checkpoint",
    "CheckpointWriter",
    "Clipping",
    "Context",
    "Dtype",
    "Error",
    "InvalidError",
    "Kernel",
    "Layout",
    "Linear",
    "LogLevel",
    "Normalization",
    "NotFoundError",
    "Objective",
    "OutOfMemoryError",
    "Packed",
    "Profile",
    "Quantizer",
    "Range",
    "Rounding",
    "Scales",
    "Search",
    "Statistic",
    "Status",
    "Tensor",
    "Tuning",
    "Weight",
    "estimate_memory",
    "version",
    "view",
]
