"""CFS, a distributed POSIX file system. Imports point only `cli -> fs -> net -> core`.

core   decides: state machines and formats, pure
net    moves: frames, RPC, TLS, the runner
fs     serves: the roles, disks and stores below, files and gateways above
cli    starts: commands; wires objects, reads configuration and environment
"""
