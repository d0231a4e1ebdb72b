"""What a file says of its origin, whether that is intact, and what was changed: credentials of any program."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flashportrait.errors import UserError
from flashportrait.marking.certificate import LOCAL_NAME
from flashportrait.marking.credentials import HASH_PREFIX, context
from flashportrait.marking.provenance import is_marked

INTACT, NONE, BROKEN = "intact", "none", "broken"

WITHOUT = {".mkv", ".webm"}
"""Kinds of video that can't carry credentials, and are read for their tags."""

CHANGES = {
    "assertion.bmffHash.mismatch": "the video's content was changed after it was signed",
    "assertion.bmffHash.malformed": "the hash of the video's content can't be read",
    "assertion.dataHash.mismatch": "the file's content was changed after it was signed",
    "assertion.boxesHash.mismatch": "the file's content was changed after it was signed",
    "assertion.hashedURI.mismatch": "a statement in the credentials was changed",
    "assertion.missing": "a statement is missing from the credentials",
    "claimSignature.mismatch": "the credentials were changed: the signature does not fit them",
    "claimSignature.missing": "the signature is missing",
    "claim.missing": "the claim is missing from the credentials",
    "signingCredential.expired": "the signer's certificate was not valid when it signed, or is no longer",
    "signingCredential.invalid": "the signer's certificate is of no kind that may sign credentials",
    "signingCredential.revoked": "the signer's certificate was revoked",
    "claimSignature.outsideValidity": "the signer's certificate was not valid when it signed, or is no longer",
}
"""C2PA's codes of what fails, in words."""

UNTRUSTED = "signingCredential.untrusted"


@dataclass(frozen=True)
class Source:
    """An ingredient, as the credentials name it."""

    name: str
    role: str
    sha256: str | None
    """In hexadecimal, where the credentials hold it."""


@dataclass(frozen=True)
class Origin:
    """What was found in a file."""

    file: Path
    state: str
    """``intact``, ``none`` (there are no credentials) or ``broken``."""
    iptc_tag: bool
    """Whether the file says in its metadata, which nobody signed, that a trained model made it."""
    program: str | None = None
    model: str | None = None
    when: str | None = None
    """By the signer's clock, ISO 8601."""
    actions: tuple[str, ...] = ()
    source_type: str | None = None
    """The last word of IPTC's digital source type, as in ``trainedAlgorithmicMedia``."""
    ingredients: tuple[Source, ...] = ()
    signer: str | None = None
    local: bool = False
    """Whether the signer's name is that of certificates made on a user's machine."""
    trusted: bool = False
    """Whether one of the given authorities vouches for the signer."""
    changes: tuple[str, ...] = field(default=())
    """What is wrong, one line each."""

    def to_dict(self) -> dict[str, Any]:
        """All of it, fit for JSON."""
        return {**asdict(self), "file": str(self.file)}


def read_origin(path: str | Path, authorities: str | Path | None = None) -> Origin:
    """Read and check a file's credentials. Nothing is fetched.

    Args:
        path: a video or picture.
        authorities: a PEM file of certificates to trust.

    Raises:
        UserError: no file, or no kind that is known; or c2pa-python isn't installed.
    """
    try:
        from c2pa import C2paError, Reader
    except (ImportError, OSError) as error:
        raise UserError("credentials can't be read without c2pa-python: pip install c2pa-python") from error

    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file '{path}'")
    tag = _tag(path)
    suffix = path.suffix.lower()
    if suffix in WITHOUT:
        return Origin(path, NONE, tag)
    if suffix.lstrip(".") not in Reader.get_supported_mime_types():
        raise UserError(f"'{path}' is no kind of file whose credentials can be read: give a video or a picture")
    trust = {} if authorities is None else {"trust": {"user_anchors": _anchors(Path(authorities))}}
    try:
        with path.open("rb") as file:
            reader = Reader.try_create(suffix.lstrip("."), file, context=context(**trust))
            if reader is None:
                return Origin(path, NONE, tag)
            with reader:
                return _origin(path, tag, reader)
    except C2paError as error:
        return Origin(path, BROKEN, tag, changes=(f"it can't be read: {' '.join(str(error).split())}",))


def _origin(path: Path, tag: bool, reader: Any) -> Origin:
    manifest, state = reader.get_active_manifest() or {}, reader.get_validation_state()
    generator = (manifest.get("claim_generator_info") or [{}])[0]
    actions = _actions(manifest)
    first = next((action for action in actions if action.get("digitalSourceType")), actions[0] if actions else {})
    source_type = first.get("digitalSourceType")
    signature = manifest.get("signature_info") or {}
    names = [signature.get("common_name"), signature.get("issuer")]
    program = [generator.get("name") or manifest.get("claim_generator"), generator.get("version")]
    return Origin(
        path,
        INTACT if state in ("Valid", "Trusted") else BROKEN,
        tag,
        program=" ".join(map(str, filter(None, program))) or None,
        model=generator.get("model"),
        when=signature.get("time") or first.get("when"),
        actions=tuple(str(action.get("action")) for action in actions),
        source_type=str(source_type).rsplit("/", 1)[-1] if source_type else None,
        ingredients=tuple(map(_source, manifest.get("ingredients") or ())),
        signer=", ".join(filter(None, names)) or None,
        local=signature.get("common_name") == LOCAL_NAME,
        trusted=state == "Trusted",
        changes=() if state in ("Valid", "Trusted") else _changes(reader.get_validation_results() or {}),
    )


def _actions(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        action
        for assertion in manifest.get("assertions") or ()
        if str(assertion.get("label")).startswith("c2pa.actions")
        for action in assertion.get("data", {}).get("actions") or ()
    ]


def _source(ingredient: dict[str, Any]) -> Source:
    identity = str(ingredient.get("instance_id") or "")
    sha256 = identity.removeprefix(HASH_PREFIX) if identity.startswith(HASH_PREFIX) else None
    role = ingredient.get("description") or ingredient.get("relationship") or ""
    return Source(str(ingredient.get("title") or "without a name"), str(role), sha256)


def _changes(results: dict[str, Any]) -> tuple[str, ...]:
    found = (results.get("activeManifest") or {}).get("failure") or ()
    for delta in results.get("ingredientDeltas") or ():
        found = [*found, *((delta.get("validationDeltas") or {}).get("failure") or ())]
    codes = [(entry.get("code"), entry.get("explanation")) for entry in found if entry.get("code") != UNTRUSTED]
    lines = [CHANGES.get(code) or f"{explanation or 'a check failed'} ({code})" for code, explanation in codes]
    return tuple(dict.fromkeys(lines)) or ("a check failed that has no name",)


def _tag(path: Path) -> bool:
    try:
        return path.stat().st_size > 0 and is_marked(path)
    except OSError as error:
        raise UserError(f"'{path}' can't be read: {error.strerror or error}") from error


def _anchors(path: Path) -> str:
    try:
        content = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{path}' can't be read: give a PEM file of certificates to trust") from error
    if "-----BEGIN CERTIFICATE-----" not in content:
        raise UserError(f"'{path}' holds no certificate: give a PEM file of certificates to trust")
    return content
