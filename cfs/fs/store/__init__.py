"""The storage node: sealed fragments on its disks, and its part of the dedupe index.

    service    answers `store.*` over all disks of the node; chooses a disk; keeps disks going
    transfer   its part in moves: lists, fetches, seals and drops fragments of groups
    figures    its state and counters
    committer  gathers concurrent changes of a disk into groups that share one sync
    engine     one disk: puts, gets, deletes, checkpoints; faults and space
    jobs       what is asked of a disk, as values
    reclaim    gives back the space of what was deleted
    recovery   brings an index up to its logs after a crash, or builds it from nothing
    index      where each fragment is; dedupe entries; kept in LMDB
    scan       reads a log record by record, over damage and holes
    volume     the append-only files themselves
    identity   whose disk this is
    place      how a disk lies in its directory, and how its index is opened

The record format is `cfs.core.segment.record`; files come from `cfs.fs.disk`.
"""
