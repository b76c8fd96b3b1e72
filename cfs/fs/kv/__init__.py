"""Ordered key-value storage on this machine.

lmdb_store   LMDB behind the `cfs.core.kv.Store` port, every value under a checksum
"""
