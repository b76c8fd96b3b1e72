"""Crash consistency: short sequences of operations, a crash at every persistence point.

python -m tests.crash --help

table      the fixed tree, the operations and their arguments, which sequences there are
model      what may be there after a crash
points     persistence points: where something has just become durable
stem       one simulated cluster with the fixed tree, booted once
crash      a case in a copy of the stem, and a copy of that for each crash
command    the command line; progress that survives an interruption
"""
