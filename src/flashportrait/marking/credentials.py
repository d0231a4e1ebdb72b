"""C2PA Content Credentials: a signed statement in a file of what made it, and from what.

They follow the C2PA specification 2 (c2pa.org), as c2pa-python writes it: the action ``c2pa.created`` with IPTC's
source type, inputs as ingredients of the relationship ``inputTo``, a hash over the file's content, a signature. No
time-stamp authority or other host is contacted, and no pixels of the inputs are kept.
"""

from __future__ import annotations

import errno
import io
import json
import mimetypes
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashportrait.errors import UserError
from flashportrait.files import sha256_of
from flashportrait.marking.certificate import Identity, signing_identity
from flashportrait.marking.provenance import DIGITAL_SOURCE_TYPE, STATEMENT, software

if TYPE_CHECKING:
    import c2pa

KINDS = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".png": "image/png",
}
"""Endings of results that can carry Content Credentials -> their media types."""

SETTINGS = {
    "core": {"backing_store_memory_threshold_in_mb": 16},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
"""c2pa's: long files are not held in memory, nothing is fetched, no picture is kept."""

HASH_PREFIX = "sha256:"
"""Before an input's hash where an ingredient's instance id is."""

SPARE_BYTES = 1 << 20
"""More than credentials take."""


@dataclass(frozen=True)
class Ingredient:
    """A file that a result was made from, by name and hash."""

    role: str
    """What it was: ``portrait``, ``driving video``, ``motion template``."""
    name: str
    sha256: str
    """Of its bytes, in hexadecimal."""

    @classmethod
    def of(cls, path: str | Path, role: str) -> Ingredient:
        """The ingredient that a file is."""
        return cls(role, Path(path).name, sha256_of(Path(path)))


class Credentials:
    """Signs finished files.

    Args:
        identity: to sign with; the environment's or this machine's own unless given.
        model: name of the model that made them.
        ingredients: what they were made from.

    Raises:
        UserError: nothing can be signed with `identity`, which is tried at once.
    """

    def __init__(
        self, identity: Identity | None = None, *, model: str | None = None, ingredients: Iterable[Ingredient] = ()
    ):
        self.identity = identity or signing_identity()
        self.model = model
        self.ingredients = tuple(ingredients)
        self._try()

    def sign(self, part: Path, title: str) -> None:
        """Put credentials into a file that is whole but not yet in its place; it is replaced by the signed one.

        Memory does not grow with the file's length; on disk there are two of it for a while.

        Args:
            part: the file, of one of `KINDS`.
            title: the name that it will have.

        Raises:
            OSError: there is no room for the signed file.
            UserError: it can't be signed.
        """
        from c2pa import C2paError

        signed = part.with_name(f"{part.stem}.signed{part.suffix}")
        needed = part.stat().st_size + SPARE_BYTES
        if shutil.disk_usage(part.parent).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(signed))
        kind = KINDS[part.suffix.lower()]
        try:
            with part.open("rb") as source, signed.open("w+b") as target:
                _sign(self.identity, self.manifest(title, kind), kind, source, target)
            shutil.copymode(part, signed)
            os.replace(signed, part)
        except C2paError as error:
            if shutil.disk_usage(part.parent).free < SPARE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(signed)) from error
            raise UserError(
                f"'{title}' can't be signed ({_reason(error)}): sign with another certificate, or leave the mark out "
                "with --no-mark"
            ) from error
        finally:
            signed.unlink(missing_ok=True)

    def manifest(self, title: str, kind: str) -> dict[str, Any]:
        """What is signed, as c2pa's builder takes it."""
        name, _, version = software().partition(" ")
        generator = {"name": name, **({"version": version} if version else {})}
        created = {
            "action": "c2pa.created",
            "when": datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "digitalSourceType": DIGITAL_SOURCE_TYPE,
            "softwareAgent": generator,
            "description": STATEMENT,
        }
        parameters: dict[str, Any] = {"model": self.model} if self.model else {}
        if self.ingredients:
            parameters["ingredientIds"] = [str(number) for number, _ in enumerate(self.ingredients)]
        if parameters:
            created["parameters"] = parameters
        return {
            "claim_generator_info": [{**generator, **({"model": self.model} if self.model else {})}],
            "title": title,
            "format": kind,
            "ingredients": [
                {
                    "label": str(number),
                    "title": ingredient.name,
                    "format": mimetypes.guess_type(ingredient.name)[0] or "application/octet-stream",
                    "relationship": "inputTo",
                    "instance_id": HASH_PREFIX + ingredient.sha256,
                    "description": ingredient.role,
                }
                for number, ingredient in enumerate(self.ingredients)
            ],
            "assertions": [{"label": "c2pa.actions", "data": {"actions": [created]}}],
        }

    def _try(self) -> None:
        """Sign a picture of one pixel in memory, so that what can't sign is known before any work is done."""
        from PIL import Image

        try:
            from c2pa import C2paError
        except (ImportError, OSError) as error:
            raise UserError(
                "results can't be signed without c2pa-python: pip install c2pa-python, or leave the mark out with "
                "--no-mark"
            ) from error
        picture = io.BytesIO()
        Image.new("RGB", (1, 1)).save(picture, "png")
        picture.seek(0)
        try:
            _sign(self.identity, self.manifest("trial", "image/png"), "image/png", picture, io.BytesIO())
        except C2paError as error:
            raise UserError(
                f"the certificate can't sign Content Credentials ({_reason(error)}): it must be an end-entity "
                "certificate for digital signatures, with an extended key usage such as email protection"
            ) from error

    @property
    def description(self) -> str:
        """How files are marked, in words."""
        by = "this machine's own certificate, which verifiers call untrusted" if self.identity.local else "yours"
        return f"Content Credentials, signed with {by}"


def can_carry(path: Path) -> bool:
    """Whether a file of this ending can carry Content Credentials; Matroska and WebM can't."""
    return path.suffix.lower() in KINDS


def context(**more: Any) -> c2pa.Context:
    """c2pa's settings for writing and reading, with `more` beside them."""
    from c2pa import Context

    return Context.from_dict({**SETTINGS, **more})


def _sign(identity: Identity, manifest: dict[str, Any], kind: str, source: Any, target: Any) -> None:
    from c2pa import Builder, C2paSignerInfo, Signer

    info = C2paSignerInfo(
        alg=identity.algorithm.encode(), sign_cert=identity.chain, private_key=identity.key, ta_url=None
    )
    with Signer.from_info(info) as signer, Builder.from_json(json.dumps(manifest), context()) as builder:
        builder.sign(signer, kind, source, target)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
