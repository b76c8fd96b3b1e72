"""What nobody should send, and what operators get wrong: refused by name, and nothing is lost."""

import contextlib
import random
import shutil
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from crc32c import crc32c

from cfs.core.api.methods import BY_NAME
from cfs.net import hello
from cfs.net.certificates import Authority, make_request, new_key
from cfs.net.frame import Kind, encode
from cfs.net.identity import Identity
from cfs.net.token import decode_token
from tests.system.cluster import cfs, until
from tests.system.nodes import remount, runs, stop

HELLO = bytes(encode(Kind.HELLO, hello.OURS))
RANDOM = random.Random(7)
CONTENT = {f"file-{number}": RANDOM.randbytes(100_000 * number + 10) for number in range(5)}
GOODBYE_S = 15


@pytest.fixture(scope="module", autouse=True)
def written(cluster):
    """Files that everything below must leave alone."""
    for name, content in CONTENT.items():
        (cluster.mount / name).write_bytes(content)
    yield
    remount(cluster)
    for name, content in CONTENT.items():
        assert (cluster.mount / name).read_bytes() == content


# --- peers


def identity_of(cluster, name):
    return Identity.load(cluster.state / name / "identity")


def address_of(cluster, name):
    node = next(n for n in cluster.status()["nodes"] if n["name"] == name)
    host, port = node["address"].split(":")
    return host, int(port)


def counters_of(cluster, name):
    node = next(n for n in cluster.status()["nodes"] if n["name"] == name)
    return node["heartbeat"]["counters"]


def frame(method, kind=Kind.REQUEST, message=(), **fields):
    number = BY_NAME[method].number if isinstance(method, str) else method
    return bytes(encode(kind, message, method=number, request=1, **fields))


def oversized():
    made = bytearray(frame("store.get"))
    made[20:24] = (1 << 31).to_bytes(4, "big")
    made[36:40] = crc32c(bytes(made[:36])).to_bytes(4, "big")
    return bytes(made)


def is_closed_on(address, context, data):
    """Send bytes over TLS as somebody; tell whether the other side closes the connection."""
    try:
        with (
            socket.create_connection(address, timeout=GOODBYE_S) as plain,
            context.wrap_socket(plain) as secured,
        ):
            secured.sendall(data)
            while secured.recv(1 << 16):
                pass
            return True
    except TimeoutError:
        return False
    except OSError:
        return True


SENT = [  # as a client: what, what it is counted as
    (RANDOM.randbytes(600), "connection_magic"),
    (HELLO + RANDOM.randbytes(600), "connection_magic"),
    (b"CFS\x02" + bytes(60), "connection_version"),
    (HELLO + oversized(), "connection_oversized"),
    (HELLO + frame(60_000), "connection_method"),
    (HELLO + frame("raft.messages"), "connection_role"),
    (HELLO + frame("root.admin"), "connection_role"),
    (HELLO + HELLO, "connection_hello"),
    (frame("store.get"), "connection_hello"),
    (HELLO + frame("store.get", message="no request"), "connection_undecodable"),
]


@pytest.mark.parametrize("name", ["meta1", "storage1"])
def test_what_no_peer_sends_ends_its_connection_and_is_counted(cluster, name):
    address, pid = address_of(cluster, name), cluster.pid(name)
    context = identity_of(cluster, "client").context(server=False)
    before = counters_of(cluster, name)
    wanted = {}
    for data, counter in SENT:
        assert is_closed_on(address, context, data), counter
        wanted[counter] = wanted.get(counter, 0) + 1
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=5) as plain:
        secured = context.wrap_socket(plain)
        secured.sendall(HELLO + frame("store.get")[:20])
        secured.unwrap().close()
    wanted["connection_truncated"] = 1
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=5) as plain:
        plain.sendall(RANDOM.randbytes(300))  # not even TLS
        plain.recv(100)
    wanted["handshake_failed"] = 1
    expect_counts(cluster, name, before, wanted)
    assert cluster.pid(name) == pid
    assert runs(cluster, name)


