"""SIGTERM and SIGINT: one asks a training to stop, two end it, and nothing of it is left behind.

Real signals go to real processes. `block` stands for a call into C++: it lets other threads run,
and no signal cuts it short, as with a block of steps.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator

import pytest

from perigee._events import signals as _signals
from perigee._events.signals import Signals

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the blocks are made with glibc")

BOTH = [signal.SIGINT, signal.SIGTERM]
NEVER_SECS = 600
BEGINNING = """
import asyncio, ctypes, os, signal, sys, threading, time
from perigee._events import signals as _signals
from perigee._events.signals import Signals

def block(secs):
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    end = time.time() + secs
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_timedlock(mutex, (ctypes.c_long * 2)(int(end), int(end % 1 * 1e9)))

def ready():
    print("ready", flush=True)
"""


FIRST = " ends this training after the current steps are done and saved;"


@contextlib.contextmanager
def process(script: str, *before: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a script, after the words of a command that runs it; go on when it is ready."""
    with subprocess.Popen(
        [*before, sys.executable, "-c", BEGINNING + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": ""},
        bufsize=0,  # what follows the line is left in the pipe, for `communicate`
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            yield child
        finally:
            child.kill()


def outcome(child: subprocess.Popen[bytes]) -> tuple[int, list[str], str]:
    """Wait for the end, far shorter than `NEVER_SECS`: exit status, lines on stdout, stderr.

    The line that tells of the first signal is left out: a signal tells of itself once.
    """
    out, err = child.communicate(timeout=60)
    told = err.decode().splitlines(keepends=True)
    rest = [line for line in told if FIRST not in line]
    assert len(told) - len(rest) <= 1
    return child.returncode, out.decode().splitlines(), "".join(rest)


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    """Keep a failing test from handling the signals of the others."""
    before = {number: signal.getsignal(number) for number in (*BOTH, signal.SIGUSR1)}
    yield
    Signals._open = None
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


def as_seen() -> tuple[object, ...]:
    """Return what a process sees of signals: handlers, wake-up descriptor, threads, files."""
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    files = set(os.listdir("/proc/self/fd"))
    return [signal.getsignal(n) for n in BOTH], descriptor, threading.enumerate(), files


# The first signal


@pytest.mark.sample
@pytest.mark.process
@pytest.mark.parametrize("number", BOTH)
def test_the_first_signal_lets_the_block_end_and_is_delivered_after_the_save(number):
    block_secs = 0.7
    script = f"""
with Signals() as signals:
    ready()
    began = time.monotonic()
    block({block_secs})
    print(time.monotonic() - began)
    print(signals.received.name, "saved")  # not flushed
signals.deliver()
print("not reached")
"""
    with process(script) as child:
        child.send_signal(number)
        status, (seconds, saved), errors = outcome(child)
    assert float(seconds) >= block_secs * 0.99
    assert saved == f"{number.name} saved"
    assert status == -number  # 130 and 143 in a shell
    assert ("KeyboardInterrupt" in errors) == (number == signal.SIGINT)


@pytest.mark.process
def test_the_shell_sees_the_conventional_codes():
    script = (
        "with Signals() as signals:\n    ready()\n    os.kill(os.getpid(), {})\nsignals.deliver()"
    )
    codes = []
    for number in ("signal.SIGINT", "signal.SIGTERM"):
        command = ["sh", "-c", '"$0" -c "$1"; echo $?', sys.executable]
        done = subprocess.run(
            [*command, BEGINNING + script.format(number)], capture_output=True, text=True
        )
        codes.append(int(done.stdout.split()[-1]))
    assert codes == [130, 143]


def test_nothing_is_delivered_where_nothing_was_received():
    with Signals() as signals:
        pass
    signals.deliver()
    assert signals.received is None


def test_a_handler_of_the_user_gets_the_signal_once_after_the_training():
    heard = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    with Signals() as signals:
        signal.raise_signal(signal.SIGTERM)
        assert signals.received is signal.SIGTERM and heard == []
    assert heard == []
    signals.deliver()
    signals.deliver()
    assert heard == [signal.SIGTERM]


def test_delivering_inside_the_context_puts_back_first():
    heard = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    with Signals() as signals:
        signal.raise_signal(signal.SIGTERM)
        signals.deliver()
        assert heard == [signal.SIGTERM]


def test_a_handler_of_asyncio_gets_the_signal_once():
    heard = []

    async def main():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, heard.append, "heard")
        with Signals() as signals:
            signal.raise_signal(signal.SIGTERM)
        signals.deliver()
        assert heard == []
        for _ in range(100):
            await asyncio.sleep(0)

    asyncio.run(main())
    assert heard == ["heard"]


@pytest.mark.process
def test_where_the_default_action_ends_nothing_the_exit_code_is_conventional():
    script = """
with Signals() as signals:
    ready()
    os.kill(os.getpid(), signal.SIGTERM)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
signals.deliver()
"""
    with process(script) as child:
        assert outcome(child)[0] == 128 + signal.SIGTERM


# The second


def send_two(child: subprocess.Popen[bytes], first: signal.Signals, second: signal.Signals) -> None:
    child.send_signal(first)
    time.sleep(_signals.ECHO_SECS + 0.3)  # there is nothing to wait for but the time itself
    assert child.poll() is None
    child.send_signal(second)


@pytest.mark.process
@pytest.mark.parametrize("work", [f"block({NEVER_SECS})", "while True: pass"])
@pytest.mark.parametrize(
    "first, second",
    [
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGINT),
    ],
)
def test_a_second_signal_ends_the_process_at_once(first, second, work, record_property):
    with process(f"with Signals():\n    ready()\n    {work}") as child:
        send_two(child, first, second)
        sent = time.monotonic()
        status, lines, errors = outcome(child)
        secs = time.monotonic() - sent
    record_property("secs", secs)
    assert status == -second
    assert lines == []
    assert errors == f"Perigee: a second signal, {second.name}, ends the process at once.\n"
    assert secs < 5  # below 1 on a machine that does nothing else


