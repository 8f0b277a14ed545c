"""Safetensors files and directories of them."""

import os
from ctypes import byref
from typing import Any, Iterator, Mapping, Optional

from . import _declarations as declarations
from ._library import Handle, check, lib, struct
from ._tensor import Tensor, view


class Checkpoint(Handle, Mapping[str, Tensor]):
    """A safetensors file or a model directory: a mapping from names to read-only tensors over the mapped file.

    ``checkpoint["layer.weight"].numpy()`` copies nothing; the array keeps the file mapped.
    """

    _kind = declarations.awq_checkpoint
    _destroy = lib.awq_checkpoint_destroy

    def __getitem__(self, name: str) -> Tensor:
        struct_ = declarations.awq_tensor()
        check(lib.awq_checkpoint_get(self, name.encode(), byref(struct_)))
        return Tensor(struct_, self._owned)

    def __iter__(self) -> Iterator[str]:
        return (lib.awq_checkpoint_name(self, index).decode() for index in range(len(self)))

    def __len__(self) -> int:
        return lib.awq_checkpoint_count(self)

    def release(self, name: str) -> None:
        """The tensor's pages are not needed for now; they come back from the file when touched."""
        check(lib.awq_checkpoint_release(self, name.encode()))

    def metadata(self, key: str) -> Optional[str]:
        """A value of the file's __metadata__."""
        value = lib.awq_checkpoint_metadata(self, key.encode())
        return None if value is None else value.decode()


class CheckpointWriter(Handle):
    """Writes a model directory, in shards where it grows large.

    Leaving a ``with`` block without an exception commits: the directory appears, whole, under its name.  After an
    exception, or without commit(), nothing does.
    """

    _kind = declarations.awq_checkpoint_writer
    _destroy = lib.awq_checkpoint_writer_destroy

    def __init__(self, context, path, *, replace: bool = False, shard_bytes: int = 0, expected_tensors: int = 0):
        options = struct(
            declarations.awq_checkpoint_writer_options,
            flags=replace * declarations.AWQ_WRITER_REPLACE,
            shard_bytes=shard_bytes,
            expected_tensors=expected_tensors,
        )
        self._open(lib.awq_checkpoint_writer_create, context, os.fsencode(path), byref(options), keep=context)

    def add(self, name: str, tensor: Any, *, dtype=None) -> None:
        """Append a tensor; see ``awq.view`` for ``dtype``."""
        check(lib.awq_checkpoint_writer_add(self, name.encode(), view(tensor, dtype)))

    def add_file(self, name: str, content: "bytes | str") -> None:
        """Add a file beside the tensors, such as config.json."""
        content = content.encode() if isinstance(content, str) else content
        check(lib.awq_checkpoint_writer_add_file(self, name.encode(), content, len(content)))

    def commit(self) -> None:
        check(lib.awq_checkpoint_writer_commit(self))

    def __exit__(self, kind, *exception) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self.close()
