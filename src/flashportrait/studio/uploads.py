"""Uploaded files: looked at in a confined process as soon as they come, and told about in a line."""

from __future__ import annotations

import base64
import threading
from collections import OrderedDict
from html import escape
from pathlib import Path
from typing import Literal

from flashportrait.errors import UserError
from flashportrait.intake import Inspection, Limits, inspect
from flashportrait.studio.words import duration, notices

REMEMBERED = 32
"""Inspections that are kept."""

Kind = Literal["portrait", "driving"]


class Uploads:
    """What is known of files below a few folders.

    Args:
        folders: of uploads and examples; files elsewhere are refused.
        limits: what a file may be.
    """

    def __init__(self, folders: list[Path], limits: Limits) -> None:
        self._folders, self.limits = [folder.resolve() for folder in folders], limits
        self._known: OrderedDict[tuple[Path, int, Kind], Inspection | str] = OrderedDict()
        self._lock = threading.Lock()

    def path(self, given: str | Path) -> Path:
        """The file that a browser names.

        Raises:
            UserError: it is none of those that were uploaded.
        """
        path = Path(given).resolve()
        if not any(path.is_relative_to(folder) for folder in self._folders) or not path.is_file():
            raise UserError("this file is no longer here: upload it again")
        return path

    def look(self, given: str | Path, kind: Kind) -> Inspection:
        """What is in a file; looked at once.

        Raises:
            UserError: it can't be taken; one line.
        """
        path = self.path(given)
        key = path, path.stat().st_mtime_ns, kind
        with self._lock:
            found = self._known.get(key)
        if found is None:
            try:
                found = inspect(path, kind, self.limits)
            except UserError as error:
                found = str(error)
            with self._lock:
                self._known[key] = found
                while len(self._known) > REMEMBERED:
                    self._known.popitem(last=False)
        if isinstance(found, str):
            raise UserError(found)
        return found


def told(found: Inspection) -> str:
    """A line or two about a file, as HTML."""
    lines: list[tuple[str, str]] = []
    count = len(found.faces)
    if found.kind == "portrait":
        seen = "One face found" if count == 1 else f"{count} faces found: choose one"
        lines.append((f"{seen}. {found.width} x {found.height} pixels.", "good"))
    else:
        sound = "with sound" if found.has_sound else "no sound"
        facts = f"{duration(found.seconds)}, {found.frames} frames, {sound}."
        if found.media == "template":
            lines.append((f"A motion template: {facts}", "good"))
        elif count:
            seen = "One face found" if count == 1 else f"{count} faces found: choose one"
            lines.append((f"{seen}. {facts}", "good"))
        else:
            lines.append((facts, "note"))
    lines += [(warning, "warning") for warning in found.warnings]
    return notices(lines)


def numbered(found: Inspection, picks: str) -> str:
    """The picture with a numbered box on each face, as HTML; a click picks the face in the control ``picks``."""
    boxes = []
    for face in found.faces:
        left, top, right, bottom = face.box
        place = (
            f"left:{100 * left / found.width:.2f}%;top:{100 * top / found.height:.2f}%;"
            f"width:{100 * (right - left) / found.width:.2f}%;height:{100 * (bottom - top) / found.height:.2f}%"
        )
        boxes.append(
            f'<span class="face" style="{place}" data-pick="{escape(picks)}" data-number="{face.number}">'
            f"{face.number}</span>"
        )
    image = base64.b64encode(found.preview).decode()
    return f'<div class="faces"><img src="data:image/png;base64,{image}" alt="numbered faces">{"".join(boxes)}</div>'
