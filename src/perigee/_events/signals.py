"""SIGTERM and SIGINT during a training: the first requests a stop, a second one kills it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import threading
import time
from types import FrameType
from typing import Any, ClassVar

ECHO_SECS = 0.5
"""A signal this soon after the first one is its echo: the same request, received twice."""

_TAKEN = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Handles SIGTERM and SIGINT, so that a training can save before it ends.

        with Signals() as signals:
            while not signals.received:
                ...  # a block of steps
            ...  # save
        signals.deliver()

    The first signal sets `received`, and a line on stderr says so. A second one, of either kind,
    ends the process at once by that signal, also with a line. Python's own handlers wait until a
    call into C++ returns, so a thread on the wake-up descriptor serves it; that thread needs the
    GIL, which blocks and saves release. In an interactive session, where the process is worth more
    than the training, a second SIGINT raises `KeyboardInterrupt` instead, as soon as Python runs.

    Signals within `ECHO_SECS` of the first are its echo and do not count: a wrapper forwards a
    Ctrl-C that its child also got from the terminal, and `timeout` signals a command and then its
    group.

    A signal that was ignored, or whose handler is not Python's and could not be restored, is not
    handled. In a forked child the previous handlers are restored at once. Outside the main thread
    of the main interpreter, where Python does not allow signal handlers, nothing is handled or
    received. Inside another `Signals`, this one shares what that one receives and leaves the rest
    to it.
    """

    _open: ClassVar[Signals | None] = None

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._outer: Signals | None = None
        self._is_insisted = False
        self._main_thread = threading.get_ident()
        self._wakeup_before = -1
        self._undo = contextlib.ExitStack()

    @property
    def received(self) -> signal.Signals | None:
        """The first signal, or `None` if there was none."""
        return self._received if self._outer is None else self._outer.received

    def __enter__(self) -> Signals:
        self._outer = Signals._open
        if self._outer is None:
            with self._undo:
                self._take_over()
                self._undo = self._undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Restore handlers and the wake-up descriptor; a second call does nothing."""
        self._undo.close()

    def deliver(self) -> None:
        """Restore the previous handlers, and send them the received signal.

        A handler of the user's runs; SIGINT raises `KeyboardInterrupt`, as Python does by default;
        SIGTERM ends the process by default (143 in a shell). Without a signal, or inside another
        `Signals`, which will do it, nothing happens.

        Raises:
            SystemExit: If the default action ends nothing, as in the first process of a container.
        """
        self.close()
        number, self._received = self._received, None
        if number is None:
            return
        is_default = signal.getsignal(number) == signal.SIG_DFL
        if is_default:  # which leaves no time to flush buffers
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(AttributeError, OSError, ValueError):  # none, or closed
                    stream.flush()
        signal.raise_signal(number)
        if is_default:
            raise SystemExit(128 + number)

    def _take_over(self) -> None:
        """Handle SIGINT first and restore it last, so that Ctrl-C interrupts nothing in between."""
        undo = self._undo
        for number in _TAKEN:
            before = signal.getsignal(number)
            if before is None or before == signal.SIG_IGN:
                continue
            try:
                signal.signal(number, self._note)
            except ValueError:  # not the main thread of the main interpreter
                return
            undo.callback(self._give_back, number, before)
            Signals._open = self
        if Signals._open is None:
            return
        undo.callback(setattr, Signals, "_open", None)
        reader, writer = socket.socketpair()
        undo.callback(reader.close)
        undo.callback(writer.close)
        writer.setblocking(False)
        watcher = threading.Thread(target=self._watch, args=(reader,), daemon=True)
        watcher.start()
        undo.callback(_end, watcher, writer)
        self._wakeup_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        undo.callback(_set_wakeup_fd, self._wakeup_before)

    def _give_back(self, number: signal.Signals, before: Any) -> None:
        if signal.getsignal(number) == self._note:  # otherwise another handler was set since
            signal.signal(number, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._is_insisted and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self._received = self._received or signal.Signals(number)

    def _watch(self, reader: socket.socket) -> None:
        """Count signals as they arrive. Several during one block reach `_note` as one, and late."""
        first: float | None = None
        while data := reader.recv(4096):
            now = time.monotonic()
            for number in data:
                if signal.getsignal(number) != self._note:
                    # A descriptor that is full or closed would have lost it too.
                    with contextlib.suppress(OSError):
                        os.write(self._wakeup_before, bytes([number]))
                elif first is None:
                    first = now
                    if _is_read():  # otherwise the second signal would wait for the line
                        _say(
                            f"{signal.Signals(number).name} ends this training after the current "
                            "steps are done and saved; a second signal ends it at once."
                        )
                elif now - first > ECHO_SECS:
                    self._insist(number)

    def _insist(self, number: int) -> None:
        is_interactive = hasattr(sys, "ps1") or bool(sys.flags.interactive)
        if number != signal.SIGINT or not is_interactive:
            _end_process(number)
        elif not self._is_insisted:
            self._is_insisted = True
            signal.pthread_kill(self._main_thread, number)


def _set_wakeup_fd(before: int) -> None:
    try:
        signal.set_wakeup_fd(before)
    except (OSError, ValueError):  # its owner has closed it meanwhile
        signal.set_wakeup_fd(-1)


def _end(watcher: threading.Thread, writer: socket.socket) -> None:
    if watcher.is_alive():  # not in a forked child, where this would end the parent's
        writer.shutdown(socket.SHUT_WR)
        watcher.join()


def _end_process(number: int) -> None:
    """End by the default action of a signal, from any thread.

    `signal.signal` works in the main thread only; the C function below it, everywhere. Afterwards
    one more signal ends the process even if the write to stderr blocks.
    """
    ctypes.pythonapi.PyOS_setsig(number, None)
    _say(f"a second signal, {signal.Signals(number).name}, ends the process at once.")
    signal.raise_signal(signal.Signals(number))
    os._exit(128 + number)  # the default action ends nothing in the first process of a container


def _is_read() -> bool:
    """Return whether a line can be written to stderr without waiting for its reader."""
    try:
        return bool(select.select([], [2], [], 0)[1])
    except (OSError, ValueError):  # closed
        return False


def _say(what: str) -> None:
    """Write a line directly, bypassing buffers that another thread may hold."""
    with contextlib.suppress(OSError):
        os.write(2, f"Perigee: {what}\n".encode())


class _Fork(threading.local):
    """The signals that a forking thread had blocked before."""

    blocked_before: set[int] | None = None


_fork = _Fork()


def _before_fork() -> None:
    """Block all signals, until the child has its own handlers and wake-up descriptor."""
    if Signals._open is not None:
        _fork.blocked_before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _after_fork() -> None:
    before, _fork.blocked_before = _fork.blocked_before, None
    if before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _after_fork_in_child() -> None:
    if Signals._open is not None:
        Signals._open.close()
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child
    )
