"""Marks that tell people and machines that a video is synthetic."""

from __future__ import annotations

import mmap
import os
import zlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from uuid import UUID
from xml.sax.saxutils import quoteattr

from PIL import Image

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for media made by a trained model."""

XMP_BOX = UUID("be7acfcb-97a9-42e8-9c71-999491e3afac")
"""The ISO base media box that holds XMP."""

WEBP_HAS_XMP = 4
"""The flag in a WebP's header that says there is an XMP chunk."""

PNG_END_BYTES = 12
"""Length of a PNG's last chunk."""

STATEMENT = "Synthetic media: a portrait animated by a trained model, not a recording of the person shown."


def software() -> str:
    """The name and version written into results."""
    try:
        return f"flashportrait {version('flashportrait')}"
    except PackageNotFoundError:
        return "flashportrait"


def container_tags(model: str | None = None) -> dict[str, str]:
    """Tags that every container takes; players and asset managers show them."""
    return {
        "comment": f"{STATEMENT} Made by {_maker(model)}. DigitalSourceType: {DIGITAL_SOURCE_TYPE}",
        "description": STATEMENT,
    }


def xmp_packet(model: str | None = None) -> bytes:
    """An XMP packet that states the IPTC digital source type and the tool."""
    tool = software() if model is None else f"{software()} ({model})"
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about=""'
        ' xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f" xmp:CreatorTool={quoteattr(tool)}"
        f" Iptc4xmpExt:DigitalSourceType={quoteattr(DIGITAL_SOURCE_TYPE)}/>"
        "</rdf:RDF></x:xmpmeta>"
        '<?xpacket end="r"?>'
    ).encode()


def mark_file(path: Path, model: str | None = None) -> None:
    """Add the mark to a file that is whole, where its kind can take it then: mp4's family, WebP, GIF and PNG.

    Matroska and WebM are marked by tags alone (`container_tags`), which are written first.
    """
    add = {
        ".mp4": append_xmp_box,
        ".mov": append_xmp_box,
        ".m4v": append_xmp_box,
        ".webp": _mark_webp,
        ".gif": _mark_gif,
        ".png": _mark_png,
    }.get(path.suffix.lower())
    if add is not None:
        add(path, model)


def append_xmp_box(path: Path, model: str | None = None) -> None:
    """Add the XMP packet to a finished mp4 or mov file, as a box of its own after the last one."""
    packet = xmp_packet(model)
    size = 8 + 16 + len(packet)
    with path.open("ab") as file:
        file.write(size.to_bytes(4, "big") + b"uuid" + XMP_BOX.bytes + packet)


def _mark_webp(path: Path, model: str | None) -> None:
    """Add the XMP packet as the chunk that the format has for it, and say so in the file's header.

    RIFF: a name, a size, the content, and a zero where the size is odd. VP8X is eight flags, three reserved bytes, and
    width and height less one, three bytes each, little-endian.
    """
    with Image.open(path) as image:
        sides = image.size
    packet = xmp_packet(model)
    with path.open("r+b") as file:
        head = bytearray(file.read(30))
        if head[12:16] == b"VP8X":
            head[20] |= WEBP_HAS_XMP
            file.seek(0)
            file.write(head)
        else:  # a single picture, whose file has no such header yet
            rest = head[12:] + file.read()
            extent = b"".join((side - 1).to_bytes(3, "little") for side in sides)
            file.seek(12)
            file.write(b"VP8X" + (10).to_bytes(4, "little") + bytes([WEBP_HAS_XMP, 0, 0, 0]) + extent + rest)
        file.seek(0, os.SEEK_END)
        file.write(b"XMP " + len(packet).to_bytes(4, "little") + packet + bytes(len(packet) % 2))
        size = file.tell() - 8
        file.seek(4)
        file.write(size.to_bytes(4, "little"))


def _mark_gif(path: Path, model: str | None) -> None:
    """Add a comment before the first picture, in blocks of up to 255 bytes, the first of which holds the source type.

    A GIF begins with 13 bytes, the eleventh of which says whether a table of 2^(n + 1) colours follows, and n.
    """
    text = f"DigitalSourceType: {DIGITAL_SOURCE_TYPE} . {STATEMENT} Made by {_maker(model)}."
    data = text.encode("ascii", "replace")
    blocks = b"".join(bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255))
    content = path.read_bytes()
    start = 13 + (3 << (content[10] & 7) + 1 if content[10] & 0x80 else 0)
    path.write_bytes(content[:start] + b"\x21\xfe" + blocks + b"\x00" + content[start:])


def _mark_png(path: Path, model: str | None) -> None:
    """Add the XMP packet before the last chunk, as the text that the format keeps for it."""
    content = b"iTXt" + b"XML:com.adobe.xmp\0\0\0\0\0" + xmp_packet(model)
    chunk = (len(content) - 4).to_bytes(4, "big") + content + zlib.crc32(content).to_bytes(4, "big")
    with path.open("r+b") as file:
        file.seek(-PNG_END_BYTES, os.SEEK_END)
        end = file.read()
        file.seek(-PNG_END_BYTES, os.SEEK_END)
        file.write(chunk + end)


def _maker(model: str | None) -> str:
    return software() if model is None else f"{software()}, model {model}"


def is_marked(path: str | Path) -> bool:
    """Whether a file carries the mark, in its XMP, its tags or its comment."""
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(DIGITAL_SOURCE_TYPE.encode()) >= 0
