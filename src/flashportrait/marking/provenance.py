"""Marks that tell people and machines that a video is synthetic."""

from __future__ import annotations

import mmap
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from uuid import UUID
from xml.sax.saxutils import quoteattr

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for media made by a trained model."""

XMP_BOX = UUID("be7acfcb-97a9-42e8-9c71-999491e3afac")
"""The ISO base media box that holds XMP."""

STATEMENT = "Synthetic media: a portrait animated by a trained model, not a recording of the person shown."


def software() -> str:
    """The name and version written into results."""
    try:
        return f"flashportrait {version('flashportrait')}"
    except PackageNotFoundError:
        return "flashportrait"


def container_tags(model: str | None = None) -> dict[str, str]:
    """Tags that every container takes; players and asset managers show them."""
    made_by = software() if model is None else f"{software()}, model {model}"
    return {
        "comment": f"{STATEMENT} Made by {made_by}. DigitalSourceType: {DIGITAL_SOURCE_TYPE}",
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


def append_xmp_box(path: Path, model: str | None = None) -> None:
    """Add the XMP packet to a finished mp4 or mov file, as a box of its own after the last one."""
    packet = xmp_packet(model)
    size = 8 + 16 + len(packet)
    with path.open("ab") as file:
        file.write(size.to_bytes(4, "big") + b"uuid" + XMP_BOX.bytes + packet)


def is_marked(path: str | Path) -> bool:
    """Whether a video carries the mark, in its XMP box or in its tags."""
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(DIGITAL_SOURCE_TYPE.encode()) >= 0
