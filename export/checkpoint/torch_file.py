"""``.bin`` files of ``torch.save``, read without torch and without running any code that they contain.

A file is a ZIP archive whose members are stored uncompressed: ``NAME/data.pkl``, a pickle that says how
tensors are made of storages, and ``NAME/data/KEY``, the storages. A pickle is a program for a small machine
that may call any Python function by name. The machine here knows only the instructions that a dictionary of
tensors needs, and its "functions" make records of its own, so nothing in the file is ever imported or called.
"""

from __future__ import annotations

import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from internvl_rt.errors import CheckpointError
from internvl_rt.export.checkpoint.tensor import CheckpointTensor

MAX_PICKLE_BYTES = 64 << 20
"""Real ones are under a few hundred KB."""
MAX_DIMENSIONS = 8
MAX_EXTENT = 1 << 40

STORAGE_TYPES = {
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
}

_ORDERED_DICT = ("collections", "OrderedDict")
_TENSOR = ("torch._utils", "_rebuild_tensor_v2")
_PARAMETERS = (("torch._utils", "_rebuild_parameter"), ("torch._utils", "_rebuild_parameter_with_state"))
_WITH_ATTRIBUTES = ("torch._tensor", "_rebuild_from_type_v2")
_TENSOR_TYPES = (("torch", "Tensor"), ("torch.nn.parameter", "Parameter"), ("torch.nn.parameter", "Buffer"))

ALLOWED_GLOBALS = {
    _ORDERED_DICT,
    _TENSOR,
    *_PARAMETERS,
    _WITH_ATTRIBUTES,
    *_TENSOR_TYPES,
    *(("torch", name) for name in STORAGE_TYPES),
}


_MALFORMED = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    struct.error,
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What ``zipfile`` and ``pickletools`` raise for files that are not what they seem."""


class _RefusedError(Exception):
    """Something in the file that is not a dictionary of tensors. The message has no file name."""


@dataclass(frozen=True)
class _Global:
    module: str
    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    type_name: str
    elements: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_file(path: Path) -> dict[str, CheckpointTensor]:
    """The tensors of a ``.bin`` file.

    Raises:
        CheckpointError: if it is not what ``torch.save`` writes for a dictionary of tensors. For a file that
            asks for anything else to be imported or called, the message names it.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                raise _RefusedError(
                    "is not a ZIP archive, which torch.save writes since release 1.6: it is truncated, or an "
                    "old file. Save it as safetensors where it can be loaded safely (weights_only=True)"
                )
            with zipfile.ZipFile(file) as archive:
                return _read_archive(path, file, archive)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error}). Download the checkpoint again.") from error
    except _RefusedError as error:
        raise CheckpointError(f"{path}: {error}.") from None
    except _MALFORMED as error:
        raise CheckpointError(
            f"{path}: is not a whole file of torch.save ({str(error)[:200]}). Download the checkpoint again."
        ) from error


