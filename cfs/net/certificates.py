"""Certificates: who a process is, as its cluster's own authority signed it.

A leaf certificate carries one URI, `cfs://<cluster id, hex>/<role>/<name>`, in its subject
alternative name; nothing else in it is trusted. Nodes (meta, storage) may serve and call, all other
roles may only call: their extended key usage says so, and TLS enforces it. Keys are ECDSA P-256:
a mutual TLS 1.3 handshake takes 0.62 ms of CPU on each side, and as much with Ed25519 (one run, one
core). Serial numbers are 62 random bits, so that they fit every message.

Rotation: a bundle holds the old and the new authority, the new one issues, and once every leaf was
renewed the old one leaves the bundle. A leaf is renewed at half of its life.
"""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cfs.core.errors import Malformed, Refused

LEAF_VALID_S = 30 * 86_400
AUTHORITY_VALID_S = 10 * 365 * 86_400
SKEW_S = 300
"""A certificate is valid from so long before it was issued: clocks differ."""
NAME_BYTES_MAX = 255
_SERVING = frozenset({"meta", "storage"})
_SERIAL_BITS = 62


class Subject(NamedTuple):
    """Who a certificate speaks for."""

    cluster_id: bytes
    role: str
    name: str
    serial: int
    not_before_s: int
    not_after_s: int

    @property
    def renew_at_s(self) -> int:
        """Wall time, in seconds, from which the certificate should be renewed: half its life."""
        return (self.not_before_s + self.not_after_s) // 2


def subject_of(certificate: bytes) -> Subject:
    """Read the subject of a certificate, DER or PEM. Raises Refused when it is not a cluster's."""
    try:
        if certificate.startswith(b"-----"):
            parsed = x509.load_pem_x509_certificate(certificate)
        else:
            parsed = x509.load_der_x509_certificate(certificate)
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        parts = urlsplit(uri)
        role, name = parts.path[1:].split("/")
        cluster_id = bytes.fromhex(parts.netloc)
    except (ValueError, x509.ExtensionNotFound) as error:
        raise Refused(f"the certificate names no member of a cluster: {error}") from None
    if parts.scheme != "cfs" or not role or not name:
        raise Refused(f"the certificate names no member of a cluster: {uri}")
    return Subject(
        cluster_id,
        role,
        unquote(name),
        parsed.serial_number,
        int(parsed.not_valid_before_utc.timestamp()),
        int(parsed.not_valid_after_utc.timestamp()),
    )


def new_key() -> bytes:
    """Make a private key; PEM, not encrypted."""
    return _pem_of(ec.generate_private_key(ec.SECP256R1()))


def make_request(key: bytes) -> bytes:
    """Make a signing request (DER) that proves possession of `key` (PEM)."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(_load_key(key), hashes.SHA256()).public_bytes(serialization.Encoding.DER)


class Authority:
    """The cluster's certificate authority: its key, its certificate, and what it trusts beside."""

    def __init__(self, *, key: bytes, certificate: bytes, others: bytes = b"") -> None:
        self.key = key
        self.certificate = certificate
        self.others = others
        self._key = _load_key(key)
        self._certificate = x509.load_pem_x509_certificate(certificate)
        self.cluster_id = _cluster_of(self._certificate)

    @property
    def bundle(self) -> bytes:
        """Give the certificates that members trust, PEM: this authority's first."""
        return self.certificate + self.others

    @classmethod
    def create(
        cls, cluster_id: bytes, *, now_s: int, valid_s: int = AUTHORITY_VALID_S
    ) -> Authority:
        """Make a new authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([
            x509.NameAttribute(NameOID.COMMON_NAME, f"CFS {cluster_id.hex()}"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{_new_serial():x}"),
        ])  # fmt: skip
        public = key.public_key()
        certificate = (
            x509.CertificateBuilder(name, name, public, _new_serial())
            .not_valid_before(_time(now_s - SKEW_S))
            .not_valid_after(_time(now_s + valid_s))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(_uri(f"cfs://{cluster_id.hex()}/authority/ca"), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(key=_pem_of(key), certificate=_pem(certificate))

    def rotated(self, *, now_s: int, valid_s: int = AUTHORITY_VALID_S) -> Authority:
        """Give a new authority that trusts this one too, until `retired`."""
        fresh = Authority.create(self.cluster_id, now_s=now_s, valid_s=valid_s)
        return Authority(key=fresh.key, certificate=fresh.certificate, others=self.certificate)

    def retired(self) -> Authority:
        """Give this authority without the ones before it."""
        return Authority(key=self.key, certificate=self.certificate)

    def issue(
        self, request: bytes, *, role: str, name: str, now_s: int, valid_s: int = LEAF_VALID_S
    ) -> bytes:
        """Sign a request (DER) for a role and name; gives PEM.

        Raises Malformed when the request does not prove possession of its key, or the name is bad.
        """
        if not name or len(name.encode()) > NAME_BYTES_MAX or not role.isalpha():
            raise Malformed(f"{role!r} {name!r} cannot be the role and name of a member")
        public = _public_of(request)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if role in _SERVING:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        uri = f"cfs://{self.cluster_id.hex()}/{role}/{quote(name, safe='')}"
        issuer = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        builder = (
            x509.CertificateBuilder(self._certificate.subject, x509.Name([]), public, _new_serial())
            .not_valid_before(_time(now_s - SKEW_S))
            .not_valid_after(_time(now_s + valid_s))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer.value),
                critical=False,
            )
            .add_extension(_uri(uri), critical=True)
        )
        return _pem(builder.sign(self._key, hashes.SHA256()))


def fingerprint(certificate: bytes) -> bytes:
    """Give the SHA-256 of a PEM certificate's DER."""
    return x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256())


def _public_of(request: bytes) -> ec.EllipticCurvePublicKey:
    try:
        parsed = x509.load_der_x509_csr(request)
        public = parsed.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise Malformed("the signing request's key is not ECDSA P-256")
        if not isinstance(public.curve, ec.SECP256R1) or not parsed.is_signature_valid:
            raise Malformed("the signing request is not signed by its P-256 key")
    except (ValueError, InvalidSignature) as error:
        raise Malformed(f"the signing request cannot be read: {error}") from None
    return public


def _cluster_of(certificate: x509.Certificate) -> bytes:
    return subject_of(_pem(certificate)).cluster_id


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Malformed("the key is not ECDSA P-256")
    return key


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _uri(uri: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=authority,
        crl_sign=authority, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _new_serial() -> int:
    return (x509.random_serial_number() & ((1 << _SERIAL_BITS) - 1)) | 1


def _time(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
