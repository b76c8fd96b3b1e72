"""The data path's moving parts: a client's bytes to storage nodes and back.

    uploader   runs of bytes (or sealed chunks) to durable extents (or references)
    flow       one write under way: batches, threads, overlap, bounds
    source     where a write's bytes come from: runs, or a stream that is still being written
    sender     one segment to its nodes: placement, retries, room
    dedupe     the index of chunks that are stored already: asked, told, remembered
    fetcher    extents to verified plain bytes; the plain-chunk cache
    fragments  byte ranges of segments, healthy or degraded
    nodes      which storage nodes are worth asking now
    fragment_client  the storage calls, typed, and what is needed of the pool
    budget     a bound in bytes, first come first served

Formats and mathematics are in `cfs.core.data`, `cfs.core.code` and `cfs.core.segment`.
"""
