"""Segments: what is sent as one, and how a fragment of it lies on a disk.

container  chunks in a segment, self-describing
record     a fragment in a volume log
"""
