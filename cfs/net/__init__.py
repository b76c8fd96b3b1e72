"""Moves: frames, calls, connections, and who is at the other end.

ports         what a role may ask of the outside world
frame         the bytes of a message: header, msgpack, payload
hello         what two versions agree on when a connection starts
handlers      the table of methods as this process answers them
tasks         several tasks on one thing: one failure, not a group
silence       when a quiet peer is pinged, and when it is given up
calls         what this side asked and waits for
serving       what the other side asked and is not answered yet
receiver      bytes into frames
outbox        frames into bytes: the bounded queue and its writer
peer          one connection: the hello, the read loop, the watch, the end
rpc           the server; what roles import
pool          connections to nodes by id, made on demand, with back-off
tls           mutual TLS 1.3 as a transport
memory        its twin in memory
certificates  the cluster's authority and what it issues
identity      key, certificate and trust on disk and as a TLS context
token         what an operator copies to a machine that is to join
wrapping      secrets under a master key
counters      how often what happened
usage         who asks for what lately, bounded
system        the real clock, entropy and threads
"""
