"""Random histories of one client, the sequential model of them, and what may survive a crash.

A history comes from a seed: every operation is valid when those before it are done, so it needs no
answer. Operations on names and sizes are *ordered*: what survives is those up to some point. Bytes
of a file are ordered only before later renames, links and sizes of that file, and may be newer.

Run as a program: python -m tests.system.history BASE SEED STEPS LOG KILL_AT DELAY_MS PID... It
works in BASE/a and BASE/b, notes in LOG what it begins and has done, and kills the processes at
that step, after that delay. It goes on until an operation fails, or all are done.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import stat
import sys
import threading
import time
from pathlib import Path

CALLS = {
    "create": 20, "write": 30, "rename": 14, "unlink": 8, "mkdir": 6, "rmdir": 2, "link": 6,
    "symlink": 4, "chmod": 5, "truncate": 6, "fsync": 3, "fsync_directory": 2, "pause": 4,
}  # fmt: skip
ORDERED_FOR_BYTES = {"rename", "link", "truncate"}
LENGTHS = (10, 300, 5000, 16_000, 17_000, 120_000)
SIZE_MAX = 400_000
ENTRIES_MAX = 50
ROOTS = ("a", "b")


class Model:
    """The state after some operations: directories of names, files by number."""

    def __init__(self):
        self.tree = {"": "d0"}
        """Path to what it leads to: `d…` a directory, `f…` a file, `l…` a symbolic link."""
        self.modes = {}
        self.targets = {}
        for number, root in enumerate(ROOTS, 1):
            self.tree[root] = f"d{number}"

    def below(self, path):
        return [p for p in self.tree if p.startswith(f"{path}/")]

    def apply(self, call, node, arguments):
        path = arguments[0] if arguments else None
        if call in {"create", "mkdir", "symlink"}:
            self.tree[path] = node
            self.modes[node] = 0o755 if call == "mkdir" else 0o644
            if call == "symlink":
                self.targets[node] = arguments[1]
        elif call == "link":
            self.tree[arguments[1]] = node
        elif call == "rename":
            new = arguments[1]
            if self.tree.get(new) == node and not node.startswith("d"):
                return  # two names of one file: nothing happens
            moved = {new + p[len(path) :]: self.tree.pop(p) for p in [path, *self.below(path)]}
            self.tree.update(moved)
        elif call in {"unlink", "rmdir"}:
            del self.tree[path]
        elif call == "chmod":
            self.modes[node] = arguments[1]

    def seen(self):
        """Give what a walk shows: kind, mode or target, by path."""
        return {path: self._shown(node) for path, node in self.tree.items() if "/" in path}

    def _shown(self, node):
        if node[0] == "l":
            return "link", self.targets[node]
        return ("directory" if node[0] == "d" else "file"), self.modes[node]


class History:
    """The operations of a seed, and everything the checker needs to know of each."""

    def __init__(self, seed, steps):
        self._chance = random.Random(seed)
        self._model = Model()
        self._number = 10
        self.calls = []
        """(call, node, arguments), in order."""
        self.touched = []
        """Nodes that an ordered operation concerns, empty for others."""
        self.contents = {}
        """By file: (index of the operation, the bytes after it)."""
        self.views = [self._model.seen()]
        self.nodes = [dict(self._model.tree)]
        """What a walk shows, and which node a path leads to, after so many operations."""
        while len(self.calls) < steps:
            self._step()

    def _step(self):
        names, weights = zip(*CALLS.items(), strict=True)
        call = self._chance.choices(names, weights)[0]
        made = getattr(self, f"_{call}")()
        if made is None:
            return
        node, arguments, touched = made
        index = len(self.calls)
        if call == "create":
            self.contents[node] = [(index, b"")]
        elif call in {"write", "truncate"}:
            content = self.contents[node][-1][1]
            if call == "write":
                offset, data = arguments[1:]
                content = content.ljust(offset, b"\0")
                content = content[:offset] + data + content[offset + len(data) :]
            else:
                content = content[: arguments[1]].ljust(arguments[1], b"\0")
            self.contents[node].append((index, content))
        self._model.apply(call, node, arguments)
        self.calls.append((call, node, arguments))
        self.touched.append(touched)
        self.views.append(self._model.seen())
        self.nodes.append(dict(self._model.tree))

    # --- choosing

    def _pick(self, kinds, *, roots=False):
        """Choose a path that leads to one of these kinds."""
        paths = [p for p, n in self._model.tree.items() if n[0] in kinds and ("/" in p or roots)]
        return self._chance.choice([p for p in paths if p] or [None])

    def _free(self, limit=12):
        """Choose a name that is not there."""
        path = f"{self._pick('d', roots=True)}/n{self._chance.randrange(limit)}"
        return None if path in self._model.tree else path

    def _parent(self, path):
        return self._model.tree[path.rpartition("/")[0]]

    def _new(self, kind):
        self._number += 1
        return f"{kind}{self._number}"

    def _make(self, kind, *more):
        path = self._free()
        if path is None or path.count("/") > 4 or len(self._model.tree) > ENTRIES_MAX:
            return None
        node = self._new(kind)
        return node, (path, *more), {node, self._parent(path)}

    def _create(self):
        return self._make("f")

    def _mkdir(self):
        return self._make("d")

    def _symlink(self):
        return self._make("l", f"target-{self._number}")

    def _on_file(self, *more, ordered):
        path = self._pick("f")
        if path is None:
            return None
        node = self._model.tree[path]
        return node, (path, *more), {node} if ordered else set()

    def _write(self):
        data = self._chance.randbytes(self._chance.randint(1, self._chance.choice(LENGTHS)))
        made = self._on_file(ordered=False)
        if made is None:
            return None
        size = len(self.contents[made[0]][-1][1])
        if size > SIZE_MAX:
            return None
        append = self._chance.random() < 0.5
        offset = size if append else self._chance.randint(0, size + 1000)
        return made[0], (*made[1], offset, data), made[2]

    def _truncate(self):
        made = self._on_file(ordered=True)
        if made is None:
            return None
        size = len(self.contents[made[0]][-1][1])
        new = self._chance.choice((0, size // 2, size + 5000))
        return made[0], (*made[1], new), made[2]

    def _chmod(self):
        return self._on_file(self._chance.choice((0o600, 0o640, 0o644)), ordered=True)

    def _fsync(self):
        return self._on_file(ordered=False)

    def _fsync_directory(self):
        path = self._pick("d", roots=True)
        return self._model.tree[path], (path,), set()

    def _pause(self):
        return "", (self._chance.choice((1, 10, 30, 200)),), set()

    def _link(self):
        old, new = self._pick("f"), self._free()
        if old is None or new is None:
            return None
        node = self._model.tree[old]
        return node, (old, new), {node, self._parent(new)}

    def _unlink(self):
        path = self._pick("fl")
        if path is None:
            return None
        node = self._model.tree[path]
        return node, (path,), {node, self._parent(path)}

    def _rmdir(self):
        path = self._pick("d")
        if path is None or self._model.below(path):
            return None
        node = self._model.tree[path]
        return node, (path,), {node, self._parent(path)}

    def _rename(self):
        old = self._pick("fld")
        new = f"{self._pick('d', roots=True)}/n{self._chance.randrange(12)}"
        if old is None or f"{new}/".startswith(f"{old}/") or f"{old}/".startswith(f"{new}/"):
            return None
        node, there = self._model.tree[old], self._model.tree.get(new)
        if there is not None and (
            (node[0] == "d") != (there[0] == "d") or self._model.below(new) or node == there
        ):
            return None
        touched = {node, self._parent(old), self._parent(new)} | ({there} if there else set())
        return node, (old, new), touched

    # --- checking

    def survived(self, found, begun, done):
        """Give after how many operations the state `found` may have been left, or say why none.

        `found`: by path, (kind, mode or target, inode, bytes). `begun` operations were begun,
        `done` had returned.
        """
        least = self._least(done)
        said = []
        shown = {path: entry[:2] for path, entry in found.items()}
        for count in range(begun, least - 1, -1):
            view = self.views[count]
            if shown != view:
                said.append((len(view.items() ^ shown.items()), count, "names or modes"))
                continue
            wrong = self._wrong_contents(found, count, begun, done)
            if not wrong:
                return count, ""
            said.append((0, count, wrong))
        _, count, why = min(said, key=lambda s: (s[0], -s[1]))
        differ = sorted(map(repr, self.views[count].items() ^ shown.items()))
        return None, f"of {least} to {begun}, nearest {count}: {why} {differ[:6]}"

    def _least(self, done):
        """Count the operations that must have survived: up to the last fsync that returned."""
        least = 0
        for index, (call, node, _) in enumerate(self.calls[:done]):
            if call.startswith("fsync"):
                before = [i for i in range(index) if node in self.touched[i]]
                least = max(least, before[-1] + 1 if before else 0)
        return least

    def _wrong_contents(self, found, count, begun, done):
        inodes = {}
        for path, entry in found.items():
            node = self.nodes[count][path]
            if inodes.setdefault(entry[2], node) != node:
                return f"{path} is one with another file"
            if entry[0] == "file" and entry[3] not in self._allowed(node, count, begun, done):
                versions = [(i, len(c)) for i, c in self.contents[node]]
                return f"{path} ({node}) has {len(entry[3])} other bytes; versions {versions}"
        return ""

    def _allowed(self, node, count, begun, done):
        """List the contents that a file may have after `count` ordered operations."""
        bound = -1
        for index in range(begun):
            call, other, _ = self.calls[index]
            if other == node and (
                (index < count and call in ORDERED_FOR_BYTES) or (index < done and call == "fsync")
            ):
                bound = index
        allowed = []
        for index, content in self.contents[node]:
            later = index >= count
            if index >= begun or (later and self.calls[index][0] == "truncate"):
                break
            if index <= bound:
                allowed = []
            allowed.append(content)
        return allowed


def walk(base):
    """Read everything below a directory: what `History.survived` takes."""
    found = {}
    for folder, names, files in os.walk(base, onerror=_fail):
        for name in (*names, *files):
            path = Path(folder) / name
            entry = path.lstat()
            key = str(path.relative_to(base))
            if stat.S_ISLNK(entry.st_mode):
                found[key] = "link", str(path.readlink()), entry.st_ino, b""
            elif stat.S_ISDIR(entry.st_mode):
                found[key] = "directory", stat.S_IMODE(entry.st_mode), entry.st_ino, b""
            else:
                content = path.read_bytes()
                found[key] = "file", stat.S_IMODE(entry.st_mode), entry.st_ino, content
    return {path: entry for path, entry in found.items() if path not in ROOTS}


def _fail(error):
    raise error


def noted(log):
    """Give how many operations a program's log says were begun and done."""
    words = log.read_text().split()
    return words.count("begin"), words.count("done")


