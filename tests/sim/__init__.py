"""The simulator: whole clusters in one thread, on virtual time, from one seed.

python -m tests.sim --help

engine     virtual time, deterministic scheduling, frozen processes
network    byte streams between hosts, and what breaks
disks      disks and stores that outlive a process
homes      a node's own directory
machine    one machine: its ports, its process's lives
cluster    a whole cluster, kept running
workload   what the clients do
faults     what goes wrong, and when
changes    nodes that join and leave, lost disks, snapshots, rebalance
operator   commands to the root leader, from a machine of their own
past       what snapshots show
history    what clients did, and what of it may be gone
linear     is there an order that a model explains
models     the sequential models
watch      invariants while a run goes on
checks     what must hold at the end
run        one run
command    the command line; a process for each run
kept       seeds that failed, made small
bugs       seeded bugs that must be found
trace      every event, hashed
"""
