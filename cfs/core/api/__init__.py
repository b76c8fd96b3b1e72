"""What processes say to one another: message types, one module a service.

    cluster   the cluster map: nodes, shards, placement groups, profile
    meta      namespace operations, attributes, extents, leases  (client -> shard leader)
    layout    where the bytes of many files are                  (client -> shard leader)
    attr      attributes, entries, callers
    session   sessions and recalls  (client <-> shard leader)
    store     fragments and the dedupe index                     (anyone -> storage node)
    root      sessions, enrolment, heartbeats, the map            (anyone -> root leader)
    snapshots what snapshots there are; taking one               (root leader -> shard leader)
    trash     what lies in the trash                              (client -> shard leader)
    quota     room for a file to grow into; limits and use
    methods   the table: number, types, who may call, idempotent

Every message is a frozen msgspec struct encoded as a msgpack array; new fields go last, with a
default, so that older peers still understand. Raw bytes travel as the frame's payload instead.
"""
