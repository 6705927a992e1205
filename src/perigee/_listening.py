"""The only module that patches methods of Keras, while there are listeners.

A method is patched when its first listener enters and restored when its last listener exits, in
whatever order they exit and whatever was raised meanwhile. Calls from other threads, and from code
outside any listener, pass straight through: the listeners are a context variable.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Call:
    """A call to make instead of the original one.

    Attributes:
        function: The function or bound method.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
    """

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Returned:
    """A value to return instead of the original result."""

    value: Any


Talk: TypeAlias = Generator["Call | None", Any, "Returned | None"]

Listener: TypeAlias = Callable[..., Talk]
"""A generator function, called with the original and the arguments of the call.

It yields once: `None`, or the `Call` to make instead. It is sent the result of the call, and an
error of the call is raised at the `yield`. An error that it raises itself is raised to the caller.
It may return a `Returned`.
"""

Hear: TypeAlias = Callable[[Any, str, Listener], Any]
"""The type of `listening`, for rooms that receive it as an argument."""

_Key: TypeAlias = tuple[int, str]


@dataclass(slots=True)
class _Replaced:
    """A method, property or function that is patched.

    Attributes:
        owner: A class, a module, or an object that gets its own attribute.
        name: The name of the attribute.
        held: The owner's own attribute of that name; `None` if it was inherited.
        listeners: The number of listeners, in all threads.
    """

    owner: Any
    name: str
    held: Any
    listeners: int = 0


_lock = threading.RLock()
_replaced: dict[_Key, _Replaced] = {}
_listeners: ContextVar[Mapping[_Key, tuple[Listener, ...]]] = ContextVar(
    "perigee_listeners", default=MappingProxyType({})
)


@contextmanager
def listening(owner: Any, name: str, listener: Listener) -> Generator[None]:
    """Listen to a public method for as long as the context is open, in this thread.

    Several listeners are notified in reverse order of their entering.

    Args:
        owner: The class, module or object that has the attribute.
        name: The name of the method, property or function.
        listener: Called with each call; see `Listener`.
    """
    key = id(owner), name
    _come(key, owner, name)
    heard = _listeners.get()
    token = _listeners.set({**heard, key: (*heard.get(key, ()), listener)})
    try:
        yield
    finally:
        _listeners.reset(token)
        _leave(key)


def _come(key: _Key, owner: Any, name: str) -> None:
    with _lock:
        replaced = _replaced.get(key)
        if replaced is None:
            held = vars(owner).get(name)
            original = getattr(owner, name) if held is None else held
            setattr(owner, name, _heard(key, owner, name, held, original))
            replaced = _replaced[key] = _Replaced(owner, name, held)
        replaced.listeners += 1


def _leave(key: _Key) -> None:
    with _lock:
        replaced = _replaced[key]
        replaced.listeners -= 1
        if replaced.listeners:
            return
        del _replaced[key]
        if replaced.held is None:
            delattr(replaced.owner, replaced.name)
        else:
            setattr(replaced.owner, replaced.name, replaced.held)


def _heard(key: _Key, owner: Any, name: str, held: Any, original: Any) -> Any:
    """Return the replacement of a method while there are listeners."""
    if isinstance(original, property):
        getter: Any = original.fget
        return property(_asking(key, getter), original.fset, original.fdel, original.__doc__)
    if held is not None or isinstance(owner, type):
        return _asking(key, original)

    def of_class(*args: Any, **kwargs: Any) -> Any:
        # Looked up at each call: the class may have got listeners meanwhile.
        # The class that it reports: a weak proxy stands for its object.
        return getattr(owner.__class__, name)(owner, *args, **kwargs)

    return _asking(key, of_class, looks_like=original)


def _asking(key: _Key, original: Callable[..., Any], looks_like: Any = None) -> Any:
    """Return a function that notifies the listeners of this context of each call.

    AutoGraph converts it together with the calling code, so that the original is converted as it
    would be without listeners. It does not convert calls made by `operator.call`, a function in C.
    """

    def heard(*args: Any, **kwargs: Any) -> Any:
        listeners = _listeners.get().get(key)
        if not listeners:
            return original(*args, **kwargs)
        talks, call = operator.call(_begin, listeners, Call(original, args, kwargs))
        try:
            value = call.function(*call.args, **call.kwargs)
        except BaseException as error:
            operator.call(_fail, talks, error)
            raise
        return operator.call(_end, talks, value)

    # Some callers inspect the signature of a method before they call it.
    vars(heard)["__wrapped__"] = looks_like or original
    return heard


def _begin(listeners: Sequence[Listener], call: Call) -> tuple[list[Talk], Call]:
    """Notify each listener of a call; return the generators to send the result to, and the call."""
    talks: list[Talk] = []
    for listener in reversed(listeners):
        talk = listener(call.function, *call.args, **call.kwargs)
        try:
            instead = next(talk)
        except BaseException as error:
            _fail(talks, error)
            raise
        talks.append(talk)
        call = call if instead is None else instead
    return talks, call


def _end(talks: Sequence[Talk], value: Any) -> Any:
    """Send the result to each listener, the last one first."""
    waiting = list(talks)
    while waiting:
        try:
            waiting.pop().send(value)
        except StopIteration as stop:
            value = value if stop.value is None else stop.value.value
        except BaseException as error:
            _fail(waiting, error)
            raise
    return value


def _fail(talks: Sequence[Talk], error: BaseException) -> None:
    """Throw an error into each listener; raises what one of them raises instead."""
    raised = error
    for talk in reversed(talks):
        try:
            talk.throw(raised)
        except StopIteration:
            pass
        except BaseException as other:
            raised = other
    if raised is not error:
        raise raised
