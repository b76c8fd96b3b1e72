"""The command line: the only place that wires objects and reads configuration.

One module a command
    main        the Typer tree, exit codes
    cluster     cfs cluster init, rotate-ca (authority: its steps)
    node        cfs node token, join, list, revoke
    admin       cfs admin: its commands' tree
    admin_node  cfs admin node add, drain, remove, set, list
    jobs        cfs admin jobs, cfs admin job; starting and following long operations
    serve       cfs serve meta, cfs serve storage
    mount       cfs mount
    umount      cfs umount
    status      cfs status
    up, down    cfs up, cfs down: a whole cluster on this machine

Wiring
    ports         the machine a process runs on
    process       what every process is made of
    meta_node     a metadata node
    storage_node  a storage node
    client_node   a client; `open_files` for programs
    ask           one question to the root leader

quantity        rates as people write them
configuration   cfs.toml, typed
logs            where log lines go
malloc          freed memory: what stays, what goes back to the system
processes       starting and stopping
"""
