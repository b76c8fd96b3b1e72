"""The client: one VFS, `Files`, that every gateway, the Python interface and the tests speak to.

ports       what a client asks of its process: pool, map, uploader, fetcher, kernel
limits      every bound of this package and its reason
fences      which replies may still fill a cache, when leases came and went meanwhile
router      finds the node that leads a group, and retries what may be retried
lane        numbers the mutations of one shard, batches them, repeats them until answered
shard_session  what is known of the session in one shard
session     leases' terms: opening, renewing, reasserting, giving back; the trust deadline
cache       attributes and directory entries, valid under a lease only
dirty       the written but not committed bytes of one file
landing     memory that large writes land in and stay in
stream      a large file on its way while it is being written
buffer      the bytes that all files together may hold dirty
space       whether the cluster still has room for what is about to be buffered
quotas      what may be accepted under quotas: room charged before bytes are buffered
siblings    files likely to be read next, asked for many at once
file        one inode's state: size, layout, dirty bytes, leases; reading it
writeback   brings dirty bytes to the cluster: timer, pressure, recall, fsync
recall      answers the leader that wants a lease back
client      holds the parts above together: start, close
queue       operations shown as done that are on their way, and their order with all others
delegation  the directories and inodes that only this client may change for now
following   which entries of a directory come next for whoever goes through it
ahead       operations carried out here first, under delegations
ground      what those check and change
underway    what own changes that are not answered yet may have changed already
names       the operations on directories
contents    the operations on open files and on attributes
claim       the claim of every client on the whole file system, shared or exclusive
locking     flock and byte-range locks
ranges      allocating, punching, seeking, copying; unnamed files
paths       path helpers for Python
instant     what can be answered without waiting
handover    giving the session, open files and locks to another process
numbers     inode numbers of snapshots
past        what snapshots show, with a cache of it
trash       what was removed lately, as a directory
snapshots   the operations on that; sharing bytes across shards
files       the VFS: all of these in one object
"""
