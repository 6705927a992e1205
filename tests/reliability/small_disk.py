"""A disk of a few kilobytes that only the process sees which asked for it."""

import ctypes
import os
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MNT_DETACH = 0x1, 0x20, 0x1000, 0x2


def mount(folder: Path, kilobytes: int) -> None:
    """Mount a disk for this process alone; it goes with the process.

    Raises:
        OSError: If the system does not let it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group, is_root = os.getuid(), os.getgid(), os.getuid() == 0
    _check(libc.unshare(_CLONE_NEWNS | (0 if is_root else _CLONE_NEWUSER)))
    if not is_root:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _check(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
    folder.mkdir(exist_ok=True)
    size = f"size={kilobytes}k".encode()
    _check(libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, size))


def freeze(folder: Path) -> None:
    """Let a folder of the disk be read only; files that are open are written to as before."""
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.mount(bytes(folder), bytes(folder), None, _MS_BIND, None))
    flags = _MS_REMOUNT | _MS_BIND | _MS_RDONLY
    _check(libc.mount(b"none", bytes(folder), None, flags, None))


def thaw(folder: Path) -> None:
    """Let what was frozen be written to again."""
    _check(ctypes.CDLL(None, use_errno=True).umount2(bytes(folder), _MNT_DETACH))


def fill(folder: Path, left_bytes: int) -> Path:
    """Write a file that leaves so many bytes, in whole pages, and return its path."""
    space = os.statvfs(folder)
    size = max(0, space.f_bavail * space.f_frsize - left_bytes)
    path = folder / "filler"
    path.write_bytes(bytes(size))
    return path


def _check(status: int) -> None:
    if status != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
