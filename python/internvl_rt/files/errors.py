"""What to do about a file that the operating system refuses."""

from __future__ import annotations

import errno
from pathlib import Path

_NO_PERMISSION = "This user has no permission: `ls -ld` shows who has, for the file and the folders above."

_NO_FOLDER = "A file or a link lies where a folder is needed: check the path."

_ADVICE = {
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EEXIST: _NO_FOLDER,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EBUSY: "The folder is in use, as a mount point for example: name one inside it.",
    errno.EROFS: "The file system is read-only: choose a place on another one.",
    errno.ENAMETOOLONG: "The path is longer than the file system takes: choose a shorter one.",
    errno.ELOOP: "Symbolic links lead back to themselves: name the folder itself.",
    errno.EMFILE: "This process has too many open files: close some, or raise the limit with `ulimit -n`.",
    errno.ENFILE: "The system has too many open files: close some.",
    errno.EIO: "The disk failed: look at its health, then try again.",
    errno.ESTALE: "The network file system lost the file: mount it again, then try again.",
    errno.ENOSPC: "The disk is full: free some room.",
    errno.EDQUOT: "This user's quota of the disk is used up: free some room.",
}


def reason(error: OSError) -> str:
    """What went wrong, without the path: ``Permission denied``."""
    return error.strerror or str(error)


def advice(error: OSError, otherwise: str) -> str:
    """What to do, where the error's number tells; ``otherwise`` for all others."""
    return _ADVICE.get(error.errno or 0, otherwise)


def shortened(path: Path) -> str:
    """A path for a message, which one of thousands of characters would drown."""
    text = str(path)
    return text if len(text) <= 300 else f"{text[:300]}..."
