"""Erasure coding: how a segment becomes fragments that survive the loss of any `parity` of them.

erasure  encode, decode, reconstruct, and where a byte range lies (Reed-Solomon, ISA-L)
isal     the parity of a profile by ISA-L itself, off the GIL
"""
