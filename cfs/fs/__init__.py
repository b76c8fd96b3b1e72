"""What serves: the roles. Disks and stores below, files and gateways above.

disk    directories of append-mostly files
kv      LMDB behind the key-value port
store   the storage node
meta    the metadata node: Raft host and shard service
root    the root group in service, membership, collection
data    segments up to and down from the storage nodes
client  Files, the one VFS: sessions, leases, caches, write-back
gate    gateways over Files: FUSE
"""
