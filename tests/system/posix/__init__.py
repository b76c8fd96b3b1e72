"""What POSIX and Linux say of every operation: a table of operation, condition, expected outcome.

table        how a row is written
words        the words about names and attributes: one system call each
open_files   the words about open files
paths        every operation that takes a path, under every condition of a path
names        making, removing, linking and moving names
permissions  who may do what; set-id bits, sticky directories, inherited groups
contents     reading, writing, seeking, allocating, mapping, locking
metadata     attributes, extended attributes, times
runner       the program that carries out rows in a directory
"""
