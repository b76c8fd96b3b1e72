"""Gateways: thin translators between a protocol and `cfs.fs.client.Files`.

fuse           a mount through pyfuse3: options, start, end
fuse_handlers  its request handlers, and the table of errnos
fuse_inodes    what the kernel below it knows
invalidate     makes the kernel drop what it caches
"""
