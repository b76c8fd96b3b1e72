"""Gateways: thin translators between a protocol and `cfs.fs.client.Files`.

fuse           a mount through pyfuse3: options, start, end
fuse_handlers  its request handlers
fuse_read_only its request handlers where nothing may change
fuse_listing   what its open directories have fetched
fuse_inodes    what the kernel below it knows
kernel         a mount through the kernel's own protocol, without pyfuse3
attachment     options of a mount, its device, its end, for both
callers        who a request comes from, with supplementary groups
errnos         what a kernel is told of an error, for both
invalidate     makes the kernel drop what it caches
"""
