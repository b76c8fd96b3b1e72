"""The root group in service: the cluster map, membership, enrolment, status, collection.

For every process
    directory   what a node keeps on disk of its own identity, and how
    view        the newest cluster map this process knows
    leader      calls to the root leader, wherever it is
    heartbeat   tells the root leader twice a second how this node is
    join        enrols with a token
    renewal     keeps this process's certificate in force

For meta nodes
    bootstrap   makes a cluster; starts the groups of its first node
    replica     this node's replica of the root group: proposing, reading, the map it applied
    service     answers every `root.*` method
    led         what the root leader runs while it leads:
    detector      decides who is down, back, or out
    placer        proposes where placement groups and replicas go
    collector     frees segments that nothing refers to, round by round
    status        puts the cluster's condition in words and figures
    admin         an operator's commands
    jobs        long operations: how to write one; read this first
    job_runner    runs them while this node leads, saves how far they are
    job_commands  an operator's commands on them
    snapshots   takes, schedules and deletes snapshots
    snapshot_commands  an operator's commands on them
    quotas      shares limits out among shards, watches soft ones
    quota_job   the job that brings one into force, or takes it away
    quota_commands  an operator's commands on them
    pace          their bound on bytes a second
    keeper      starts the jobs that nobody asks for
    redundancy  repair, drain, rebalance, tidy: plans, batch by batch
    rewriter    brings segments to the profile in force
    mover       replaces members of placement groups: copy, switch, seal, prove, drop
    fragments   what storage nodes hold of whole groups: listed, fetched, proven, dropped
    node_commands  an operator's commands on nodes, profile and settings
    scrub         the job that has everything verified
    stripes       walks all segments, has each proved
    replicas      compares metadata replicas
    fsck          the job that has the namespace checked
    ancestry      whether directories lead to the root
    insight       an operator's questions
    explain       where a file's bytes are, who holds it
    usage         what all nodes were asked for lately
    paths         names of inodes, inodes of names
    members     brings this node's Raft groups to what the map says
    vault       wrapped secrets: the authority's key and the volume keys
    office      all of the above, put together for a meta node
    workers     what a background job shows of itself
    ports       what the modules here ask of the Raft host and the connections
"""
