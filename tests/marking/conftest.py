"""A certificate that an authority vouches for, as a user would have it."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)


class Files(NamedTuple):
    """PEM files."""

    cert: Path
    key: Path
    authority: Path


def make_certificate(
    name: str, key: Any, issuer: str, issuer_key: Any, *, authority: bool = False, days: int = 30
) -> x509.Certificate:
    """A certificate for signing statements, or for vouching."""
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [
        x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, each), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test")]
        )
        for each in (name, issuer)
    ]
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    uses = dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
    builder = (
        x509.CertificateBuilder(names[1], names[0], key.public_key(), x509.random_serial_number())
        .not_valid_before(now - 60 * DAY)
        .not_valid_after(now + days * DAY)
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **uses),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def key_pem(key: Any) -> bytes:
    """A private key as a file holds it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def signer(tmp_path: Path) -> Files:
    """Of a newspaper, vouched for by an authority."""
    root, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = make_certificate("An authority", root, "An authority", root, authority=True)
    leaf = make_certificate("A newspaper", key, "An authority", root)
    files = Files(*(tmp_path / f"{name}.pem" for name in ("cert", "key", "authority")))
    files.cert.write_bytes(leaf.public_bytes(Encoding.PEM))
    files.key.write_bytes(key_pem(key))
    files.authority.write_bytes(authority.public_bytes(Encoding.PEM))
    return files
