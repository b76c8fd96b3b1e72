"""What a call costs: two processes on loopback, mutual TLS; latency, CPU of both sides, bulk.

Run: `python bench/rpc.py`. Prints one line a case; nothing is asserted.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parent.parent))

from cfs.core.api import meta, store
from cfs.net.certificates import Authority, make_request, new_key
from cfs.net.identity import Identity
from cfs.net.pool import Pool
from cfs.net.rpc import Server
from cfs.net.tls import TlsTransport

CALLS = 10_000
TOTAL_BYTES = 768 << 20
HOST = "127.0.0.1"
BULK = {size: bytes(size) for size in (1 << 20, 2 << 20)}
INLINE = ("meta.statfs", meta.StatFs(shard=1))
TASK = ("meta.getxattr", meta.GetXattr(shard=1, session=1, ino=1, name=b"user.n"))


def identity(authority, role):
    key = new_key()
    now_s = int(time.time())
    certificate = authority.issue(make_request(key), role=role, name=role, now_s=now_s)
    return Identity(key, certificate, authority.bundle)


async def serve(own, port_pipe):
    async def xattr():
        return meta.XattrReply(at=1)

    def get(_context, request, _payload):
        info = store.FragmentInfo(
            segment=b"", index=0, data=1, parity=1, segment_length=1, length=1
        )
        return info, BULK[request.length]

    def statfs(_context, _request, _payload):
        cpu_ns = time.process_time_ns()
        return meta.StatFsReply(inodes=cpu_ns, logical_bytes=0, inline_bytes=0)

    listener = await TlsTransport(own).listen(HOST, 0)
    server = Server(
        listener=listener,
        handlers={
            "meta.statfs": statfs,
            "meta.getxattr": lambda _c, _r, _p: xattr(),
            "store.put": lambda _c, _r, _p: meta.Empty(),
            "store.get": get,
        },
        epoch=lambda: 1,
        on_epoch=lambda _epoch: None,
        refused=lambda _serial: False,
    )
    os.write(port_pipe, str(listener.port).encode())
    with trio.move_on_after(60):
        await server.run()


class Meter:
    """CPU of both processes and wall time of a block."""

    def __init__(self, pool):
        self.pool = pool

    async def _now(self):
        reply, _ = await self.pool.call(1, *INLINE, timeout_s=5)
        return time.perf_counter(), time.process_time(), reply.inodes / 1e9

    async def __aenter__(self):
        self.before = await self._now()
        return self

    async def __aexit__(self, *_exc):
        after = await self._now()
        self.wall, self.client, self.server = (
            b - a for a, b in zip(self.before, after, strict=True)
        )


async def in_parallel(width, count, call):
    async def some():
        for _ in range(count // width):
            await call()

    async with trio.open_nursery() as nursery:
        for _ in range(width):
            nursery.start_soon(some)


async def measure_calls(pool):
    for label, case in (("inline", INLINE), ("task", TASK)):
        latencies = []

        async def call(case=case, latencies=latencies):
            began = time.perf_counter()
            await pool.call(1, *case, timeout_s=5)
            latencies.append(time.perf_counter() - began)

        for width in (1, 32):
            latencies.clear()
            async with Meter(pool) as meter:
                await in_parallel(width, CALLS, call)
            latencies.sort()
            p50, p99 = (latencies[len(latencies) * p // 100] * 1e6 for p in (50, 99))
            rate = CALLS / meter.wall
            print(
                f"{label:7} x{width:<2}  {rate:7.0f}/s p50 {p50:5.0f} p99 {p99:5.0f} µs"
                f"  CPU a call: client {meter.client / CALLS * 1e6:4.0f} µs,"
                f" server {meter.server / CALLS * 1e6:4.0f} µs"
            )


async def measure_bulk(pool):
    for size, content in BULK.items():
        put = store.PutFragment(segment=b"", index=0, data=1, parity=1, segment_length=1)
        get = store.GetFragment(segment=b"", index=0, length=size)
        for method, request, payload in (
            ("store.put", put, content),
            ("store.get", get, b""),
        ):
            for width in (1, 4):

                async def call(method=method, request=request, payload=payload):
                    await pool.call(1, method, request, payload, timeout_s=10)

                await call()
                async with Meter(pool) as meter:
                    await in_parallel(width, TOTAL_BYTES // size, call)
                gib = TOTAL_BYTES / (1 << 30)
                print(
                    f"{method} {size >> 20} MiB x{width} {TOTAL_BYTES / meter.wall / 1e6:5.0f} MB/s"
                    f"  CPU a GiB: client {meter.client / gib:.2f} s,"
                    f" server {meter.server / gib:.2f} s"
                )


async def measure(own, port):
    pool = Pool(
        transport=TlsTransport(own),
        resolve=lambda _node: (HOST, port),
        epoch=lambda: 1,
        on_epoch=lambda _epoch: None,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        await measure_calls(pool)
        await measure_bulk(pool)
        nursery.cancel_scope.cancel()


def main():
    authority = Authority.create(bytes(16), now_s=int(time.time()))
    theirs, ours = identity(authority, "meta"), identity(authority, "client")
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        trio.run(serve, theirs, writable)
        os._exit(0)
    try:
        trio.run(measure, ours, int(os.read(readable, 16)))
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
