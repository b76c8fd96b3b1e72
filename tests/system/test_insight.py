"""What an operator is told: where a file is, what happened, and a bundle that holds no secret."""

import base64
import json
import re
import signal
import tarfile

from tests.system.cluster import LENIENT, cfs, until


def admin(cluster):
    """The administrator's directory."""
    return cluster.state / "admin"


def explain(cluster, path):
    """What `cfs explain` says of a path."""
    return json.loads(cfs("explain", path, "--json", "--dir", admin(cluster)).stdout)


def events(cluster):
    """What happened so far."""
    said = cfs("admin", "events", "-n", "1000", "--json", "--dir", admin(cluster)).stdout
    return [json.loads(line) for line in said.splitlines()]


def test_a_file_is_explained(cluster):
    path = cluster.mount / "explained"
    path.write_bytes(b"".join(b"%12d" % n for n in range(100_000)))
    told = until(
        lambda: found if (found := explain(cluster, path))["segments"] else None,
        seconds=20 * LENIENT,
        what="it is stored",
    )
    assert told["size"] == 1_200_000
    assert told["survives"] == 1
    assert sum(row["bytes"] for row in told["segments"]) == told["bytes"]["chunk"]
    with path.open("r+b") as file:
        file.write(b"dirty")
        file.flush()
        holds = explain(cluster, "/explained")["holders"]
        assert any(h["name"] == "client" and "open" in h["holds"] for h in holds)
    cluster.kill("storage2", signal.SIGSTOP)
    try:
        told = explain(cluster, path)
        assert told["slow"]["storage2"] is None
        assert told["survives"] == 0
        shown = cfs("explain", path, "--dir", admin(cluster)).stdout
        assert "storage2 does not answer" in shown
        assert "missing" in shown

        def is_down():
            return any("storage2: in -> down" in e["text"] for e in events(cluster))

        until(is_down, seconds=20 * LENIENT, what="the event log tells of the node")
    finally:
        cluster.kill("storage2", signal.SIGCONT)


def test_events_are_numbered_and_tell_of_what_was_done(cluster):
    cfs("node", "token", "--dir", admin(cluster), "--role", "client")
    found = events(cluster)
    numbers = [e["number"] for e in found]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    kinds = {e["kind"] for e in found}
    assert {"cluster", "leader", "join", "node", "config"} <= kinds


def test_no_secret_is_in_a_debug_bundle(cluster, tmp_path):
    token = cfs("node", "token", "--dir", admin(cluster), "--role", "client").stdout.strip()
    log = cluster.state / "meta1" / "log" / "node.log"
    with log.open("a") as file:
        file.write(f"event=somebody_was_careless token={token}\n")
    out = tmp_path / "bundle.tar.gz"
    cfs("debug", "bundle", "--dir", admin(cluster), "--out", out)
    secrets = secrets_of(cluster) | {token.encode(), token.encode()[:60]}
    assert len(secrets) > 20
    names = set()
    with tarfile.open(out) as tar:
        for member in tar:
            names.add(member.name)
            data = tar.extractfile(member).read()
            assert not [s for s in secrets if s in data], member.name
    for needed in ("status.json", "map.json", "events.json", "meta1/log/node.log"):
        assert f"cfs-debug/{needed}" in names


def secrets_of(cluster):
    """Every key that lies below the state directory, as bytes and as people write them."""
    found = set()
    for path in cluster.state.rglob("*"):
        if path.suffix not in (".pem", ".key") or not path.is_file():
            continue
        data = path.read_bytes()
        for body in re.findall(
            rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\n(.*?)-----END", data, re.DOTALL
        ):
            found |= {line for line in body.splitlines() if len(line) > 20}
        if path.suffix == ".key":
            found |= {data, data.hex().encode(), base64.b64encode(data)}
    return found


def test_top_shows_who_asks_for_what(cluster):
    folder = cluster.mount / "busy"
    folder.mkdir(exist_ok=True)

    def seen():
        for number in range(50):
            (folder / f"f{number}").write_bytes(b"x" * 100_000)
            (folder / f"f{number}").unlink()
        told = json.loads(cfs("admin", "top", "--json", "--dir", admin(cluster)).stdout)
        clients = {row["key"]: row for row in told["client"]}
        methods = {row["key"] for row in told["method"]}
        return "client" in clients and clients["client"]["ops"] > 0 and "raft.messages" in methods

    until(seen, seconds=20 * LENIENT, what="the mount shows among the clients")
