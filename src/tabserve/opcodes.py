"""The opcodes of a pickle, followed with stand-ins for what they would make: nothing is imported,
and nothing called.

Only what is needed to know each import by its name and where the next opcode stands: joblib puts
the bytes of an array behind the opcode that completes its stand-in.
"""

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tabserve import compression

# That many steps take some ten seconds; a forest of a thousand trees has some hundred thousand.
_MAX_STEPS = 10_000_000
# Of pickles in one another: joblib writes arrays of objects so.
_MAX_DEPTH = 20

_PIECE = 2**20


class CannotFollow(Exception):
    """Says why, as the rest of a sentence."""


class Imported(NamedTuple):
    module: str
    name: str


def imported(content: bytes) -> list[Imported]:
    """What a pickle or a joblib file, compressed or not, would import, in that order.

    Raises CannotFollow, and ArtifactError for what cannot be decompressed.
    """
    if compression.is_compressed(content) and (
        compression.is_compressed(compression.opened(content).peek(8))
    ):
        raise CannotFollow("it is compressed more than once")
    found: dict[Imported, None] = {}
    try:
        _follow(_Stream(content), found, depth=0)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError):
        raise CannotFollow("it is no pickle, or not a whole one") from None
    return list(found)


class _Stream:
    """What pickletools reads from."""

    def __init__(self, content: bytes) -> None:
        self._file = compression.opened(content)
        self._most = compression.limit(len(content))
        self._place = 0
        self.steps = 0

    def read(self, size: int) -> bytes:
        if size > self._most - self._place:
            raise CannotFollow("a part of it is said to be larger than it may be")
        piece = self._file.read(size)
        self._place += len(piece)
        return piece

    def readline(self) -> bytes:
        line = self._file.readline()
        self._place += len(line)
        return line

    def tell(self) -> int:
        return self._place

    def skip(self, size: int) -> None:
        while size > 0:
            piece = self.read(min(size, _PIECE))
            if not piece:
                raise CannotFollow("it ends within an array")
            size -= len(piece)


@dataclass(eq=False)
class _Made:
    """What a call would give, and the state that it is then given."""

    function: Any
    arguments: Any
    state: Any = None


_MARK = object()
_ANYTHING = object()

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ELSEWHERE = {
    "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER"
}  # fmt: skip


def _follow(stream: _Stream, found: dict[Imported, None], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise CannotFollow(f"it holds pickles in one another, more than {_MAX_DEPTH} deep")
    machine = _Machine(found)
    frame_end = 0
    argument: Any
    for opcode, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type] # it reads
        stream.steps += 1
        if stream.steps > _MAX_STEPS:
            raise CannotFollow(f"it has more than {_MAX_STEPS} steps")
        if opcode.name == "FRAME":
            frame_end = stream.tell() + argument
        machine.do(opcode.name, argument)
        # In a pickle within joblib's, arrays are no longer joblib's.
        if opcode.name == "BUILD" and depth == 0 and _is_array(machine.stack[-1]):
            if stream.tell() < frame_end:  # the loader would look for it behind the frame
                raise CannotFollow("an array stands within a frame")
            array = machine.stack.pop()
            machine.stack.append(_ANYTHING)
            _pass_over(array.state, stream, found, depth)


