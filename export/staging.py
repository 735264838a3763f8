"""Where a bundle is written until it is whole, and how it takes its name.

While the bundle NAME is exported, the hidden folder ``.NAME.exporting`` lies beside it. One export at a time
works in it. It holds ``new``, the bundle in the making, and ``old``, a bundle that is being replaced and has
no name. The names change in one step where the file system can exchange two folders (ext4, XFS, Btrfs,
tmpfs). Elsewhere they change in two, and a kill between them leaves no bundle: the next export puts the old
one back.

Whatever a killed export leaves is in that folder, and the next export to the same place removes it. Nothing
but the files of a bundle is ever removed: whatever else lies there, a person put there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from internvl_rt._core import BUNDLE_FILES, MANIFEST_FILE, MANIFEST_FORMAT, MAX_MANIFEST_BYTES
from internvl_rt.errors import BundleError
from internvl_rt.export.strict_json import JsonError, parse_json
from internvl_rt.files.errors import advice, reason, shortened
from internvl_rt.files.work_folder import InUseError, work_folder

NEW, OLD = "new", "old"

_LONGEST_NAME = 200
"""Bytes of a folder's name that leave room for what stands around it; file systems take 255."""
_MOST_NAMED = 5


@contextlib.contextmanager
def staged(out: Path, overwrite: bool) -> Iterator[Path]:
    """A new folder that takes the name ``out`` when the block ends well, and is removed otherwise.

    Raises:
        BundleError: if :func:`check_out` refuses ``out``, before the block or at its end; if another export
            writes to it; or if the disk refuses.
    """
    try:
        out = Path(os.path.realpath(out))
        check_out(out, overwrite)
        with _parents(out), work_folder(_work_path(out)) as work:
            _clean(work, out)
            check_out(out, overwrite)
            try:
                new = _free_name(work, NEW)
                new.mkdir()
                yield new
                check_out(out, overwrite)
                _publish(new, out)
            finally:
                _clean(work, out)
    except InUseError:
        raise BundleError(
            f"{shortened(out)}: another export writes this bundle at the moment. Wait until it is done, or "
            "choose another place."
        ) from None
    except OSError as error:
        raise _refused(out, error) from error


def check_out(out: Path, overwrite: bool) -> None:
    """Raises BundleError unless a bundle may take the name ``out``.

    That is if there is nothing, an empty folder or, with ``overwrite``, a bundle: a folder with a manifest in
    which every file is one that the manifest lists. Links and folders inside it are not.
    """
    try:
        _check_out(out, overwrite)
    except OSError as error:
        raise _refused(out, error) from error


def _check_out(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise BundleError(f"{out}: exists and is not a folder. Choose another place for the bundle.")
    if os.path.ismount(out):
        raise BundleError(
            f"{out}: is a mount point, which nothing can take the place of. Name a folder inside it."
        )
    entries = {entry.name: entry.is_file(follow_symlinks=False) for entry in os.scandir(out)}
    if not entries:
        return
    own = _files_of_bundle(out)
    if own is None:
        raise BundleError(
            f"{out}: is not empty and holds no bundle, so it is left alone. Choose another place."
        )
    if not overwrite:
        raise BundleError(
            f"{out}: holds a bundle already. Remove it, or export with overwrite (--overwrite)."
        )
    foreign = sorted(name for name, is_file in entries.items() if not is_file or name not in own)
    if foreign:
        more = f" and {len(foreign) - _MOST_NAMED} more" if len(foreign) > _MOST_NAMED else ""
        raise BundleError(
            f"{out}: holds more than a bundle: {', '.join(foreign[:_MOST_NAMED])}{more}. Overwriting "
            "replaces a bundle and nothing else: move the rest elsewhere, or choose another place."
        )


def _files_of_bundle(folder: Path) -> frozenset[str] | None:
    """The names of a bundle's files by its manifest, of any version; None where there is no bundle."""
    path = folder / MANIFEST_FILE
    if not path.is_file() or path.stat().st_size > MAX_MANIFEST_BYTES:
        return None
    try:
        document = parse_json(path.read_bytes())
    except JsonError:
        return None
    if not isinstance(document, dict) or document.get("format") != MANIFEST_FORMAT:
        return None
    files = document.get("files")
    return frozenset(BUNDLE_FILES).intersection(files if isinstance(files, dict) else ()) | {MANIFEST_FILE}


def _refused(out: Path, error: OSError) -> BundleError:
    told = advice(error, "Choose another place.")
    return BundleError(f"{shortened(out)}: the bundle cannot be written here ({reason(error)}). {told}")


@contextlib.contextmanager
def _parents(out: Path) -> Iterator[None]:
    """Makes the folders above ``out``, and removes those that it made if the block fails."""
    missing = []
    for folder in out.parents:
        if folder.exists():
            break
        missing.append(folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for folder in missing:
                folder.rmdir()
        raise


def _work_path(out: Path) -> Path:
    name = os.fsencode(out.name)
    shown = out.name if len(name) <= _LONGEST_NAME else hashlib.sha256(name).hexdigest()[:32]
    return out.parent / f".{shown}.exporting"


def _free_name(work: Path, stem: str) -> Path:
    """``new``, or another name where something is left that could not be removed."""
    numbers = itertools.chain([""], (f"-{i}" for i in itertools.count(1)))
    return next(path for number in numbers if not (path := work / f"{stem}{number}").exists())


def _publish(new: Path, out: Path) -> None:
    """Gives the new bundle its name, and the old one, if there is one, none."""
    for path in (*new.iterdir(), new):
        _flush(path)
    if not out.exists() or not any(out.iterdir()):
        new.rename(out)  # which takes the place of an empty folder, and of no other
    elif not _exchange(new, out):
        out.rename(_free_name(new.parent, OLD))
        new.rename(out)
    _flush(out.parent)


def _clean(work: Path, out: Path) -> None:
    """Removes what was replaced or never finished; gives an old bundle its name back if there is no other.

    What cannot be removed stays for the next export: on NFS, files that another process has open.

    Raises:
        OSError: if an old bundle cannot get its name back.
    """
    for old in sorted(work.glob(f"{OLD}*")):
        if not out.exists():
            old.rename(out)
    for folder in [*work.glob(f"{NEW}*"), *work.glob(f"{OLD}*")]:
        with contextlib.suppress(OSError):
            for name in (MANIFEST_FILE, *BUNDLE_FILES):
                (folder / name).unlink(missing_ok=True)
            for stranger in list(folder.iterdir()):
                # Somebody put it into the bundle while that was being replaced.
                if not stranger.name.startswith(".nfs") and not (out / stranger.name).exists():
                    stranger.rename(out / stranger.name)
            folder.rmdir()


def _flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk, where the file system can tell."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_CANNOT_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges the names of two folders in one step. False if the system or the file system cannot.

    Raises:
        OSError: if it could, and something else is wrong.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    rename.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))
