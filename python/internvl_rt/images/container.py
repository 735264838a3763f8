"""The files of pictures, looked through before anything in them is decoded.

Decoders read more than the first picture: comments, profiles, later frames, directories whose entries all
point at the same bytes. Here a file is cut down to what its first picture is made of, and what remains is
counted, so that work and memory are known beforehand.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

MOST_PARTS = 250_000
"""Chunks, segments, blocks or tags of a file. The largest pictures that are decoded have a tenth of them."""

MOST_SCANS = 100
"""Scans of a JPEG file. Progressive ones have about ten."""

_MOST_NUMBERS = 1 << 22
"""Numbers of one tag of a TIFF file: a place for every row of the largest picture."""

_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_MOST_BLOCKS = 64
_MOST_EXIF = 1 << 20
"""Bytes of EXIF that are looked through for the orientation, which stands in front."""


@dataclass(frozen=True)
class Container:
    """A picture's file without what belongs to no pixel."""

    content: bytes
    exif: bytes = b""
    """The block that begins with the byte order; empty where the file has none that is read here."""
    xmp: bytes = b""
    scans: int = 1
    """How many times a decoder goes over the pixels."""
    tile_bytes: int = 0
    """Memory of the largest tile, where they are of a size of their own."""


def read_container(content: bytes) -> Container:
    """Looks through a file of any kind; what is not known here comes back as it is.

    Raises:
        ValueError: if the file is damaged, or made to take much more than its size. The text says how.
    """
    if content[:3] == b"\xff\xd8\xff":
        return _jpeg(content)
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        return _png(content)
    if content[:6] in (b"GIF87a", b"GIF89a"):
        return Container(_first_frame_of_gif(content))
    if content[:4] in (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"II+\0", b"MM\0+"):
        return Container(content, tile_bytes=_check_directory(content))
    if content[4:8] == b"ftyp":
        # The decoder looks into EXIF wherever it lies in the file.
        for count, place in enumerate(re.finditer(rb"II\*\0|MM\0\*", content)):
            if count == _MOST_BLOCKS:
                raise ValueError(f"more than {_MOST_BLOCKS} blocks of EXIF")
            _check_directory(memoryview(content)[place.start() :])
    return Container(content)


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """How the stored picture has to be turned to be seen upright, 1 to 8; 1 is not at all.

    As Pillow reads it: from EXIF, and from XMP where EXIF says nothing. What is damaged says nothing.
    """
    found = _exif_orientation(exif.removeprefix(_EXIF)[:_MOST_EXIF])
    if found is None:
        match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)
        found = int(match[1]) if match else 1
    return found if 1 <= found <= 8 else 1


def _exif_orientation(exif: bytes) -> int | None:
    try:
        order = {b"II": "<", b"MM": ">"}[exif[:2]]
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, start)
        for i in range(entries):
            tag, kind, count = struct.unpack_from(f"{order}HHI", exif, start + 2 + 12 * i)
            if tag == 0x0112 and count == 1 and kind in (3, 4):
                form = "H" if kind == 3 else "I"
                return int(struct.unpack_from(order + form, exif, start + 10 + 12 * i)[0])
    except (KeyError, struct.error):
        pass
    return None


_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)
"""The marker that ends a scan's data, in which a 255 is followed by 0 or by a restart's number."""


def _jpeg(content: bytes) -> Container:
    kept = [content[:2]]
    exif: list[bytes] = []
    xmp = b""
    at, scans, first_scan = 2, 0, 0
    for _ in range(MOST_PARTS):
        if at + 2 > len(content):
            break  # cut off: the decoder says so
        if content[at] != 0xFF:
            raise ValueError(f"no marker at byte {at}")
        marker = content[at + 1]
        if marker == 0xFF or marker == 0x00:  # fill bytes
            at += 1 if marker == 0xFF else 2
            continue
        if marker == 0xD9:
            at += 2
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a segment
            at += 2
            continue
        if at + 4 > len(content):
            break
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        segment = content[at:end]
        if marker == 0xDA:
            scans += 1
            first_scan = first_scan or at
            if scans > MOST_SCANS:
                raise ValueError(f"more than {MOST_SCANS} scans")
            following = _AFTER_SCAN.search(content, end)
            at = len(content) if following is None else following.start()
            continue
        if marker == 0xE1 and segment[4:10] == _EXIF:
            exif.append(segment[10:])
        elif marker == 0xE1 and segment[4:].startswith(_XMP):
            xmp = segment[4 + len(_XMP) :]
        # JFIF's and Adobe's segments say what the components are; the other ones and comments do not.
        if not scans and not (marker == 0xFE or (0xE1 <= marker <= 0xEF and marker != 0xEE)):
            kept.append(segment)
        at = end
    else:
        raise ValueError(f"more than {MOST_PARTS} segments")
    tail = content[first_scan:at] if first_scan else b""
    return Container(b"".join((*kept, tail)), b"".join(exif), xmp, max(1, scans))


_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_MOST_TEXT = 1 << 20


