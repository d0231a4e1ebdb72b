"""What signs: this machine's own certificate, made once and kept secret, or the user's, refused where it can't."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from conftest import Files, key_pem, make_certificate
from flashportrait.errors import UserError
from flashportrait.marking.certificate import LOCAL_FILE, given_identity, local_identity, signing_identity
from flashportrait.marking.credentials import Credentials
from flashportrait.marking.machine import CONSENT, consent_rule


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which the program never ran."""
    monkeypatch.setenv("FLASHPORTRAIT_CONFIG", str(tmp_path / "config"))
    return tmp_path / "config"


def test_the_local_certificate_is_made_once_and_said_once(folder: Path) -> None:
    first, second = local_identity(), local_identity()
    assert first.local
    assert (first.chain, first.key) == (second.chain, second.key)
    (line,) = first.notes
    assert "untrusted" in line
    assert second.notes == ()
    assert [file.name for file in folder.iterdir()] == [LOCAL_FILE]
    if os.name == "posix":
        assert (folder / LOCAL_FILE).stat().st_mode & 0o777 == 0o600
    assert str(first.key) not in repr(first)


def test_processes_that_start_at_once_have_one_certificate(folder: Path) -> None:
    code = "from flashportrait.marking.certificate import local_identity as l; print(l().chain.hex())"
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(3)]
    assert len({run.communicate()[0] for run in runs}) == 1
    assert all(run.returncode == 0 for run in runs)


def test_without_a_place_to_keep_it_every_run_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FLASHPORTRAIT_CONFIG", str(tmp_path / "file" / "config"))
    first, second = local_identity(), local_identity()
    assert first.key != second.key
    assert all("for this run alone" in identity.notes[0] for identity in (first, second))
    Credentials(first)
    assert consent_rule() == consent_rule() == CONSENT


def test_a_local_certificate_that_was_damaged_is_refused(folder: Path) -> None:
    local_identity()
    (folder / LOCAL_FILE).write_text("nothing")
    with pytest.raises(UserError, match="remove it, and another is made"):
        local_identity()


def test_the_consent_rule_is_said_once(folder: Path) -> None:
    assert [consent_rule(), consent_rule()] == [CONSENT, None]


def test_the_users_certificate_comes_from_options_or_environment(
    signer: Files, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert given_identity() is None
    given = given_identity(signer.cert, signer.key)
    assert given is not None
    assert (given.local, given.algorithm) == (False, "es256")
    monkeypatch.setenv("FLASHPORTRAIT_SIGN_CERT", str(signer.cert))
    monkeypatch.setenv("FLASHPORTRAIT_SIGN_KEY", str(signer.key))
    assert signing_identity() == given
    assert not folder.exists()


def test_what_cannot_sign_is_refused_in_a_line(signer: Files, tmp_path: Path) -> None:
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    expired = tmp_path / "expired.pem"
    expired.write_bytes(make_certificate("Old", key, "Old", key, days=-1).public_bytes(Encoding.PEM))
    own_key, other_key, locked, weak = (tmp_path / f"{name}.pem" for name in ("own", "other", "locked", "weak"))
    own_key.write_bytes(key_pem(key))
    other_key.write_bytes(key_pem(other))
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    small = rsa.generate_private_key(65537, 1024)
    weak.write_bytes(key_pem(small))
    weak_cert = tmp_path / "weak_cert.pem"
    weak_cert.write_bytes(make_certificate("Weak", small, "Weak", small).public_bytes(Encoding.PEM))
    for cert, secret, reason in (
        (signer.cert, None, "without its key"),
        (None, signer.key, "without its certificate"),
        (tmp_path / "none.pem", signer.key, "can't be read"),
        (signer.key, signer.key, "holds no certificate"),
        (signer.cert, signer.cert, "holds no private key"),
        (signer.cert, other_key, "isn't that of"),
        (signer.cert, locked, "pass phrase"),
        (expired, own_key, "and not today"),
        (weak_cert, weak, "doesn't allow"),
    ):
        with pytest.raises(UserError, match=reason) as refused:
            given_identity(cert, secret)
        assert "\n" not in str(refused.value)


def test_a_certificate_of_an_authority_is_refused_before_any_work(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    cert, secret = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(make_certificate("CA", key, "CA", key, authority=True).public_bytes(Encoding.PEM))
    secret.write_bytes(key_pem(key))
    with pytest.raises(UserError, match="end-entity"):
        Credentials(given_identity(cert, secret))
