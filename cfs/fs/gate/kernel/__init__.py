"""The second FUSE binding: the kernel's protocol, read on /dev/fuse by trio, in Python alone.

opcodes      the one table: every request, its layout
flags        the bits of INIT, OPEN, SETATTR and the rest
message      bytes to a request, an answer to bytes
replies      what every handler builds answers from: attributes and their lifetimes
attributes   handlers of attributes, extended ones, the file system's figures
names        handlers of names
directories  handlers of listings
contents     handlers of open files
spans        handlers of locks, holes, seeks and copies, as far as `Files` has them
controls     CFS's own calls: ioctl
operations   the table of handlers
narrowed     tables for mounts of a sub-directory, and without changes
notify       tells the kernel what to drop
signals      whether a caller is being killed
entries      how long the kernel may keep names
session      INIT, the read loop, requests that wait, interrupts
mountpoint   mount(2), or fusermount3 for others than root; the end of a mount
door         gives a live mount to another process
mount        serves `Files` at a mount point
"""
