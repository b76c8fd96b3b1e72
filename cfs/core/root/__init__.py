"""The root group: what the whole cluster agrees on.

records   what is stored under which key, each record with its version byte
command   what all commands are
notes     commands that only remember
commands  what may be proposed to the group
machine   how a command changes the records, deterministic, never raising
nodes     the part of the machine that changes nodes, placement and sessions
rounds    the part of the machine that numbers and remembers garbage rounds
moves     the part of the machine that replaces members of placement groups
jobs      the part of the machine that remembers long operations
events    what happened: most of it follows from commands
findings  the part of the machine that remembers what scrub found
snapshot_commands  what may be proposed about snapshots
snapshots the part of the machine that numbers snapshots and remembers their schedules
quotas    limits, and how each is divided among shards
map       how the records are read back as the cluster map
"""
