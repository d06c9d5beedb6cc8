"""A front's own certificate: nobody signs it, as the fronts' rows in the database say which one is right."""

from __future__ import annotations

import datetime
import hashlib
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from batch.durable_folder import make_durable_folder, put_on_disk
from batch.errors import DiskFull, SettingsProblem

_FILE = "worker_port.pem"
_YEARS = 100
"""Nobody looks at it: another certificate is another row."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, in one file that only this user reads."""

    file: Path
    sha256: str
    """Of the certificate as it stands in the handshake, in hex."""

    def server_context(self) -> ssl.SSLContext:
        """What a front listens with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.file)
        return context


def client_context() -> ssl.SSLContext:
    """What a worker dials with: it compares the certificate's sha256 with the front's row, before it sends anything."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def sha256_of(certificate: bytes | None) -> str:
    """The fingerprint of a certificate in DER."""
    return hashlib.sha256(certificate or b"").hexdigest()


def own_certificate(state_dir: Path) -> Certificate:
    """The home's certificate, made where there is none yet or where its file is damaged. Raises DiskFull, and SettingsProblem
    where the package for it is not installed."""
    path = state_dir / _FILE
    try:
        if (certificate := _read(path)) is not None:
            return certificate
        make_durable_folder(state_dir, 0o700)
        partial = path.with_name(f".{_FILE}.{os.getpid()}")
        partial.unlink(missing_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(_make())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        put_on_disk(state_dir)
    except OSError as error:
        raise DiskFull(f"{path} cannot be written ({error.strerror}): look after its disk.") from error
    if (certificate := _read(path)) is None:
        raise DiskFull(f"{path} cannot be read back: look after its disk.")
    return certificate


def _read(path: Path) -> Certificate | None:
    try:
        text = path.read_text("ascii", "replace")
    except FileNotFoundError:
        return None
    os.chmod(path, 0o600)
    start = text.find("-----BEGIN CERTIFICATE-----")
    try:
        sha256 = sha256_of(ssl.PEM_cert_to_DER_cert(text[start:])) if start >= 0 else ""
        certificate = Certificate(path, sha256)
        certificate.server_context()
    except (ValueError, ssl.SSLError):
        return None
    return certificate


def _make() -> bytes:
    """A new key and the certificate that it signs itself, in PEM. The name in it says nothing of the machine."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ModuleNotFoundError:
        raise SettingsProblem(
            'The package for certificates is not installed: run `pip install "batch-engine[postgres]"`, or leave out the '
            "setting front.listen, and words go through the database."
        ) from None
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "batch worker port")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * _YEARS))
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return secret + certificate.public_bytes(serialization.Encoding.PEM)