def test_peers_without_a_right_certificate_are_refused_and_counted(cluster, tmp_path):
    good = identity_of(cluster, "client")
    admin = cluster.state / "admin"
    expired = decode_token(token_for(admin, "client", "--valid-hours", "0.0003"))
    stranger = Authority.create(good.subject.cluster_id, now_s=int(time.time()))
    key = new_key()
    certificate = stranger.issue(make_request(key), role="admin", name="x", now_s=int(time.time()))
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname = False
    nobody.load_verify_locations(cadata=good.ca_bundle.decode())
    home = tmp_path / "gone"
    cfs("node", "join", "--token", token_for(admin, "client"), "--dir", home, "--name", "gone")
    gone = Identity.load(home / "identity").context(server=False)
    assert " gone " in cfs("node", "list", "--dir", admin).stdout
    cfs("node", "revoke", "--dir", admin, "--name", "gone")
    assert " gone " not in cfs("node", "list", "--dir", admin).stdout
    until(lambda: time.time() > expired.expires_s, seconds=10, what="the certificate expires")
    strangers = (
        nobody,
        expired.identity.context(server=False),
        Identity(key, certificate, good.ca_bundle).context(server=False),
    )
    for name, method in (("meta1", "meta.getattr"), ("storage1", "store.get")):
        address, before = address_of(cluster, name), counters_of(cluster, name)

        def grown(*kinds, name=name, before=before):
            now = counters_of(cluster, name)
            return sum(now.get(k, 0) - before.get(k, 0) for k in kinds)

        for context in strangers:
            assert is_closed_on(address, context, HELLO + frame(method))
        until(lambda grown=grown: grown("handshake_refused", "handshake_failed") >= len(strangers),
              seconds=20, what="refused handshakes are counted")  # fmt: skip
        # a node hears of the revocation with the next frames of anybody who knows
        until(
            lambda address=address, method=method, grown=grown: is_closed_on(
                address, gone, HELLO + frame(method)
            )
            and grown("connection_revoked"),
            seconds=20, what="the revoked certificate is refused",
        )  # fmt: skip


def expect_counts(cluster, name, before, wanted):
    seen = {}

    def counted():
        now = counters_of(cluster, name)
        seen["missing"] = {
            kind: count - (now.get(kind, 0) - before.get(kind, 0)) for kind, count in wanted.items()
            if now.get(kind, 0) - before.get(kind, 0) < count
        }  # fmt: skip
        return not seen["missing"]

    until(counted, seconds=20, what=lambda: f"all is counted; missing: {seen['missing']}")


# --- operators


def token_for(admin, role, *options):
    return cfs("node", "token", "--dir", admin, "--role", role, *options).stdout.strip()


def assert_refused(*arguments, code, says):
    """The command fails with one clear line."""
    done = cfs(*arguments, check=False, timeout=90)
    assert "Traceback" not in done.stdout + done.stderr
    lines = [ln for ln in done.stderr.strip().splitlines() if not ln.startswith("timestamp=")]
    assert done.returncode == code, done
    assert len(lines) == 1, lines
    assert lines[0].startswith("cfs: "), lines
    assert says in lines[0]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("[storage]\ndisk = ['x']\n", "did you mean 'disks'"),
        ("[storge]\n", "did you mean 'storage'"),
        ("[storage]\nreserve_bytes = 'much'\n", "storage.reserve_bytes must be int"),
        ("[storage\n", "is not TOML"),
    ],
)
def test_wrong_configuration_is_refused_by_name(cluster, tmp_path, line, says):
    source = cluster.state / "storage1"
    (tmp_path / "cfs.toml").write_text(line)
    for part in ("identity", "map"):
        (tmp_path / part).symlink_to(source / part)
    assert_refused("serve", "storage", "--dir", tmp_path, code=2, says=says)


def test_a_directory_without_node_or_configuration_is_refused(cluster, tmp_path):
    absent = tmp_path / "absent"
    for words in (("serve", "meta"), ("serve", "storage"), ("status",), ("node", "list")):
        assert_refused(*words, "--dir", absent, code=2 if words[0] != "serve" else 1,
                       says=str(absent))  # fmt: skip
    assert_refused("serve", "meta", "--dir", cluster.state / "storage1", code=1,
                   says="belongs to a storage node")  # fmt: skip
    assert_refused("mount", "--dir", absent, tmp_path, code=2, says=str(absent))


def test_a_second_process_on_a_node_directory_is_refused(cluster):
    for role in ("meta", "storage"):
        directory = cluster.state / f"{role}1"
        assert_refused("serve", role, "--dir", directory, code=3, says="is in use by process")
        assert runs(cluster, f"{role}1")


def test_a_port_in_use_is_refused(cluster):
    for name, role in (("storage2", "storage"), ("meta2", "meta")):
        host, port = address_of(cluster, name)
        stop(cluster, name)
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind((host, port))
            taken.listen()
            assert_refused("serve", role, "--dir", cluster.state / name, code=3, says=str(port))
    cluster.up()


