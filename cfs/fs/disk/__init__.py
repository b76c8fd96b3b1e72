"""Directories of append-mostly files: the one way product code touches a disk.

port     what a directory and a file can do
real     on Linux, by system calls
memory   the twin: crashes, tears, fails, fills up, flips bits
"""
