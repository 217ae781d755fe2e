"""A PNG of a page made small: its 256 most frequent colours, each other pixel the nearest of them."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {2: 3, 6: 4}  # colour type: bytes a pixel, at eight bits a channel


def smaller(picture: bytes) -> bytes:
    """The same picture with a palette."""
    chunks = dict(_chunks(picture))
    width, height, depth, kind = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert depth == 8
    pixels = list(_pixels(zlib.decompress(chunks[b"IDAT"]), width, CHANNELS[kind]))
    counted = Counter(pixels)
    palette = [colour for colour, _times in counted.most_common(256)]
    index = {colour: _nearest(colour, palette) for colour in counted}
    told = bytes(index[pixel] for pixel in pixels)
    rows = b"".join(b"\0" + told[at : at + width] for at in range(0, len(told), width))
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    body = _chunk(b"IHDR", head) + _chunk(b"PLTE", b"".join(palette)) + _chunk(b"IDAT", zlib.compress(rows, 9))
    return SIGNATURE + body + _chunk(b"IEND", b"")


def _chunks(picture: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each kind once; the parts of the image data together."""
    found: dict[bytes, bytes] = {}
    at = len(SIGNATURE)
    while at < len(picture):
        length, kind = struct.unpack(">I4s", picture[at : at + 8])
        found[kind] = found.get(kind, b"") + picture[at + 8 : at + 8 + length]
        at += length + 12
    yield from found.items()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _pixels(data: bytes, width: int, size: int) -> Iterator[bytes]:
    """Three bytes a pixel, row by row, with the filters of PNG undone (its specification, section 9)."""
    length = width * size
    above = bytearray(length)
    for at in range(0, len(data), length + 1):
        filtered, row = data[at], bytearray(data[at + 1 : at + 1 + length])
        for here in range(length):
            left = row[here - size] if here >= size else 0
            corner = above[here - size] if here >= size else 0
            row[here] = (row[here] + _guess(filtered, left, above[here], corner)) & 255
        for here in range(0, length, size):
            yield bytes(row[here : here + 3])
        above = row


def _guess(filtered: int, left: int, up: int, corner: int) -> int:
    if filtered < 4:
        return (0, left, up, (left + up) // 2)[filtered]
    near = left + up - corner
    return min((left, up, corner), key=lambda each: abs(near - each))


def _nearest(colour: bytes, palette: list[bytes]) -> int:
    red, green, blue = colour
    return min(
        range(len(palette)),
        key=lambda at: (palette[at][0] - red) ** 2 + (palette[at][1] - green) ** 2 + (palette[at][2] - blue) ** 2,
    )
