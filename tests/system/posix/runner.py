"""Carry out every row of the table in a directory, and print what came of those that differ.

Run as a program: python -m tests.system.posix.runner DIRECTORY. Prints JSON: how many rows there
are, and a list of [row, outcome] where the outcome is not the expected one.
"""

# ruff: noqa: PTH101, PTH102

import json
import os
import sys

from tests.system.posix import contents, metadata, names, paths, permissions
from tests.system.posix.open_files import OpenFiles, outcome

USERS = {"root": (0, ()), "ann": (20001, ()), "bob": (20002, ()), "cat": (20003, (20001,))}
"""User and group number, and supplementary groups: cat is in ann's group."""
TABLES = (paths, names, permissions, contents, metadata)


def table():
    """Give every row."""
    return [row for module in TABLES for row in module.ROWS]


def carry_out(base, row, number):
    """Give the outcome of one row, in a directory of its own."""
    words = OpenFiles()
    here = f"row{number}"
    os.chdir(base)
    os.umask(0o022)
    os.mkdir(here)
    os.chmod(here, 0o777)
    os.chdir(here)
    try:
        if row.setup:
            failed = outcome(words, row.setup)
            if failed.startswith("E"):
                return f"setup: {failed}"
        uid, groups = USERS[row.user]
        os.setgroups(groups)
        os.setegid(uid)
        os.seteuid(uid)
        try:
            return outcome(words, row.calls)
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(())
    finally:
        words.close_all()


def main():
    base = sys.argv[1]
    wrong = []
    rows = table()
    for number, row in enumerate(rows):
        came = carry_out(base, row, number)
        if came != row.expected and not (row.expected == "ok" and not came.startswith("E")):
            wrong.append([str(row), came])
    print(json.dumps({"rows": len(rows), "wrong": wrong}))


if __name__ == "__main__":
    main()
