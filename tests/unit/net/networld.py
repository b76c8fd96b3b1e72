"""A server and a pool on one transport, for the stories of this directory."""

import time
from contextlib import asynccontextmanager

import trio

from cfs.core.api import meta
from cfs.core.errors import NotFound
from cfs.net.certificates import Authority, make_request, new_key
from cfs.net.identity import Identity
from cfs.net.memory import MemoryNetwork, MemoryTransport
from cfs.net.pool import Pool
from cfs.net.rpc import Server
from cfs.net.tls import TlsTransport

HOST = "127.0.0.1"
NOW_S = int(time.time())
AUTHORITY = Authority.create(bytes(range(16)), now_s=NOW_S)


def identity(role, name, authority=AUTHORITY, **options):
    key = new_key()
    options = {"now_s": NOW_S, **options}
    certificate = authority.issue(make_request(key), role=role, name=name, **options)
    return Identity(key, certificate, authority.bundle)


def memory_make():
    network = MemoryNetwork()
    serials = iter(range(1, 1000))

    def make(role, name):
        return MemoryTransport(network, role=role, name=name, serial=next(serials))

    return make


def tls_make():
    return lambda role, name: TlsTransport(identity(role, name))


class World:
    """What the handlers saw, and knobs."""

    def __init__(self):
        self.server_epoch = 1
        self.client_epoch = 1
        self.heard = {"server": [], "client": []}
        self.refused = set()
        self.cancelled = []
        self.started = []
        self.release = trio.Event()
        self.connects = []
        self.disconnects = []

    def handlers(self):
        return {
            "meta.statfs": self.statfs,
            "meta.getxattr": self.getxattr,
            "meta.listxattr": self.listxattr,
            "meta.lookup": self.lookup,
            "store.put": lambda _c, _r, payload: (meta.Empty(), payload),
            "store.get": lambda _c, _r, _p: 1 / 0,
        }

    def statfs(self, context, request, payload):
        """Answer inline; the payload goes back."""
        del context
        return meta.StatFsReply(
            inodes=request.shard, logical_bytes=len(payload), inline_bytes=0
        ), payload

    async def getxattr(self, context, request, _payload):
        """Wait until released."""
        self.started.append((request.ino, context.deadline))
        try:
            await self.release.wait()
        except trio.Cancelled:
            self.cancelled.append(request.ino)
            raise
        return meta.XattrReply(at=request.ino)

    async def listxattr(self, context, request, _payload):
        """Ask the client back on its own connection."""
        recall = meta.Recall(shard=1, session=request.session, at=1, leases=())
        await context.peer.call("client.recall", recall, timeout_s=5)
        return meta.XattrReply(at=77)

    def lookup(self, context, request, payload):
        """Fail."""
        del context, payload
        raise NotFound("no such name", name=request.name)


async def until(condition, limit_s=8):
    """Wait for what another task, or the network, is about to bring."""
    with trio.fail_after(limit_s):
        while not condition():  # noqa: ASYNC110 - there is no event in the product to wait for
            await trio.sleep(0.001)


@asynccontextmanager
async def running(make, world, **pool_options):
    """Give `(server, pool)`; node 1 is the server."""
    listener = await make("meta", "m1").listen(HOST, 0)
    server = Server(
        listener=listener,
        handlers=world.handlers(),
        epoch=lambda: world.server_epoch,
        on_epoch=world.heard["server"].append,
        refused=world.refused.__contains__,
    )
    options = {
        "transport": make("client", "c1"),
        "resolve": lambda node: (HOST, listener.port) if node == 1 else None,
        "handlers": {"client.recall": lambda *_: meta.Empty()},
        "epoch": lambda: world.client_epoch,
        "on_epoch": world.heard["client"].append,
        "on_connect": lambda node, _peer: world.connects.append(node),
        "on_disconnect": lambda node, _peer: world.disconnects.append(node),
        **pool_options,
    }
    pool = Pool(**options)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        await nursery.start(pool.run)
        try:
            yield server, pool
        finally:
            nursery.cancel_scope.cancel()


def statfs(shard=7):
    return meta.StatFs(shard=shard)


def getxattr(ino):
    return meta.GetXattr(shard=1, session=1, ino=ino, name=b"user.n")
