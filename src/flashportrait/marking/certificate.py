"""With what results are signed: the user's certificate, or one made on this machine, which nobody vouches for."""

from __future__ import annotations

import contextlib
import datetime
import os
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

from flashportrait.errors import UserError
from flashportrait.files import user_folder

if TYPE_CHECKING:
    from cryptography import x509

CERT_VARIABLE, KEY_VARIABLE = "FLASHPORTRAIT_SIGN_CERT", "FLASHPORTRAIT_SIGN_KEY"

LOCAL_NAME = "flashportrait local certificate"
"""Common name of certificates made here. It names neither the user nor the machine."""
LOCAL_ISSUER = "self-signed, not verified by anyone"
LOCAL_FILE = "local-certificate.pem"
LOCAL_YEARS = 20
"""How long a local certificate is valid. Without a time-stamp, verifiers refuse signatures once it has ended."""

CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
"""Elliptic curves that C2PA allows -> its name for the signature algorithm."""
LEAST_RSA_BITS = 2048


@dataclass(frozen=True)
class Identity:
    """A certificate with its private key."""

    chain: bytes
    """PEM: the signer's certificate first, then those that vouch for it."""
    key: bytes = field(repr=False)
    """PEM, PKCS #8, not encrypted."""
    algorithm: str
    """C2PA's name: es256, es384, es512, ps256 or ed25519."""
    local: bool
    """Whether it was made here, so that verifiers call it untrusted."""
    notes: tuple[str, ...] = ()
    """Lines for the user."""


def signing_identity(cert: str | Path | None = None, key: str | Path | None = None) -> Identity:
    """The given certificate, else the one that the environment names, else this machine's own.

    Args:
        cert: a PEM file with the certificate, and after it those that vouch for it.
        key: a PEM file with its private key.

    Raises:
        UserError: one without the other, or what can't sign.
    """
    return given_identity(cert, key) or local_identity()


def given_identity(cert: str | Path | None = None, key: str | Path | None = None) -> Identity | None:
    """The certificate given, or named by the environment; None where there is neither.

    Raises:
        UserError: one without the other, or what can't sign.
    """
    if cert is None and key is None:
        cert, key = (os.environ.get(name) or None for name in (CERT_VARIABLE, KEY_VARIABLE))
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        given, absent = ("key", "certificate") if cert is None else ("certificate", "key")
        raise UserError(
            f"a signing {given} is given without its {absent}: give both, with --sign-cert and --sign-key, or in "
            f"{CERT_VARIABLE} and {KEY_VARIABLE}"
        )
    return _read(Path(cert), Path(key))


def local_identity() -> Identity:
    """This machine's own certificate, made when it is first asked for.

    Where its file can't be kept, one is made for this process alone, and `notes` say so.

    Raises:
        UserError: its file is there and isn't what it should be.
    """
    file = user_folder("config") / LOCAL_FILE
    untrusted = (
        "results are signed with a certificate made on this machine, which verifiers will call untrusted since "
        f"nobody vouches for it; to sign with yours: --sign-cert and --sign-key (it is kept in '{file}'; said once)"
    )
    notes: tuple[str, ...] = ()
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            _keep(file, _make_local())
            notes = (untrusted,)
        content = file.read_bytes()
    except OSError as error:
        content = _make_local()
        notes = (
            f"no certificate can be kept in '{file}' ({error.strerror or error}): results are signed with one made for "
            "this run alone, which verifiers will call untrusted",
        )
    try:
        certificate, key = _certificates(content)[0], _private_key(content)
        _check_validity(certificate, file)
    except (ValueError, IndexError) as error:
        raise UserError(
            f"'{file}' does not hold a valid certificate with its key: remove it, and another is made"
        ) from error
    return Identity(_pem(certificate), _key_pem(key), _algorithm(key, file), local=True, notes=notes)


def _read(cert: Path, key: Path) -> Identity:
    """A user's certificate and key, checked as far as can be without signing."""
    try:
        chain_bytes, key_bytes = cert.read_bytes(), key.read_bytes()
    except OSError as error:
        raise UserError(f"'{error.filename}' can't be read ({error.strerror}): give a PEM file to sign with") from error
    try:
        chain = _certificates(chain_bytes)
    except ValueError as error:
        raise UserError(f"'{cert}' holds no certificate: give a PEM file (-----BEGIN CERTIFICATE-----)") from error
    try:
        private = _private_key(key_bytes)
    except TypeError as error:
        raise UserError(f"the key '{key}' has a pass phrase: give one without, readable by you alone") from error
    except ValueError as error:
        raise UserError(f"'{key}' holds no private key: give a PEM file (-----BEGIN PRIVATE KEY-----)") from error
    if _public(chain[0].public_key()) != _public(private.public_key()):
        raise UserError(f"the key '{key}' isn't that of the first certificate in '{cert}': give the two that match")
    _check_validity(chain[0], cert)
    return Identity(b"".join(map(_pem, chain)), _key_pem(private), _algorithm(private, key), local=False)


def _check_validity(certificate: x509.Certificate, file: Path) -> None:
    now = datetime.datetime.now(datetime.timezone.utc)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise UserError(
            f"the certificate '{file}' is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d}, and not today: sign with a valid one"
        )


def _algorithm(key: Any, file: Path) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVES:
        return CURVES[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= LEAST_RSA_BITS:
        return "ps256"
    raise UserError(
        f"the key '{file}' is of a kind that C2PA doesn't allow: sign with one on the curve P-256, P-384 or P-521, "
        f"with Ed25519, or with RSA of {LEAST_RSA_BITS} bits or more"
    )


def _make_local() -> bytes:
    """A new self-signed certificate and its key, PEM, with the extensions that C2PA asks of a signer."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, LOCAL_NAME),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, LOCAL_ISSUER),
        ]
    )
    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    uses = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)  # for clocks that differ
        .not_valid_after(now + LOCAL_YEARS * 365 * day)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(uses, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(key_id, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pem(certificate) + _key_pem(key)


def _keep(file: Path, content: bytes) -> None:
    """Write a secret that only its owner can read, whole or not at all; one that is there by then stays."""
    with NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as temporary:  # its mode is 0600
        temporary.write(content)
    part = Path(temporary.name)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(part, file)
    except OSError:  # a file system without links
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def _certificates(pem: bytes) -> list[x509.Certificate]:
    from cryptography import x509

    return x509.load_pem_x509_certificates(pem)


def _private_key(pem: bytes) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    begin = pem.find(b"-----BEGIN", pem.rfind(b"-----END CERTIFICATE-----") + 1)
    try:
        return load_pem_private_key(pem[max(begin, 0) :], password=None)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