class _Machine:
    def __init__(self, found: dict[Imported, None]) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._protocol = 0
        self._found = found

    def do(self, name: str, argument: Any) -> None:
        match name:
            case "PROTO":
                self._protocol = argument
            case "FRAME" | "STOP":
                pass
            case "MARK":
                self.stack.append(_MARK)
            case "POP":
                self.stack.pop()
            case "POP_MARK":
                self._to_mark()
            case "DUP":
                self.stack.append(self.stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                self.stack.append(self._memo[argument])
            case _:
                self._make(name, argument)

    def _make(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case _ if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case _ if name in _TUPLES:
                stack.append(tuple(self._pop() for _ in range(_TUPLES[name]))[::-1])
            case "TUPLE":
                stack.append(tuple(self._to_mark()))
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                stack.append(_texts(self._to_mark()))
            case "SETITEM":
                value, key = self._pop(), self._pop()
                _update(stack[-1], [key, value])
            case "SETITEMS":
                items = self._to_mark()
                _update(stack[-1], items)
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append(_ANYTHING)
            case "LIST" | "FROZENSET":
                self._to_mark()
                stack.append(_ANYTHING)
            case "APPEND":
                self._pop()
            case "APPENDS" | "ADDITEMS":
                self._to_mark()
            case _ if name in _ELSEWHERE:
                raise CannotFollow(f"it takes what does not stand in it ({name})")
            case _ if argument is not None and name not in ("GLOBAL", "INST"):
                stack.append(argument)  # a number, text or bytes
            case _:
                self._call(name, argument)

    def _call(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "GLOBAL":
                stack.append(self._import(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = self._pop(), self._pop()
                stack.append(self._import(module, attribute))
            case "INST":
                stack.append(_Made(self._import(*argument.split(" ", 1)), self._to_mark()))
            case "OBJ":
                function, *arguments = self._to_mark()
                stack.append(_Made(function, tuple(arguments)))
            case "REDUCE" | "NEWOBJ":
                arguments, function = self._pop(), self._pop()
                stack.append(_Made(function, arguments))
            case "NEWOBJ_EX":
                _, arguments, function = self._pop(), self._pop(), self._pop()
                stack.append(_Made(function, arguments))
            case "BUILD":
                state = self._pop()
                if isinstance(stack[-1], _Made):
                    stack[-1].state = state
            case _:
                raise CannotFollow(f"it has the opcode {name}")

    def _import(self, module: Any, name: Any) -> Imported:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise CannotFollow("it computes the name of what it imports")
        if self._protocol < 3:  # of Python 2
            module, name = NAME_MAPPING.get(
                (module, name), (IMPORT_MAPPING.get(module, module), name)
            )
        found = Imported(module, name)
        self._found[found] = None
        return found

    def _pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise CannotFollow("its stack is not in order")
        return value

    def _to_mark(self) -> list[Any]:
        values: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]


def _texts(items: list[Any]) -> dict[str, Any]:
    """Of keys and values in turn, those that text names: what a stand-in's state has."""
    return {
        key: value for key, value in zip(items[::2], items[1::2], strict=True)
        if isinstance(key, str)
    }  # fmt: skip


def _update(target: Any, items: list[Any]) -> None:
    if isinstance(target, dict):
        target |= _texts(items)


def _is_array(value: Any) -> bool:
    """joblib's stand-in, however it is made."""
    if not isinstance(value, _Made):
        return False
    arguments = value.arguments if isinstance(value.arguments, tuple) else ()
    return any(
        isinstance(part, Imported) and part.name.endswith("NumpyArrayWrapper")
        for part in (value.function, *arguments)
    )


def _pass_over(state: Any, stream: _Stream, found: dict[Imported, None], depth: int) -> None:
    """joblib.numpy_pickle.NumpyArrayWrapper.read_array, without the array."""
    shape, dtype = state["shape"], state["dtype"]
    if _holds_objects(dtype):
        _follow(stream, found, depth + 1)
        return
    if state.get("numpy_array_alignment_bytes") is not None:
        stream.skip(stream.read(1)[0])
    count = 1
    for length in shape:
        if not (isinstance(length, int) and length >= 0):
            raise CannotFollow("an array's shape is not made of numbers")
        count *= length
    stream.skip(count * _dtype(dtype).itemsize)


def _dtype(made: Any) -> np.dtype[Any]:
    """Its size is right, and not its parts."""
    if not (isinstance(made, _Made) and made.function[1] == "dtype"):
        raise CannotFollow("an array's dtype cannot be read")
    text = made.arguments[0]
    if not isinstance(text, str):
        raise CannotFollow("an array's dtype cannot be read")
    return np.dtype(text)


def _holds_objects(made: Any) -> bool:
    if _dtype(made).hasobject:
        return True
    state = made.state
    fields = state[4] if isinstance(state, tuple) and len(state) > 4 else None
    if not isinstance(fields, dict):
        return False
    return any(_holds_objects(parts[0]) for parts in fields.values())
