"""A Redis as a fleet should have it: reached over TLS, with a certificate of its own authority."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fixtures_redis import RedisServer


@dataclass(frozen=True)
class TlsRedis:
    """A server with a plain port for the test itself and a TLS port for everyone else."""

    server: RedisServer
    port: int
    authority: Path

    def url(self, user: str, password: str, authority: Path | None = None) -> str:
        trust = f"ssl_cert_reqs=required&ssl_ca_certs={authority or self.authority}"
        return f"rediss://{user}:{password}@127.0.0.1:{self.port}/1?{trust}"


def make_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Files of an authority and of a certificate for 127.0.0.1 with its key."""
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    root = (
        _unsigned(root_name, root_name, root_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    hosts = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    leaf = _unsigned(name, root_name, key).add_extension(hosts, critical=False)
    paths = folder / "authority.pem", folder / "redis.pem", folder / "redis.key"
    pem = serialization.Encoding.PEM
    paths[0].write_bytes(root.public_bytes(pem))
    paths[1].write_bytes(leaf.sign(root_key, hashes.SHA256()).public_bytes(pem))
    paths[2].write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


def _unsigned(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
