"""The one place where methods of Keras are listened to, for as long as somebody does.

A method is replaced when its first listener comes and is as before when its last one has left,
whatever the order in which they leave and whatever was raised meanwhile. Calls of other threads,
and of code that no listener stands around, go straight through: who listens is a context variable.
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
    """What is called in the place of what was called.

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
    """What the caller gets in the place of what was returned."""

    value: Any


Talk: TypeAlias = Generator["Call | None", Any, "Returned | None"]

Listener: TypeAlias = Callable[..., Talk]
"""A generator function, called with the original and the arguments of the call.

It yields once: `None`, or the `Call` to make instead. It is sent what that returned, and what that
raised comes out of the `yield`. What it raises itself comes out of the call. It may return a
`Returned`.
"""

Hear: TypeAlias = Callable[[Any, str, Listener], Any]
"""`listening`, as it is handed to rooms that have no other way to it."""

_Key: TypeAlias = tuple[int, str]


@dataclass(slots=True)
class _Replaced:
    """A method, property or function that is replaced.

    Attributes:
        owner: A class, a module, or an object that gets a method of its own.
        name: Of the attribute.
        held: What the owner itself held under that name; `None` where it had it from elsewhere.
        listeners: How many there are, in all threads.
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

    Of several listeners, the one that came last hears a call first.

    Args:
        owner: The class, module or object that has it.
        name: Of the method, property or function.
        listener: Hears each call; see `Listener`.
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
    """Return what stands in the place of a method while there are listeners."""
    if isinstance(original, property):
        getter: Any = original.fget
        return property(_asking(key, getter), original.fset, original.fdel, original.__doc__)
    if held is not None or isinstance(owner, type):
        return _asking(key, original)

    def of_class(*args: Any, **kwargs: Any) -> Any:
        # Looked up at each call: meanwhile somebody may listen to the class as well.
        return getattr(type(owner), name)(owner, *args, **kwargs)

    return _asking(key, of_class, looks_like=original)


def _asking(key: _Key, original: Callable[..., Any], looks_like: Any = None) -> Any:
    """Return a function that lets the listeners of this context hear of each call.

    TensorFlow rewrites it together with the code around it where it rewrites that, so that the
    original is rewritten as it would be without listeners. It leaves alone what is called by
    `operator.call`: a function in C.
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

    # Some look at what a method takes before they call it.
    vars(heard)["__wrapped__"] = looks_like or original
    return heard


def _begin(listeners: Sequence[Listener], call: Call) -> tuple[list[Talk], Call]:
    """Let each listener hear of a call; returns what is to be sent the result, and the call."""
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
    """Let each listener hear of what was returned, the last one first."""
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
    """Let each listener hear of what was raised; raises what one of them raises in its place."""
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
