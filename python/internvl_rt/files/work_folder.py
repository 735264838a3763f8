"""A folder in which one process at a time makes something, and which no dead process keeps from the next.

A file in the folder is locked with ``flock`` while its owner is at work. The kernel lets go of the lock when
the process ends, however it ends, so a lock that can be had says that what lies there was abandoned. Process
numbers say no such thing: in containers every process has the same one.

What this relies on: that the file system keeps ``flock`` for all who share it. Local ones do, between
containers too; so do NFS (since Linux 2.6.12), CephFS, Lustre and GFS2 between machines, unless they are
mounted with locks of their own for each machine (``local_lock``, ``nolock``, ``localflock``). Where there are
no locks at all the folder gets a name that no other process has, and what is abandoned stays.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

LOCK_FILE = "lock"

_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


class InUseError(Exception):
    """Another process is at work in the folder."""


@contextlib.contextmanager
def work_folder(path: Path) -> Iterator[Path]:
    """Makes a folder and holds it until the block ends; then it is removed, unless something is left in it.

    What the block finds there, but for the lock, is what a dead process left.

    Args:
        path: where the folder is to be, in a folder that is there.

    Yields:
        The folder: ``path``, or one beside it where the file system has no locks.

    Raises:
        InUseError: if a process that still runs holds it.
        OSError: if it cannot be made.
    """
    lock = _acquire(path)
    folder = path if lock is not None else path.with_name(f"{path.name}-{secrets.token_hex(8)}")
    if lock is None:
        folder.mkdir()
    try:
        yield folder
    finally:
        # Who opened the lock's file before sees that the folder has another one now, or none.
        with contextlib.suppress(OSError):
            (folder / LOCK_FILE).unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)  # NFS keeps an open file under another name, and with it the folder
        with contextlib.suppress(OSError):
            folder.rmdir()


def _acquire(path: Path) -> int | None:
    """The descriptor that holds the lock; None where the file system has none."""
    while True:
        with contextlib.suppress(FileExistsError):
            path.mkdir()
        if path.is_symlink():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        try:
            # NFS locks only what may be written to.
            lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            continue  # its owner removed the folder just now
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(lock, path / LOCK_FILE):
                return lock
        except (BlockingIOError, PermissionError):
            os.close(lock)
            raise InUseError(str(path)) from None
        except OSError as error:
            os.close(lock)
            if error.errno not in _NO_LOCKS:
                raise
            with contextlib.suppress(OSError):
                (path / LOCK_FILE).unlink()
                path.rmdir()
            return None
        os.close(lock)


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that has the name now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
