"""Certificates, identities, tokens, wrapped secrets."""

import pytest
import trio
from networld import AUTHORITY, HOST, NOW_S, World, identity, running, statfs, until

from cfs.core.errors import CfsError, Corrupt, Malformed, NotFound, Refused
from cfs.net.certificates import (
    LEAF_VALID_S,
    SKEW_S,
    Authority,
    fingerprint,
    make_request,
    new_key,
    subject_of,
)
from cfs.net.identity import Identity
from cfs.net.system import SystemEntropy
from cfs.net.tls import TlsTransport
from cfs.net.token import decode_token, issue_token
from cfs.net.wrapping import unwrap, wrap

ENTROPY = SystemEntropy()
ADDRESSES = (("10.0.0.1", 7000), ("meta-2.example", 7001))


def test_a_certificate_says_who_and_until_when():
    subject = identity("storage", "rack 1/näs").subject
    assert subject.cluster_id == AUTHORITY.cluster_id
    assert (subject.role, subject.name) == ("storage", "rack 1/näs")
    assert 0 < subject.serial < 1 << 62
    assert subject.not_before_s == NOW_S - SKEW_S
    assert subject.not_after_s == NOW_S + LEAF_VALID_S


def test_renewal_is_due_at_half_life():
    own = identity("client", "c", valid_s=1000)
    half = NOW_S + (1000 - SKEW_S) // 2
    assert not own.needs_renewal(half - 1)
    assert own.needs_renewal(half)


def test_serials_differ():
    assert len({identity("client", "c").subject.serial for _ in range(10)}) == 10


@pytest.mark.parametrize(("role", "name"), [("client", ""), ("a/b", "n"), ("client", "n" * 256)])
def test_bad_names_are_refused(role, name):
    with pytest.raises(Malformed):
        AUTHORITY.issue(make_request(new_key()), role=role, name=name, now_s=NOW_S)


def test_a_request_must_prove_its_key():
    request = bytearray(make_request(new_key()))
    request[-5] ^= 1
    with pytest.raises(Malformed):
        AUTHORITY.issue(bytes(request), role="client", name="c", now_s=NOW_S)
    with pytest.raises(Malformed):
        AUTHORITY.issue(b"junk", role="client", name="c", now_s=NOW_S)


def test_an_authority_is_made_again_from_its_parts():
    again = Authority(key=AUTHORITY.key, certificate=AUTHORITY.certificate)
    assert again.cluster_id == AUTHORITY.cluster_id
    assert again.bundle == AUTHORITY.bundle
    assert len(fingerprint(again.certificate)) == 32


def test_what_is_no_member_certificate_is_refused():
    for bytes_ in (b"junk", b"-----BEGIN CERTIFICATE-----\n"):
        with pytest.raises(Refused):
            subject_of(bytes_)


def test_rotation_keeps_everyone_talking():
    rotated = AUTHORITY.rotated(now_s=NOW_S)
    retired = rotated.retired()
    old = identity("client", "old")
    new = identity("client", "new", rotated)
    newest = identity("client", "newest", retired)
    assert rotated.bundle.count(b"BEGIN") == 2
    assert retired.bundle.count(b"BEGIN") == 1

    async def works(server_identity, client_identity):
        def make(role, _name):
            return TlsTransport(server_identity if role == "meta" else client_identity)

        async with running(make, World()) as (_server, pool):
            try:
                await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
            except CfsError:
                return False
        return True

    async def main():
        old_server = identity("meta", "m")
        between = old_server._replace(ca_bundle=rotated.bundle)
        new_server = identity("meta", "m", rotated)
        trusting = old._replace(ca_bundle=rotated.bundle)
        assert await works(old_server, old)
        assert await works(between, old)
        assert await works(between, new)
        assert await works(new_server, trusting)
        assert await works(new_server, new)
        assert await works(identity("meta", "m", retired), newest)
        assert not await works(old_server, new)
        assert not await works(identity("meta", "m", retired), trusting)

    trio.run(main)