def _png(content: bytes) -> Container:
    kept = [content[:8]]
    exif = xmp = b""
    at, whole = 8, memoryview(content)
    for _ in range(MOST_PARTS):
        if at >= len(content):
            break
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        name = content[at + 4 : at + 8]
        if name in _PIXEL_CHUNKS:
            kept.append(bytes(whole[at:end]))
        elif name == b"eXIf":
            exif = content[at + 8 : end - 4]
        elif name in (b"tEXt", b"zTXt", b"iTXt") and end - at <= _MOST_TEXT:
            keyword, text = _png_text(name, content[at + 8 : end - 4])
            if keyword == b"XML:com.adobe.xmp":
                xmp = text
            elif keyword == b"Raw profile type exif" and not exif:
                exif = _raw_profile(text)
        at = end
        if name == b"IEND":
            break
    else:
        raise ValueError(f"more than {MOST_PARTS} chunks")
    return Container(b"".join(kept), exif, xmp)


def _png_text(name: bytes, data: bytes) -> tuple[bytes, bytes]:
    keyword, _, text = data.partition(b"\0")
    compressed = name == b"zTXt"
    if name == b"iTXt":
        compressed = text[:1] == b"\1"
        text = b"\0" + text[2:].split(b"\0", 2)[-1]
    if name != b"tEXt":
        text = text[1:]
    if compressed:
        try:
            text = zlib.decompressobj().decompress(text, _MOST_TEXT)
        except zlib.error:
            text = b""
    return keyword, text


def _raw_profile(text: bytes) -> bytes:
    """EXIF as ImageMagick writes it: a name, a length, and hexadecimal digits on lines."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


def _first_frame_of_gif(content: bytes) -> bytes:
    kept = [content[:13]]
    at = 13
    if len(content) > 10 and content[10] & 0x80:
        at += 3 << ((content[10] & 7) + 1)
        kept.append(content[13:at])
    for _ in range(MOST_PARTS):
        block = content[at : at + 1]
        if block == b"!":
            end = _after_sub_blocks(content, at + 2)
            if content[at + 1 : at + 2] == b"\xf9":
                kept.append(content[at:end])
            at = end
        elif block == b",":
            flags = content[at + 9] if at + 9 < len(content) else 0
            data = at + 10 + ((3 << ((flags & 7) + 1)) if flags & 0x80 else 0) + 1
            kept += [content[at : _after_sub_blocks(content, data)], b";"]
            return b"".join(kept)
        elif block in (b"", b";"):
            raise ValueError("it holds no picture")
        else:
            at += 1
    raise ValueError(f"more than {MOST_PARTS} blocks")


def _after_sub_blocks(content: bytes, at: int) -> int:
    while at < len(content) and content[at]:
        at += content[at] + 1
    return at + 1


_TAG_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_OPAQUE = (1, 2, 6, 7)
"""Tags of bytes and texts, which are not made into numbers."""


def _check_directory(content: bytes | memoryview) -> int:
    """Checks the directories of a TIFF file, or of EXIF; gives the memory of a tile.

    Raises:
        ValueError: if the data of tags together is larger than the file: then tags share bytes, each of them
            a copy in memory.
    """
    total, tile = 0, {322: 0, 323: 0, 277: 1}
    for tag, kind, count, value in _tags(content):
        total += count * _TAG_BYTES[kind]
        if total > len(content):
            raise ValueError("its tags hold more data than the file does")
        if kind not in _OPAQUE and count > _MOST_NUMBERS:
            raise ValueError(f"its tag {tag} holds {count} numbers")
        if tag in tile:
            tile[tag] = value
    return tile[322] * tile[323] * tile[277] * 4


def _tags(content: bytes | memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Tag, type, count and first number of every entry whose data lies in the file; first picture alone."""
    order = "<" if content[:1] == b"I" else ">"
    big = 43 in content[2:4]
    head, form, width = ("Q", "HHQ", 20) if big else ("I", "HHI", 12)
    try:
        (start,) = struct.unpack_from(order + head, content, 8 if big else 4)
        directories = [start]
        seen: set[int] = set()
        while directories and len(seen) < 16:
            start = directories.pop()
            if start in seen:
                continue
            seen.add(start)
            try:
                (entries,) = struct.unpack_from(order + ("Q" if big else "H"), content, start)
            except struct.error:
                continue
            if entries > MOST_PARTS:
                raise ValueError(f"a directory of {entries} tags")
            first = start + (8 if big else 2)
            for place in range(first, min(first + width * entries, len(content) - width + 1), width):
                tag, kind, count = struct.unpack_from(order + form, content, place)
                if kind not in _TAG_BYTES:
                    continue
                inline = place + width - (8 if big else 4)
                size = count * _TAG_BYTES[kind]
                (offset,) = struct.unpack_from(order + head, content, inline)
                if size > (8 if big else 4) and offset + size > len(content):
                    continue  # read in vain, and left out
                short = "H" if kind in (3, 8) else head
                yield tag, kind, count, struct.unpack_from(order + short, content, inline)[0]
                if tag in (0x8769, 0x8825, 0xA005, 0x014A):
                    directories.append(offset)
    except struct.error:
        return
