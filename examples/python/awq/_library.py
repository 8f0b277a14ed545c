"""Finding libawq, calling it, and turning its failures into exceptions."""

import ctypes
import ctypes.util
import os
from ctypes import POINTER, byref
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace

from . import _declarations as declarations


def _candidates():
    """Where libawq may be: named by the environment, in the tree this file lies in, or known to the system's loader."""
    if os.environ.get("AWQ_LIBRARY"):
        return [os.environ["AWQ_LIBRARY"]]  # and nowhere else: a wrong name must not find another library
    built = Path(__file__).resolve().parents[3] / "build" / "libawq.so"
    return ([str(built)] if built.exists() else []) + [ctypes.util.find_library("awq") or "libawq.so.0"]


def _load():
    failures = []
    for name in _candidates():
        try:
            library = ctypes.CDLL(name)
            break
        except OSError as error:
            failures.append(str(error))
    else:
        raise ImportError(f"libawq was not found; set AWQ_LIBRARY to the path of libawq.so ({'; '.join(failures)})")
    for function, (result, arguments) in declarations.FUNCTIONS.items():
        try:
            entry = getattr(library, function)
        except AttributeError:
            raise ImportError(f"{name} has no {function}: it is older than this package") from None
        entry.restype, entry.argtypes = result, arguments
    return library


lib = _load()


class Status(IntEnum):
    """Why a call failed; see awq.h."""

    OK = declarations.AWQ_OK
    INVALID = declarations.AWQ_ERROR_INVALID
    UNSUPPORTED = declarations.AWQ_ERROR_UNSUPPORTED
    OUT_OF_MEMORY = declarations.AWQ_ERROR_OUT_OF_MEMORY
    MEMORY_LIMIT = declarations.AWQ_ERROR_MEMORY_LIMIT
    IO = declarations.AWQ_ERROR_IO
    FORMAT = declarations.AWQ_ERROR_FORMAT
    NON_FINITE = declarations.AWQ_ERROR_NON_FINITE
    NOT_FOUND = declarations.AWQ_ERROR_NOT_FOUND
    CANCELLED = declarations.AWQ_ERROR_CANCELLED
    STATE = declarations.AWQ_ERROR_STATE
    NO_DEVICE = declarations.AWQ_ERROR_NO_DEVICE
    DEVICE = declarations.AWQ_ERROR_DEVICE
    VERSION = declarations.AWQ_ERROR_VERSION


class Error(Exception):
    """A call into libawq failed.  str() is the library's own text, ``status`` its code."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = Status(status) if status in list(Status) else status

    def __str__(self) -> str:
        return self.args[0]

    def __reduce__(self):
        return type(self), (int(self.status), self.args[0])


class InvalidError(Error, ValueError):
    """An argument is out of range, or of the wrong shape or dtype."""


class NotFoundError(Error, KeyError):
    """No tensor, section or file of that name."""


class OutOfMemoryError(Error, MemoryError):
    """The allocator, or the context's memory limit, gave out."""


_ERRORS = {
    Status.INVALID: InvalidError,
    Status.NON_FINITE: InvalidError,
    Status.NOT_FOUND: NotFoundError,
    Status.OUT_OF_MEMORY: OutOfMemoryError,
    Status.MEMORY_LIMIT: OutOfMemoryError,
}


def check(status: int) -> None:
    """Raise what the calling thread's last call failed with."""
    if status != declarations.AWQ_OK:
        raise _ERRORS.get(status, Error)(status, lib.awq_last_error().decode())


def struct(kind, **fields):
    """An options or info struct, prepared as the library wants it."""
    return kind(struct_size=ctypes.sizeof(kind), **fields)


def query(kind, function, *arguments) -> SimpleNamespace:
    """The fields of the info struct that ``function`` fills through its last parameter."""
    info = struct(kind)
    check(function(*arguments, byref(info)))
    fields = ((name, getattr(info, name)) for name, _ in kind._fields_ if name not in ("struct_size", "reserved"))
    return SimpleNamespace(**{name: value.decode() if isinstance(value, bytes) else value for name, value in fields})


def choose(enum, value) -> int:
    """The number of an enum's member, given as that or by name ("llm-awq", "LLM_AWQ")."""
    if not isinstance(value, str):
        return int(enum(value))
    try:
        return int(enum[value.upper().replace("-", "_")])
    except KeyError:
        names = ", ".join(member.name.lower() for member in enum)
        raise ValueError(f"{value!r} is none of {names}") from None


def pointers(kind, values):
    """An array of these pointers."""
    return (POINTER(kind) * max(len(values), 1))(*values)


def text_of(function, *arguments) -> str:
    """The text of a function that ends in (buffer, capacity, length)."""
    length = ctypes.c_size_t()
    check(function(*arguments, None, 0, byref(length)))
    buffer = ctypes.create_string_buffer(length.value + 1)
    check(function(*arguments, buffer, len(buffer), None))
    return buffer.value.decode()


class _Owned:
    """A pointer to an object of the library, which is destroyed with it."""

    def __init__(self, pointer, destroy):
        self.pointer, self._destroy = pointer, destroy

    def __del__(self):
        self._destroy(self.pointer)


class Handle:
    """An object of the library.  Released by close(), at the end of a with statement, or when nothing refers to it.

    The library keeps alive what an object depends on, so the order of closing does not matter.  Close nothing that
    another thread is using.
    """

    _kind: type  # the opaque struct of awq.h
    _destroy = None  # its destroy function
    _owned = None
    _keep = None  # Python objects that the library calls back

    @classmethod
    def _create(cls, function, *arguments, keep=None):
        """The object that ``function`` stores through its last parameter."""
        self = cls.__new__(cls)
        self._open(function, *arguments, keep=keep)
        return self

    def _open(self, function, *arguments, keep=None):
        pointer = POINTER(self._kind)()
        check(function(*arguments, byref(pointer)))
        self._owned, self._keep = _Owned(pointer, type(self)._destroy), keep

    @property
    def _as_parameter_(self):
        if self._owned is None:
            raise ValueError(f"this {type(self).__name__} is closed")
        return self._owned.pointer

    def close(self) -> None:
        """Release the object, as soon as no array over its memory is left; calling this again does nothing."""
        self._owned = None

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def version() -> str:
    """The version of the library that runs, such as "0.1.0"."""
    return lib.awq_version_string().decode()
