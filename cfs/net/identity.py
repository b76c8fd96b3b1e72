"""An identity: private key, certificate and trusted authorities, in memory and in a directory.

On disk: `identity.pem` (key, then certificate) and `ca.pem` (the bundle), both 0600. Each is
replaced whole: written beside, synced, renamed; the bundle first, so that a crash between the two
leaves an identity that its bundle still covers.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import NamedTuple

from cfs.core.errors import NotFound, Refused
from cfs.net.certificates import Subject, subject_of

_IDENTITY = "identity.pem"
_BUNDLE = "ca.pem"
_BEGIN = b"-----BEGIN CERTIFICATE-----"


class Identity(NamedTuple):
    """All PEM."""

    key: bytes
    certificate: bytes
    ca_bundle: bytes

    @property
    def subject(self) -> Subject:
        """Who this is."""
        return subject_of(self.certificate)

    def needs_renewal(self, now_s: float) -> bool:
        """Tell whether half of the certificate's life is over."""
        return now_s >= self.subject.renew_at_s

    def save(self, directory: Path) -> None:
        """Write both files; durable on return."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(directory / _BUNDLE, self.ca_bundle)
        _replace(directory / _IDENTITY, self.key + self.certificate)
        _sync_directory(directory)

    @classmethod
    def load(cls, directory: Path) -> Identity:
        """Read both files. Raises NotFound naming what is missing, Refused on unsafe modes."""
        try:
            mode = (directory / _IDENTITY).stat().st_mode
            if mode & 0o077:
                raise Refused(f"{directory / _IDENTITY} is open to others: chmod 600 it")
            both = (directory / _IDENTITY).read_bytes()
            bundle = (directory / _BUNDLE).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"{error.filename} is not there: enrol first") from None
        at = both.find(_BEGIN)
        if at <= 0:
            raise Refused(f"{directory / _IDENTITY} holds no key and certificate")
        return cls(both[:at], both[at:], bundle)

    def context(self, *, server: bool) -> ssl.SSLContext:
        """Give a TLS 1.3 context that shows this identity and demands the peer's."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the name rule is the URI in the certificate
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self.ca_bundle.decode("ascii"))
        if server:
            context.num_tickets = 0  # connections are long: tickets would cost and never be used
        memory = os.memfd_create("identity", os.MFD_CLOEXEC)
        try:  # ssl reads keys from files only; this one has no name on any disk
            os.write(memory, self.key + self.certificate)
            context.load_cert_chain(f"/proc/self/fd/{memory}")
        finally:
            os.close(memory)
        return context


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(path)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
