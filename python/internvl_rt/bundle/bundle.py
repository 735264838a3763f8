"""Opening a bundle: everything is checked before anything is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from internvl_rt import _core
from internvl_rt.bundle.manifest import WEIGHTS_FILE, Manifest, manifest_from, unreadable_files
from internvl_rt.bundle.tensors import TensorPlace, places_by_name
from internvl_rt.errors import BundleError


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
        with unreadable_files():
            text, places = _core.open_bundle(folder, verify=verify)
    except (TypeError, ValueError) as error:  # ValueError: characters that no path has
        raise BundleError(
            f"a bundle is named by the path of its folder, a str or a Path; found {path!r:.200}. "
            "Give the folder that `internvl-rt export` wrote."
        ) from error
    return Bundle(folder, manifest_from(text), places_by_name(places))