def perform(base, call, arguments):
    paths = [base / a if isinstance(a, str) else a for a in arguments]
    path = paths[0] if paths else None
    match call:
        case "create":
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        case "write":
            fd = os.open(path, os.O_WRONLY)
            try:
                assert os.pwrite(fd, arguments[2], arguments[1]) == len(arguments[2])
            finally:
                os.close(fd)
        case "symlink":
            path.symlink_to(arguments[1])
        case "link":
            os.link(path, paths[1])
        case "rename":
            path.rename(paths[1])
        case "truncate":
            os.truncate(path, arguments[1])
        case "fsync" | "fsync_directory":
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        case "pause":
            time.sleep(arguments[0] / 1000)
        case "chmod":
            path.chmod(arguments[1])
        case _:
            getattr(path, call)()


def main():
    base, seed, steps, log, kill_at, delay_ms, *pids = sys.argv[1:]
    history = History(int(seed), int(steps))
    lines = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def kill():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    timer = threading.Timer(float(delay_ms) / 1000, kill)
    for index, (call, _, arguments) in enumerate(history.calls):
        if index == int(kill_at):
            timer.start()
        os.write(lines, b"begin ")
        try:
            perform(Path(base), call, arguments)
        except OSError as error:
            print(f"{index} {call} {arguments[:1]}: {error}")
            break
        os.write(lines, b"done ")
    if timer.ident is not None:
        timer.join()


if __name__ == "__main__":
    main()
