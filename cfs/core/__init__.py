"""What decides: state machines and formats, pure. No I/O, no clock, no chance.

api      messages and the table of methods; start here
ids      what each number names
errors   the one error tree
kv       the ordered key-value port
machine  the port between a replicated log and a state machine
raft     consensus: events in, effects out
meta     a shard of the namespace
root     the root group: cluster map, tokens, rounds
place    placement groups and replicas: the planner
data     chunking, digests, compression, sealing
code     erasure coding
segment  the segment container and the fragment record
"""