@pytest.mark.process
def test_a_second_signal_ends_a_process_whose_stderr_nobody_reads_and_a_third_does_not_wait():
    script = f"""
full = os.pipe()
os.set_blocking(full[1], False)
try:
    while True: os.write(full[1], bytes(4096))
except BlockingIOError:
    os.set_blocking(full[1], True)
os.dup2(full[1], 2)
with Signals():
    ready()
    block({NEVER_SECS})
"""
    with process(script) as child:
        send_two(child, signal.SIGTERM, signal.SIGTERM)
        while child.poll() is None:  # the second waits for stderr; what follows it does not
            child.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        assert child.returncode == -signal.SIGTERM


@pytest.mark.process
def test_the_first_process_of_a_container_ends_by_the_codes():
    container = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*container, "true"]).returncode:
        pytest.skip("no namespaces here")
    once = "with Signals() as signals:\n    ready()\n    {}\nsignals.deliver()"
    twice = """
_signals.ECHO_SECS = 0
with Signals():
    ready()
    os.kill(1, signal.SIGTERM)
    while True: os.kill(1, signal.SIGTERM)
"""
    for script in (once.format("os.kill(1, signal.SIGTERM)"), twice):
        with process(script, *container) as child:
            assert outcome(child)[0] == 128 + signal.SIGTERM


@pytest.mark.process
def test_an_act_of_the_user_that_is_heard_twice_counts_once():
    script = """
_signals.ECHO_SECS = 60
with Signals() as signals:
    ready()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
        os.kill(os.getpid(), number)
        block(0.1)
    print(signals.received.name)
"""
    with process(script) as child:
        assert outcome(child) == (0, ["SIGINT"], "")


@pytest.mark.process
def test_the_timeout_command_counts_once_though_it_signals_twice():
    script = """
with Signals() as signals:
    ready()
    while not signals.received: pass
    block(0.3)
    print("saved")
signals.deliver()
"""
    with process(script, "timeout", str(NEVER_SECS)) as child:
        child.send_signal(signal.SIGTERM)  # which it sends to its command, and to its group
        _, lines, errors = outcome(child)
    assert (lines, errors) == (["saved"], "")


@pytest.mark.process
@pytest.mark.parametrize("work", [f"time.sleep({NEVER_SECS})", "block(2); print('a block')"])
def test_a_second_ctrl_c_in_an_interactive_session_interrupts_and_kills_nothing(work):
    script = f"""
sys.ps1 = ">>> "
before = signal.getsignal(signal.SIGINT)
try:
    with Signals() as signals:
        ready()
        {work}
        print("not reached")
except KeyboardInterrupt:
    print("interrupted", signal.getsignal(signal.SIGINT) is before)
"""
    with process(script) as child:
        send_two(child, signal.SIGINT, signal.SIGINT)
        status, lines, errors = outcome(child)
    assert (status, errors) == (0, "")
    assert lines[-1] == "interrupted True" and "not reached" not in lines


# What was there before


def own_handler(number, frame):
    raise AssertionError


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.default_int_handler, own_handler])
@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_everything_is_put_back(handler, error):
    for number in BOTH:
        signal.signal(number, handler)
    with socket.socket() as earlier:
        earlier.setblocking(False)
        signal.set_wakeup_fd(earlier.fileno())
        before = as_seen()
        with warnings.catch_warnings(record=True) as said, contextlib.suppress(error or ()):
            warnings.simplefilter("always")  # an unclosed socket warns when it is collected
            with Signals():
                assert all(signal.getsignal(number) != handler for number in BOTH)
                assert as_seen()[1] != before[1]
                if error:
                    raise error
        assert said == []
        assert as_seen() == before


def test_a_handler_that_is_set_meanwhile_stays():
    with Signals():
        signal.signal(signal.SIGTERM, own_handler)
    assert signal.getsignal(signal.SIGTERM) is own_handler


