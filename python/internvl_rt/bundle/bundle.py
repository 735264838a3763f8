"""Opening a bundle: everything is checked before anything is used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from internvl_rt.bundle.graph_sets import ALL_GRAPH_FILES
from internvl_rt.bundle.manifest import (
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    FileEntry,
    Manifest,
    read_manifest,
    unreadable,
)
from internvl_rt.bundle.weights import TensorPlace, read_places
from internvl_rt.errors import BundleError

KNOWN_FILES = (WEIGHTS_FILE, *ALL_GRAPH_FILES, TOKENIZER_FILE)

_CHUNK = 1 << 22


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are all there and agree with its manifest."""

    folder: Path
    manifest: Manifest
    places: dict[str, TensorPlace]
    """Every stored tensor by name, and where it lies in ``weights.safetensors``."""

    @property
    def weights(self) -> Path:
        """The path of ``weights.safetensors``."""
        return self.folder / WEIGHTS_FILE

    def file(self, name: str) -> Path:
        """The path of one of the bundle's files, such as ``vit.onnx``.

        Raises:
            BundleError: if the bundle has no such file.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{self.folder}: this bundle has no {name}. Export the bundle again.")
        return self.folder / name


def open_bundle(path: str | Path, *, verify: bool = False) -> Bundle:
    """Opens a bundle and checks it: manifest, files, and the header of the weights.

    Args:
        path: the folder that ``internvl-rt export`` wrote.
        verify: also compute the SHA-256 of the weights, which reads the whole file. Graphs and tokenizer are
            small and always verified.

    Raises:
        BundleError: if anything is missing, truncated, altered, out of range or of another format version.
            The message names the file and the field or tensor, and says what to do.
    """
    try:
        folder = Path(path)
    except TypeError as error:
        raise BundleError(
            f"a bundle is named by the path of its folder, a str or a Path; found {type(path).__name__}. "
            "Give the folder that `internvl-rt export` wrote."
        ) from error
    try:
        there = folder.is_dir()
    except OSError as error:
        raise unreadable(folder, error) from error
    if not there:
        found = "is not a folder" if folder.exists() else "there is no such folder"
        raise BundleError(f"{folder}: {found}. Make a bundle with `internvl-rt export CHECKPOINT OUT`.")
    manifest = read_manifest(folder)
    if WEIGHTS_FILE not in manifest.files:
        raise BundleError(f"{folder}: its manifest does not list {WEIGHTS_FILE}. Export the bundle again.")
    for name, entry in manifest.files.items():
        if name not in KNOWN_FILES:
            raise BundleError(
                f"{folder}: its manifest lists the unknown file {name[:200]!r}; a bundle has only "
                f"{', '.join(KNOWN_FILES)}. Export the bundle again."
            )
        _check_file(folder / name, entry, verify=verify or name != WEIGHTS_FILE)
    return Bundle(folder, manifest, read_places(folder, manifest))


def file_entry(path: Path) -> FileEntry:
    """The manifest's entry of a file: its size and SHA-256.

    Raises:
        OSError: if the file cannot be read.
    """
    return FileEntry(path.stat().st_size, _sha256(path))


def _check_file(path: Path, entry: FileEntry, verify: bool) -> None:
    try:
        if not path.is_file():
            raise BundleError(
                f"{path}: the bundle's manifest lists this file, but it is not there. "
                "Copy the whole folder, or export the bundle again."
            )
        size = path.stat().st_size
        if size != entry.bytes:
            raise BundleError(
                f"{path}: has {size} bytes where the manifest says {entry.bytes}. "
                "The file is truncated or altered: copy or export the bundle again."
            )
        if verify and _sha256(path) != entry.sha256:
            raise BundleError(
                f"{path}: its SHA-256 is not the one in the manifest. "
                "The file is altered: copy or export the bundle again."
            )
    except OSError as error:
        raise unreadable(path, error) from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