def test_mount_points_that_will_not_do_are_refused(cluster, tmp_path):
    client = cluster.state / "client"
    (tmp_path / "file").write_text("mine")
    assert_refused("mount", "--dir", client, cluster.mount, code=1, says="is a mount point already")
    assert_refused("mount", "--dir", client, tmp_path / "none", code=1, says="is not a directory")
    assert_refused("mount", "--dir", client, tmp_path / "file", code=1, says="is not a directory")
    assert_refused("mount", "--dir", client, tmp_path, code=1, says="is not empty")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert_refused("mount", "--dir", client, empty, code=3, says="is in use by process")
    assert_refused("umount", empty, code=1, says="is not mounted")
    assert (tmp_path / "file").read_text() == "mine"
    assert (cluster.mount / "file-1").read_bytes() == CONTENT["file-1"]


def test_used_expired_and_garbled_tokens_are_refused(cluster, tmp_path):
    admin = cluster.state / "admin"
    numbers = iter(range(100))

    def refused(token, says, *options):
        directory = tmp_path / f"node-{next(numbers)}"
        assert_refused("node", "join", "--token", token, "--dir", directory, "--name",
                       directory.name, *options, code=1, says=says)  # fmt: skip

    used = token_for(admin, "client")
    cfs("node", "join", "--token", used, "--dir", tmp_path / "first", "--name", "first")
    refused(used, "used")
    again = ("node", "join", "--token", used, "--dir", tmp_path / "first", "--name", "other")
    assert_refused(*again, code=1, says="holds a node already")
    expired = token_for(admin, "client", "--valid-hours", "0.0003")
    until(lambda: time.time() > decode_token(expired).expires_s, seconds=10, what="it expires")
    refused(expired, "expired")
    fresh = token_for(admin, "client")
    refused(fresh[:-9], "damaged")
    refused(fresh[:40] + ("A" if fresh[40] != "A" else "B") + fresh[41:], "damaged")
    refused("nonsense", "no token")
    refused(fresh, "for the role client", "--role", "storage")
    assert_refused("node", "token", "--dir", admin, "--role", "king", code=1, says="king")
    assert_refused("node", "token", "--dir", cluster.state / "client", "--role", "admin", code=1,
                   says="may not")  # fmt: skip


def test_a_disk_of_another_cluster_is_refused(cluster, tmp_path):
    port = free_port()
    other = tmp_path / "other"
    cfs("cluster", "init", "--dir", other, "--host", "127.0.0.1", "--port", port, "--admin",
        tmp_path / "admin", "--name", "other")  # fmt: skip
    words = [sys.executable, "-m", "cfs.cli.main", "serve", "meta", "--dir", str(other)]
    with Path(tmp_path / "output").open("w") as output:
        meta = subprocess.Popen(words, stdout=output, stderr=output)
    try:
        until(lambda: cfs("status", "--dir", tmp_path / "admin", check=False).returncode == 0,
              seconds=60, what="the other cluster answers")  # fmt: skip
        disk = cluster.state / "storage3" / "disk"
        node = tmp_path / "node"
        token = token_for(tmp_path / "admin", "storage")
        address = ("--host", "127.0.0.1", "--port", free_port())
        cfs("node", "join", "--token", token, "--dir", node, "--name", "thief", *address,
            "--disk", disk)  # fmt: skip
        assert_refused("serve", "storage", "--dir", node, code=1, says=str(disk))
        stop(cluster, "storage3")
        assert_refused("serve", "storage", "--dir", node, code=1, says="belongs to node")
    finally:
        meta.kill()
        meta.wait(20)
    cluster.up()


def test_the_authority_is_replaced_while_files_are_used(cluster, tmp_path):
    old = cluster.state / "client" / "identity"
    shutil.copytree(old, tmp_path / "old")
    before = (old / "ca.pem").read_bytes()
    cfs("cluster", "rotate-ca", "--dir", cluster.state / "admin", timeout=240)
    (cluster.mount / "after").write_bytes(b"written with a new certificate")
    until(lambda: (old / "ca.pem").read_bytes() != before, seconds=30, what="the client renews")
    assert cluster.status()["health"] == "ok"
    for name in ("meta1", "storage1"):  # who did not renew is a stranger by now
        address, counted = address_of(cluster, name), counters_of(cluster, name)
        context = Identity.load(tmp_path / "old").context(server=False)
        context.verify_mode = ssl.CERT_NONE  # it does not know the server, either
        assert is_closed_on(address, context, HELLO + frame("root.map"))
        until(
            lambda name=name, counted=counted: counters_of(cluster, name)["handshake_refused"]
            > counted.get("handshake_refused", 0),
            seconds=20, what="the old certificate is refused",
        )  # fmt: skip
    (cluster.mount / "after").unlink()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
