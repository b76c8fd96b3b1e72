"""A metadata shard: a pure, deterministic state machine over the ordered key-value port.

shard         apply a Raft entry: dispatch to the nouns below
commands      what stands in the log; encoding
results       what each command results in; encoding
read          pure reads: lookup, attributes, listings, layouts, what workers need
queries       what one meta node asks a shard's leader, answered from its state
check         what fsck asks: entries and inodes, page by page, whether files are whole
mending       what fsck puts right
conflict      what an operation would touch: leases to recall, names to latch, shards
keys          how every record is keyed
records       what every record holds, byte for byte; versions and migration
draft         the changes of one operation, all or nothing; clock, counters, references
quota         what trees, users and groups use, counted with every change; the caps
ledger        what a batch changes in those counts
limiting      caps, charges, marking trees
needs         the room in quotas an operation needs, seen before it is applied
totals        what is used, by the counters and counted afresh
keeping       commands about snapshots and the trash
trash         what lost its last name stays a while
versions      what records were before, for as long as a snapshot needs it
history       the records as a snapshot shows them
sessions      exactly-once operations and their answers
namespace     create, unlink, rmdir, link
renaming      rename within the shard
entries       the names of directories
links         counting links and entries
access        who may do what
acl           access control lists
attributes    chmod, chown, truncate, utimes
xattrs        extended attributes
files         committing extents, truncating
pages         how tiles are stored; reverse references by difference
extents       the overlay algebra
leases        WRITE leases
packing       inline chunks into segments
relocation    chunks from one segment into others
collection    condemned and deleted segments
orphans       reclaiming in bounded steps
trimming      what truncating a long file leaves, in bounded steps
transactions  two-phase commit across shards
steps         the steps of a transaction: check, hold, apply, release
intents       what is remembered of transactions
locks         locks and pins of transactions
file_locks    flock and POSIX byte ranges
copying       a range of a file by reference; files without a name are in `namespace`
"""