def test_a_wakeup_descriptor_that_is_closed_meanwhile_is_not_put_back():
    with socket.socket() as earlier:
        earlier.setblocking(False)
        signal.set_wakeup_fd(earlier.fileno())
        signals = Signals()
        signals.__enter__()
    signals.close()
    assert signal.set_wakeup_fd(-1) == -1


def test_what_cannot_be_begun_is_undone(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    before = as_seen()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        Signals().__enter__()
    assert as_seen() == before
    assert Signals._open is None


@pytest.mark.parametrize("ignored", BOTH)
def test_an_ignored_signal_stays_ignored(ignored):
    signal.signal(ignored, signal.SIG_IGN)
    with Signals() as signals:
        assert signal.getsignal(ignored) == signal.SIG_IGN
        signal.raise_signal(ignored)
        assert signals.received is None
        (other,) = set(BOTH) - {ignored}
        signal.raise_signal(other)
        assert signals.received is other
    assert signal.getsignal(ignored) == signal.SIG_IGN


def test_a_handler_that_is_not_of_python_is_left_alone(monkeypatch):
    before = as_seen()
    with monkeypatch.context() as patched:
        patched.setattr(signal, "getsignal", lambda number: None)
        with Signals():
            patched.undo()
            assert as_seen() == before
    assert as_seen() == before


def test_the_earlier_wakeup_descriptor_still_gets_its_bytes():
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.settimeout(60)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno())
        with Signals() as signals:
            for number in (signal.SIGTERM, signal.SIGUSR1):  # the first is for `signals` alone
                signal.raise_signal(number)
            assert reader.recv(8) == bytes([signal.SIGUSR1])
            assert signals.received is signal.SIGTERM
        signal.raise_signal(signal.SIGUSR1)
        assert reader.recv(8) == bytes([signal.SIGUSR1])


# Where it is not alone


def test_in_another_thread_nothing_happens():
    before, found = as_seen(), []

    def work():
        try:
            with Signals() as signals:
                found.append(as_seen_from_a_thread())
            signals.deliver()
            found.append(signals.received)
        except BaseException:
            found.append(traceback.format_exc())

    def as_seen_from_a_thread():
        return [signal.getsignal(n) for n in BOTH]

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before[0], None]
    assert as_seen() == before


def test_an_inner_one_shares_what_the_outer_one_receives_and_leaves_the_rest_to_it():
    heard = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    with Signals() as outer:
        before = as_seen()
        with Signals() as inner:
            assert as_seen() == before
            signal.raise_signal(signal.SIGTERM)
            assert inner.received is outer.received is signal.SIGTERM
        inner.deliver()
        assert as_seen() == before
        assert heard == []
        assert outer.received is signal.SIGTERM
    outer.deliver()
    assert heard == [signal.SIGTERM]


@pytest.mark.process
def test_a_forked_child_has_what_was_there_before():
    script = """
import socket
def as_seen():
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
earlier = socket.socket()
earlier.setblocking(False)
signal.set_wakeup_fd(earlier.fileno())
before = as_seen()
with Signals() as signals:
    if os.fork() == 0:
        is_back = as_seen() == before and signal.set_wakeup_fd(-1) == earlier.fileno()
        os._exit(42 if is_back else 1)
    ready()
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    with process(script) as child:
        assert outcome(child) == (0, ["42"], "")


@pytest.mark.process
def test_a_worker_is_ended_by_its_own_sigterm_and_the_parent_goes_on():
    script = """
import multiprocessing
with Signals() as signals:
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    worker.start()
    ready()
    worker.terminate()
    worker.join(60)
    print(worker.exitcode, signals.received)
"""
    with process(script) as child:
        assert outcome(child) == (0, [f"{-signal.SIGTERM} None"], "")


@pytest.mark.process
def test_a_worker_is_ended_by_a_sigterm_that_comes_before_it_has_begun():
    script = """
import importlib
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))
del sys.modules["perigee._events.signals"]  # imported anew, it acts in a child after that
with importlib.import_module("perigee._events.signals").Signals() as signals:
    if os.fork() == 0:
        os._exit(0)
    ready()
    print(os.waitstatus_to_exitcode(os.wait()[1]), signals.received)
    print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""
    with process(script) as child:
        assert outcome(child) == (0, [f"{-signal.SIGTERM} None", "set()"], "")


@pytest.mark.process
def test_the_signals_of_a_child_are_not_counted_as_those_of_the_parent():
    script = """
_signals.ECHO_SECS = 0
with Signals() as signals:
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        os._exit(0)
    os.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    ready()
    block(0.3)
    print(signals.received.name)
"""
    with process(script) as child:
        assert outcome(child) == (0, ["SIGTERM"], "")


@pytest.mark.process
def test_a_child_that_leaves_the_context_does_not_end_the_watch_of_its_parent():
    script = f"""
with Signals() as signals:
    if os.fork():
        os.wait()
        ready()
        block({NEVER_SECS})
"""
    with process(script) as child:
        send_two(child, signal.SIGTERM, signal.SIGTERM)
        assert outcome(child)[0] == -signal.SIGTERM