def test_a_renewed_identity_is_used_without_restart():
    transports = {}

    def make(role, name):
        transports[role] = TlsTransport(identity(role, name))
        return transports[role]

    async def main():
        async with running(make, World()) as (server, pool):
            await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
            (before,) = (peer.serial for peer in server.peers)
            transports["client"].reload(identity("client", "c1"))
            transports["meta"].reload(identity("meta", "m1"))
            await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
            assert {peer.serial for peer in server.peers} == {before}
            pool.disconnect(1, "to see the new one")
            await until(lambda: not server.peers)
            await pool.call(1, "meta.statfs", statfs(), timeout_s=5)
            (after,) = (peer.serial for peer in server.peers)
            assert after == transports["client"].identity.subject.serial != before

    trio.run(main)


def test_an_identity_survives_its_directory(tmp_path):
    own = identity("client", "c")
    directory = tmp_path / "deep" / "pki"
    own.save(directory)
    assert Identity.load(directory) == own
    for name in ("identity.pem", "ca.pem"):
        assert (directory / name).stat().st_mode & 0o777 == 0o600
    renewed = identity("client", "c")
    renewed.save(directory)
    assert Identity.load(directory) == renewed
    assert sorted(p.name for p in directory.iterdir()) == ["ca.pem", "identity.pem"]


def test_an_unsafe_or_missing_identity_is_named(tmp_path):
    with pytest.raises(NotFound, match="identity"):
        Identity.load(tmp_path)
    identity("client", "c").save(tmp_path)
    (tmp_path / "identity.pem").chmod(0o640)
    with pytest.raises(Refused, match="chmod 600"):
        Identity.load(tmp_path)
    (tmp_path / "identity.pem").chmod(0o600)
    (tmp_path / "identity.pem").write_text("")
    with pytest.raises(Refused):
        Identity.load(tmp_path)


def token(**options):
    options = {"role": "storage", "addresses": ADDRESSES, "now_s": NOW_S, **options}
    return issue_token(AUTHORITY, entropy=ENTROPY, **options)


def test_a_token_says_where_and_as_what_to_join():
    made = token(valid_s=3600)
    text = made.encode()
    read = decode_token(f"  {text[:50]}\n{text[50:]}\n")
    assert read == made
    assert read.addresses == ADDRESSES
    assert read.role == "storage"
    assert read.identity.subject.role == "enrol"
    assert read.identity.subject.name == read.token_id.hex()
    assert read.expires_s == NOW_S + 3600


def test_a_token_speaks_tls_and_may_ask_nothing_else():
    enrol = decode_token(token().encode()).identity

    def make(role, name):
        return TlsTransport(enrol if role == "client" else identity(role, name))

    async def main():
        async with running(make, World()) as (server, pool):
            with pytest.raises(Refused, match="role enrol may not call"):
                await pool.call_address(HOST, server.port, "meta.statfs", statfs(), timeout_s=5)

    trio.run(main)


def test_damaged_tokens_are_told():
    text = token().encode()
    for damaged in ("", "cfs1.", "hello", text[:-8], text[5:], text[:300] + "A" + text[301:]):
        if damaged != text:
            with pytest.raises(Malformed):
                decode_token(damaged)


def test_secrets_open_with_their_key_and_purpose_only():
    key, secret = bytes(range(32)), b"volume key"
    wrapped = wrap(key, secret, purpose="volume-key/1", entropy=ENTROPY)
    assert secret not in wrapped
    assert wrapped != wrap(key, secret, purpose="volume-key/1", entropy=ENTROPY)
    assert unwrap(key, wrapped, purpose="volume-key/1") == secret
    with pytest.raises(Corrupt):
        unwrap(key, wrapped, purpose="volume-key/2")
    with pytest.raises(Corrupt):
        unwrap(bytes(32), wrapped, purpose="volume-key/1")
    for at in range(len(wrapped)):
        damaged = bytearray(wrapped)
        damaged[at] ^= 1
        with pytest.raises(Corrupt):
            unwrap(key, bytes(damaged), purpose="volume-key/1")
    with pytest.raises(Corrupt):
        unwrap(key, wrapped[:20], purpose="volume-key/1")


def test_wrapped_golden_bytes():
    class Fixed:
        def random_bytes(self, count):
            return bytes(count)

    wrapped = wrap(bytes(32), b"secret", purpose="p", entropy=Fixed())
    assert wrapped.hex() == GOLDEN_WRAPPED


GOLDEN_WRAPPED = "01000000000000000000000000be8f382aa32381282a02b24b888b6d5ebdc2234f2814"
