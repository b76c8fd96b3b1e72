"""Raft without I/O: a replica hears events and says what its host must do.

    message     events, effects, messages: the contract with the host, and the bytes on the wire
    settings    timing and bounds
    machine     the replica: takes events, decides its role, gives effects in order
    view        what a host may look at in a machine
    replica     what every role shares: term, vote, log, what is durable, committed, applied
    follower    answering the leader
    election    timers, votes, campaigns
    leadership  one term of leading: replicating, committing, leases, handing over
    progress    what a leader knows about one peer
    reads       linearizable reads
    membership  configurations in the log, joint consensus
    quorum      majorities, plain and joint
    log         the entries in memory

Read `message`, then `machine`. The paper: Ongaro, "Consensus: Bridging Theory and Practice" (2014).
"""
