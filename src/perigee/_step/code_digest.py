"""What Python code does, as a short text that edited comments and prints leave as it is."""

from __future__ import annotations

import dis
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from types import CodeType, FunctionType
from typing import Any

_SILENT = ("NOP", "RESUME", "EXTENDED_ARG", "CACHE")
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD")
_LOGGERS = ("logging", "logger", "log", "LOGGER", "LOG")
_LEVELS = ("debug", "info", "warning", "error", "log")
_JUMPS = frozenset(dis.hasjrel) | frozenset(dis.hasjabs)


def code_digests(functions: Iterable[FunctionType]) -> dict[str, str]:
    """Return a digest of what each function does, by its name.

    Left out are comments, docstrings, the lines on which code stands, and calls that only print or
    log. Functions of one name, such as lambdas, have one digest.
    """
    found: dict[str, set[str]] = {}
    for function in functions:
        name = function.__qualname__.replace("<locals>.", "")
        found.setdefault(name, set()).add(_digest(_described(function.__code__)))
    return {
        name: digests.pop() if len(digests) == 1 else _digest(sorted(digests))
        for name, digests in sorted(found.items())
    }


def _digest(parts: Iterable[str]) -> str:
    hashed = hashlib.blake2b(digest_size=4)
    for part in parts:
        hashed.update(part.encode("utf-8", "replace") + b"\0")
    return hashed.hexdigest()


def _described(code: CodeType) -> Iterator[str]:
    yield f"{code.co_argcount} {code.co_kwonlyargcount} {code.co_varnames[: code.co_argcount]}"
    every = [i for i in dis.get_instructions(code) if i.opname not in _SILENT]
    printed = {index for start, end in _prints(every) for index in range(start, end)}
    kept = [instruction for index, instruction in enumerate(every) if index not in printed]
    for instruction in kept:
        argument: Any = instruction.argval
        if instruction.opname == "KW_NAMES":  # whose argument `dis` does not know
            argument = code.co_consts[instruction.arg or 0]
        if isinstance(argument, CodeType):
            yield from _described(argument)
        elif instruction.opcode in _JUMPS:  # by which instruction follows, wherever that stands
            target = sum(other.offset < int(argument) for other in kept)
            yield f"{instruction.opname} {target}"
        else:
            yield f"{instruction.opname} {_constant(argument)}"


def _constant(value: Any) -> str:
    if isinstance(value, frozenset):  # its order differs in each process
        return repr(sorted(map(repr, value)))
    return repr(value)


def _prints(every: Sequence[dis.Instruction]) -> Iterator[tuple[int, int]]:
    """Yield where statements begin and end that are calls of `print`, or of a logger."""
    index = 0
    while index < len(every):
        end = _end_of_call(every, index) if _is_print(every, index) else None
        if end is None:
            index += 1
            continue
        begins = index - (index > 0 and every[index - 1].opname == "PUSH_NULL")
        yield begins, end
        index = end


def _is_print(every: Sequence[dis.Instruction], index: int) -> bool:
    if every[index].opname not in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_FAST"):
        return False
    names = [str(every[index].argval)]
    for instruction in every[index + 1 :]:
        if instruction.opname not in _ATTRIBUTES:
            break
        names.append(str(instruction.argval))
    return names[-1] == "print" or (
        len(names) > 1 and names[-2] in _LOGGERS and names[-1] in _LEVELS
    )


def _end_of_call(every: Sequence[dis.Instruction], start: int) -> int | None:
    """Return where a statement ends whose value is dropped; `None` if it is used."""
    depth = -1 if start > 0 and every[start - 1].opname == "PUSH_NULL" else 0
    depth += 2 if depth else 0
    for index in range(start, len(every)):
        instruction = every[index]
        if instruction.opname.startswith("RETURN") or instruction.opname.startswith("STORE"):
            return None
        depth += dis.stack_effect(instruction.opcode, instruction.arg, jump=False)
        if instruction.opname == "JUMP_FORWARD":  # one of two values was counted
            depth -= 1
        if depth == 0:
            return index + 1 if instruction.opname == "POP_TOP" else None
    return None
