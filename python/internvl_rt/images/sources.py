"""A picture that is named by a text: a path, a file URL, a data URL, and what none of them is."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from internvl_rt.errors import ImageError

PATHS_ARE_OFF = (
    "paths and file URLs are not taken here (allow_paths=False). Give the picture's bytes, a data URL, a PIL "
    "image or an array."
)

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/", re.ASCII)
_BASE64_PICTURE = re.compile(
    r"\s*(?:/9j/|iVBORw0KGgo|R0lGOD[dl]|UklGR|SUkq|TU0A)[A-Za-z0-9+/_=\s-]{200,}\Z", re.ASCII
)
"""How base64 of a JPEG, PNG, GIF, WebP or TIFF file begins."""
_SHOWN = 200
_SPACE = re.compile(rb"[ \t\r\n\f\v]+")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def source_of(text: str, *, allow_paths: bool = True) -> bytes | Path:
    """What a text names: the bytes of a data URL, or the path of a file.

    A long text that is base64 and begins like a picture's is one, as transformers takes it.

    Raises:
        ImageError: if it is an address in the network, a malformed URL, or a path where paths are off.
    """
    if text[:5].lower() == "data:":
        return _data_url(text)
    if _BASE64_PICTURE.match(text):
        return decode_base64(text)
    scheme = _SCHEME.match(text)
    kind = scheme[1].lower() if scheme else ""
    place = text[len(kind) + 1 :]
    # A path that was made of a URL has lost one of its slashes.
    if kind in ("http", "https") or (kind not in ("", "file") and place.startswith("//")):
        address = f"{kind}://{place.lstrip('/')}"
        raise ImageError(
            f"{address[:_SHOWN]!r} is on the network, and nothing is fetched from there. Download it, and "
            "pass the file or its bytes."
        )
    if not allow_paths:
        raise ImageError(f"{text[:_SHOWN]!r} is a path: {PATHS_ARE_OFF}")
    if kind == "file":
        return _file_url(text)
    return Path(text)


def decode_base64(data: str | bytes) -> bytes:
    """Decodes base64: with line breaks, of either alphabet, with or without its padding at the end.

    Raises:
        ImageError: if it is malformed.
    """
    try:
        raw = data.encode("ascii") if isinstance(data, str) else bytes(data)
        raw = _SPACE.sub(b"", raw).translate(_URL_SAFE)
        if b"=" not in raw:
            raw += b"=" * (-len(raw) % 4)
        return base64.b64decode(raw, validate=True)
    except (binascii.Error, ValueError) as error:
        reason = "a character that is not ASCII" if isinstance(error, UnicodeError) else error
        raise ImageError(
            f"base64 data is malformed ({reason}); expected the picture's bytes as base64. Encode them again."
        ) from error


def _data_url(text: str) -> bytes:
    header, comma, data = text.partition(",")
    parameters = [part.strip().lower() for part in header[5:].split(";")]
    if not comma or parameters[-1] != "base64":
        raise ImageError(
            f"{text[:60]!r} is a data URL that is not base64; expected data:image/...;base64,... ."
        )
    # In a URL, characters may be written as percent signs and digits.
    return decode_base64(unquote_to_bytes(data) if "%" in data else data)


def _file_url(text: str) -> Path:
    try:
        parts = urlsplit(text)
        host, path = parts.netloc, parts.path
    except ValueError as error:
        raise ImageError(f"{text[:_SHOWN]!r} is a malformed URL ({error}).") from error
    if host.lower() not in ("", "localhost"):
        raise ImageError(
            f"{text[:_SHOWN]!r} is a file on another machine, {host!r}. Copy it here and pass its path. A "
            "file URL of this machine has three slashes: file:///folder/picture.jpg."
        )
    if parts.query or parts.fragment:
        raise ImageError(
            f"{text[:_SHOWN]!r} has a question mark or a number sign after its path. In a file's name they "
            "are written %3F and %23."
        )
    return Path(unquote_to_bytes(path).decode("utf-8", "surrogateescape"))
