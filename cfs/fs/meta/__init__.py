"""The metadata node: replicated storage below, served shards above.

Storage, bottom up:

    wal_format   the bytes of the write-ahead log; torn tail or damage
    wal_live     which records still matter to a group
    wal          the log of all groups: group commit, replay, reclaim
    log_writer   the thread that writes it
    overlay      changes in memory above a sorted store
    group_record a group's own record in LMDB; keys and hashes
    state        the applied state of every group: LMDB behind the overlay
    snapshot     a group's state as a stream of pieces
    reconcile    what log and state say together after a crash
    waiters      who waits for a proposal or a read
    doubt        what is said of logs that lost their tails
    group        one replica of one Raft group, as services see it
    transfer     snapshots between hosts
    peers        messages to the other metadata nodes
    host         runs all replicas: the loop
    wal_check    whether the log is on the disk as it was written
    rebuild      taking a replica from its peers anew
    exporter     streams a group's state to a backup
    examiner     what scrub asks of replicas

Services:

    latch        who may work on a name or an inode right now
    leases       which session may trust what it has read
    recalls      taking leases away
    freezer      holding a shard still for a snapshot
    led          one shard as its leader serves it
    readers      what a client that may only read may ask for
    mutation     a client's numbered operations, stage by stage
    plan         the steps of an operation across shards
    transact     operations across shards, at the coordinator
    participant  a led shard's part in them
    leaders      calls to whichever node leads a group
    lock_queue   who waits for file locks
    lock_graph   circles of file locks through several shards
    reaper       inodes without a name
    trash        what was removed lately
    packer       small files into deduplicated segments
    layouts      where the bytes of files are
    past         reads of what a snapshot shows
    rooms        fetching more of a quota before it is wanted
    service      every `meta.*` method of a node
"""
