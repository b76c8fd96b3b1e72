"""Chaos: real processes in network namespaces, faults, and histories that are checked.

python -m tests.chaos --help          (as root)

wires      namespaces, the bridge between them, cut links, rates
relay      a program that carries a namespace's connections: delays, throttles, breaks them
machines   machines: a namespace, a disk of their own, processes, mounts; how they fail
cluster    a cluster made as an operator makes it, kept running
journal    histories of many threads
work       what applications do: register, set, append, rename-swap, lock, bank between files
scenarios  what goes wrong, by name
run        one run: work while a scenario goes on, heal, check
command    the command line
"""