def _read_archive(path: Path, file: BinaryIO, archive: zipfile.ZipFile) -> dict[str, CheckpointTensor]:
    pickles = [m for m in archive.infolist() if m.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise _RefusedError(f"has {len(pickles)} members named data.pkl where torch.save writes one")
    prefix = pickles[0].filename.removesuffix("data.pkl")
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        if member.filename in members:
            raise _RefusedError(f"has the member {member.filename[:200]!r} twice")
        members[member.filename] = member
    order = members.get(f"{prefix}byteorder")
    if order is not None and (order.file_size > 16 or archive.read(order) != b"little"):
        raise _RefusedError("was written on a big-endian machine; save it as safetensors")
    if pickles[0].file_size > MAX_PICKLE_BYTES or pickles[0].compress_type != zipfile.ZIP_STORED:
        raise _RefusedError("has a data.pkl that is compressed or implausibly large")
    document = _Machine().run(archive.read(pickles[0]))
    if not isinstance(document, dict):
        raise _RefusedError("does not hold a dictionary of tensors")
    places: dict[str, int] = {}
    tensors = {}
    for name, value in document.items():
        if not isinstance(value, _Tensor):
            if isinstance(value, dict):
                raise _RefusedError(f"has a dictionary at {name!r}; a flat dictionary of tensors is expected")
            continue
        key = value.storage.key
        if key not in places:
            places[key] = _storage_offset(file, members.get(f"{prefix}data/{key}"), value.storage)
        dtype, item = STORAGE_TYPES[value.storage.type_name]
        tensors[str(name)] = CheckpointTensor(
            str(name), path, dtype, value.shape, places[key] + value.offset * item, value.strides
        )
    return tensors


def _storage_offset(file: BinaryIO, member: zipfile.ZipInfo | None, storage: _Storage) -> int:
    """Where a storage's bytes begin in the file: behind the member's local header."""
    if member is None:
        raise _RefusedError(f"lacks the storage {storage.key[:100]!r}")
    size = storage.elements * STORAGE_TYPES[storage.type_name][1]
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != size:
        raise _RefusedError(
            f"has {member.file_size} bytes in the storage {storage.key[:100]!r}, where {size} uncompressed "
            "ones are expected"
        )
    file.seek(member.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise _RefusedError(f"is truncated or altered at the storage {storage.key[:100]!r}")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    begin = member.header_offset + 30 + int(name_length) + int(extra_length)
    if begin + size > file.seek(0, 2):
        raise _RefusedError(f"is truncated at the storage {storage.key[:100]!r}")
    return begin


_MARK = object()


class _Machine:
    """Runs the few pickle instructions that a dictionary of tensors needs."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        """The object that the pickle describes.

        Raises:
            _RefusedError: at the first instruction, global or call that is not allowed.
            ValueError, IndexError, ...: if the pickle is malformed.
        """
        for opcode, argument, _ in pickletools.genops(program):
            if opcode.name == "STOP":
                return self.stack.pop()
            step = _STEPS.get(opcode.name)
            if step is None:
                raise _RefusedError(
                    f"uses the pickle instruction {opcode.name}, which tensors do not need. "
                    "It may be malicious: do not load it elsewhere"
                )
            step(self, argument)
        raise ValueError("the pickle does not end")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_to_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("a mark is missing")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def pop(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise ValueError("the stack is empty")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def global_(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise _RefusedError("asks for a global whose name is not text")
        if (module, name) not in ALLOWED_GLOBALS:
            raise _RefusedError(
                f"asks for {module[:100]}.{name[:100]}, which no tensor is made of. "
                "It may be malicious: do not load it elsewhere"
            )
        self.push(_Global(module, name))

    def stack_global(self) -> None:
        self.global_(*self.pop(2))

    def persistent_load(self) -> None:
        (identity,) = self.pop(1)
        match identity:
            case ("storage", _Global("torch", str(type_name)), str(key), str(), int(elements)):
                if type_name in STORAGE_TYPES and type(elements) is int and 0 <= elements <= MAX_EXTENT:
                    self.push(_Storage(key, type_name, elements))
                    return
        raise _RefusedError("refers to something that is not a storage of numbers")

    def reduce(self) -> None:
        self.push(_call(*self.pop(2)))

    def build(self) -> None:
        """State of an object: torch hangs ``_metadata`` on a state_dict, which is not needed."""
        target, _ = self.pop(2)
        if not isinstance(target, dict):
            raise _RefusedError("sets the state of something that is not a dictionary")
        self.push(target)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise _RefusedError("puts items into something that is not a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):
                raise _RefusedError("has a dictionary key that is no string")
            if key in target:
                raise _RefusedError(f"has the tensor {str(key)[:200]!r} twice")
            target[key] = value

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise _RefusedError("appends to something that is not a list")
        target.extend(items)


def _call(function: Any, arguments: Any) -> Any:
    """What a function of ``ALLOWED_GLOBALS`` makes of its arguments.

    A parameter is (tensor, requires_grad, hooks[, attributes]); a tensor with attributes of its own is
    (function, type, its arguments, attributes). Hooks and attributes are Python's and not needed.
    """
    if isinstance(function, _Global) and isinstance(arguments, tuple):
        called = (function.module, function.name)
        if called == _ORDERED_DICT and arguments == ():
            return {}
        if called == _TENSOR:
            return _rebuild(arguments)
        if called in _PARAMETERS and arguments and isinstance(arguments[0], _Tensor):
            return arguments[0]
        if called == _WITH_ATTRIBUTES:
            match arguments:
                case (_Global() as inner, _Global() as kind, tuple(given), *_):
                    # A call of itself inside would nest without a bound.
                    if (kind.module, kind.name) in _TENSOR_TYPES and inner != function:
                        return _call(inner, given)
    raise _RefusedError("calls something other than the rebuilding of a tensor")


def _rebuild(arguments: tuple[Any, ...]) -> _Tensor:
    match arguments:
        case (_Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), *_):
            pass
        case _:
            raise _RefusedError("rebuilds a tensor from something that is not a storage")
    numbers = (offset, *shape, *strides)
    if (
        len(shape) != len(strides)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(n) is int and 0 <= n <= MAX_EXTENT for n in numbers)
    ):
        raise _RefusedError("has a tensor of an impossible shape")
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.elements:
        raise _RefusedError(f"has a tensor that reaches beyond the end of its storage {storage.key[:100]!r}")
    return _Tensor(storage, offset, shape, strides)


def _memoize(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(tuple(machine.pop(count)))


def _nothing(machine: _Machine, argument: Any) -> None:
    del machine, argument


def _push(machine: _Machine, argument: Any) -> None:
    machine.push(argument)


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), _nothing),
    "MARK": lambda machine, _: machine.push(_MARK),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _push),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "GLOBAL": lambda machine, name: machine.global_(*str(name).split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.stack_global(),
    "BINPERSID": lambda machine, _: machine.persistent_load(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "APPEND": lambda machine, _: machine.append(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _memoize),
    "MEMOIZE": lambda machine, _: _memoize(machine, len(machine.memo)),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, index: machine.push(machine.memo[index])),
}
