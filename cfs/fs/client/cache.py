"""Attributes and directory entries learnt under a lease.

One `Node` an inode. What a node says counts while its `modes` hold READ or WRITE and the session
in its shard is trusted; a directory's lease covers its entries, present and absent. A directory
listed from end to end under one lease is *complete*: a name it does not have is absent, and it can
be listed from here. Of a large one that is delegated the oldest names are *folded*: what is folded
is asked for again, what is not is absent still.

The newest wins: attributes by their `version`, entries by the applied index `at` of the reply. A
reply that crossed the end of a lease, or an own change whose answer left nothing newer here, does
not get in (`fences`). What an own change under way touches is not told (`underway`). Bounded in
nodes and entries; what is pushed out gives its lease back (READ when its trust has ended, WRITE
through `evicted`).
Nodes in use (open, dirty) are never pushed out.
"""

from __future__ import annotations

import itertools
import stat
from collections import OrderedDict
from collections.abc import Callable, Container
from typing import Any

import msgspec

from cfs.core.api.meta import Attr, Entry, Held, Lease
from cfs.core.meta import keys
from cfs.core.meta.name_filter import NameFilter
from cfs.fs.client.fences import Fences
from cfs.fs.client.limits import Limits
from cfs.fs.client.nodes import COOKIE, UNKNOWN_COOKIE, Name, Node
from cfs.fs.client.session import Session
from cfs.fs.client.underway import Touched, Underway, touched_by

_DATA = Lease.READ | Lease.WRITE


class Cache:
    """All nodes of one client."""

    def __init__(
        self, session: Session, fences: Fences, limits: Limits, evicted: Callable[[int], None],
        pending: Container[int], underway: Underway,
    ) -> None:  # fmt: skip
        self._session = session
        self._underway = underway
        underway.known = self._leads_to
        self._fences = fences
        self._limits = limits
        self._evicted = evicted
        self._pending = pending
        """Inodes whose attributes here are newer than any reply's."""
        self._put_offs: dict[int, Attr] = {}
        self._nodes: OrderedDict[int, Node] = OrderedDict()
        self._entries = 0
        self._nodes_max, self._entries_max = limits.nodes, limits.entries
        """Beyond these something is pushed out; higher while nodes in use are too many."""
        self._epochs = itertools.count(1)

    # --- asking

    def node(self, ino: int) -> Node:
        """Give the node of an inode, making it."""
        node = self._nodes.get(ino)
        if node is None:
            if len(self._nodes) >= self._nodes_max:
                self._shrink()  # before: the new one must not go
            node = self._nodes[ino] = Node(ino)
            node.epoch = next(self._epochs)  # not that of a node pushed out before
        return node

    def peek(self, ino: int) -> Node | None:
        """Give the node of an inode if there is one."""
        return self._nodes.get(ino)

    def use(self, ino: int) -> Node | None:
        """Give the node of an inode if there is one, as one that is used now."""
        node = self._nodes.get(ino)
        if node is not None:
            self._nodes.move_to_end(ino)
        return node

    def leased(self, node: Node) -> bool:
        """Tell whether what `node` says counts now."""
        return bool(node.modes & _DATA) and self._session.trusted(node.shard)

    def attr(self, ino: int) -> Attr | None:
        """Give attributes that count now."""
        node = self._nodes.get(ino)
        if node is None or node.attr is None or not self.leased(node):
            return None
        if ino in self._underway.inos:
            return None
        self._nodes.move_to_end(ino)
        return node.attr

    def name(self, parent: int, name: bytes) -> Name | None:
        """Give what counts now of a name, absent ones too; None: not known."""
        node = self._nodes.get(parent)
        if node is None or not self.leased(node) or (parent, name) in self._underway.names:
            return None
        found = node.entries.get(name)
        if found is None and node.complete and node.decides(name):
            return Name(name, 0, 0, UNKNOWN_COOKIE, 0)
        return found

    def listing(self, ino: int) -> list[Name] | None:
        """Give the entries of a directory in cookie order, if all are known and count now."""
        node = self._nodes.get(ino)
        if node is None or not node.complete or node.folded or not self.leased(node):
            return None
        if ino in self._underway.inos:
            return None
        if node.listing is None:
            present = [n for n in node.entries.values() if n.ino]
            if any(n.cookie == UNKNOWN_COOKIE for n in present):
                named = _with_cookies(present) if node.modes & Lease.WRITE else None
                if named is None:
                    return None
                present = named
                node.entries.update((n.name, n) for n in present)
            node.listing = sorted(present, key=COOKIE)
        return node.listing

    def present(self, ino: int) -> list[Name]:
        """Give the entries known here of a directory whose names are all known, in any order."""
        node = self._nodes.get(ino)
        if node is None or not node.complete or not self.leased(node):
            return []
        return [name for name in node.entries.values() if name.ino]

    # --- learning

    def learn_attr(self, attr: Attr, modes: int, token: int) -> Node | None:
        """Take attributes and granted modes in; None when the lease is gone already."""
        ino = attr.ino
        if not self._fences.passes(token, ino):
            return None
        node = self._nodes.get(ino)
        granted = modes & _DATA
        if granted:
            node = node or self.node(ino)
            node.modes |= granted
            self._session.keep(ino, granted)
        elif node is None:
            return None
        if not node.modes & _DATA:
            return None
        if ino in self._pending and node.attr is not None:
            self._put_off(attr)
        elif node.attr is None or attr.version >= node.attr.version:
            node.attr = attr
        return node

    def learn_change(self, attr: Attr, token: int) -> None:
        """Take the attributes that an own mutation answered in, where a lease covers them.

        The server recalls nothing for an own change: where the answer may not get in (a lease was
        reasserted meanwhile), what was known before it is forgotten, and what was asked before it
        does not get in either.
        """
        node = self._nodes.get(attr.ino)
        if node is None:
            self._fences.close_ino(attr.ino)
            return
        if attr.ino in self._pending:
            self._put_off(attr)
            return
        if self.learn_attr(attr, 0, token) is None:
            node.attr = None
            self._fences.close_ino(attr.ino)

    def _put_off(self, attr: Attr) -> None:
        """Keep a reply for when nothing is in line any more: then the newest of all counts."""
        other = self._put_offs.get(attr.ino)
        if other is None or attr.version > other.version:
            self._put_offs[attr.ino] = attr

    def settle_attr(self, node: Node, attr: Attr) -> Attr:
        """Take in the answer to the last operation in line for an inode; give what counts."""
        other = self._put_offs.pop(attr.ino, None)
        node.attr = attr if other is None or other.version < attr.version else other
        return node.attr

    def drop_put_off(self, ino: int) -> None:
        """Forget replies that were put off."""
        self._put_offs.pop(ino, None)

    def change_name(self, parent: int, name: Name, token: int) -> None:
        """Take in what an own mutation made of a name; see `learn_change`."""
        node = self._nodes.get(parent)
        if node is not None and node.modes & _DATA and self._fences.passes(token, parent):
            self.learn_name(parent, name, token)
        else:
            self.unlearn_name(parent, name.name)

    def set_name(self, node: Node, name: Name) -> None:
        """Take in what an operation carried out here made of a name."""
        old = node.entries.pop(name.name, None)
        if old is None:
            self._entries += 1
        node.entries[name.name] = name  # the latest is the last
        node.relist(old, name)
        if self._entries > self._entries_max:
            self._shrink()

    def grant_directory(self, ino: int, modes: int, token: int) -> bool:
        """Note a lease on a directory; False when it is not held (any more)."""
        node = self.use(ino)
        if not self._fences.passes(token, ino):
            return False
        if modes & Lease.READ:
            node = node or self.node(ino)
            node.modes |= Lease.READ
            self._session.keep(ino, Lease.READ)
        return node is not None and bool(node.modes & _DATA)

    def learn_name(self, parent: int, name: Name, token: int) -> None:
        """Take an entry (or an absence) in, where a lease covers it and nothing newer is known."""
        node = self._nodes.get(parent)
        if node is None or not node.modes & _DATA or not self._fences.passes(token, parent):
            return
        old = node.entries.get(name.name)
        if old is not None:
            if old.at > name.at:
                return
            if old.at == name.at and old.ino != name.ino:
                self.unlearn_name(parent, name.name)  # two operations of one batch: ask
                return
            if old.ino == name.ino and old.cookie and not name.cookie:
                name = msgspec.structs.replace(name, cookie=old.cookie)
            del node.entries[name.name]
        else:
            self._entries += 1
        node.entries[name.name] = name  # the latest is the last
        node.relist(old, name)
        if self._entries > self._entries_max:
            self._shrink()

    def unlearn_name(self, parent: int, name: bytes) -> None:
        """Forget what a directory says of a name; what was asked before does not get in either."""
        self._fences.close_ino(parent)
        node = self._nodes.get(parent)
        if node is not None:
            node.epoch = next(self._epochs)  # a listing under way would not have it
            node.complete = False
            node.listing = None
            if node.entries.pop(name, None) is not None:
                self._entries -= 1

    def touched(self, op: Any) -> Touched:
        """Tell what an operation changes."""
        return touched_by(op, self._leads_to)

    def _leads_to(self, parent: int, name: bytes) -> tuple[int, bool]:
        node = self._nodes.get(parent)
        found = node.entries.get(name) if node is not None else None
        if found is None or not found.ino:
            told = node and self.leased(node) and node.complete and node.decides(name)
            return 0, not found and not told
        attr = node.attr if (node := self._nodes.get(found.ino)) is not None else None
        return found.ino, attr is None or attr.nlink <= 1 or found.kind == stat.S_IFDIR

    def unlearn(self, op: Any) -> tuple[int, ...]:
        """Forget what an own operation changed; give the inodes concerned."""
        touched = self.touched(op)
        for parent, name in touched.names:
            self.unlearn_name(parent, name)
        for ino in touched.inos:
            self._fences.close_ino(ino)
            node = self._nodes.get(ino)
            if node is not None:
                node.attr = None
                node.xattr_names = None
                node.xattrs = {}
        return touched.inos

    def learn_entry(self, parent: int, entry: Entry, at: int, token: int) -> None:
        """Take an entry as the server lists it in."""
        name = Name(entry.name, entry.ino, entry.kind, entry.cookie, at)
        self.learn_name(parent, name, token)

    def complete(self, ino: int, token: int, folded: NameFilter | None = None) -> None:
        """Note that every entry was learnt, or folded, since `token` was taken, under one lease."""
        node = self._nodes.get(ino)
        if node is not None and node.modes & _DATA and self._fences.passes(token, ino):
            node.complete = True
            node.folded = folded or node.folded

    # --- losing

    def forget(self, ino: int) -> None:
        """Drop what was learnt of an inode, and every mode on it."""
        self._fences.close_ino(ino)
        node = self._nodes.get(ino)
        if node is not None:
            self._clear(node)

    def forget_shard(self, shard: int) -> list[Node]:
        """Drop what was learnt from a shard; give its nodes."""
        nodes = [n for n in self._nodes.values() if n.shard == shard]
        for node in nodes:
            self._clear(node)
        return nodes

    def held(self, shard: int) -> list[Held]:
        """List the READ and WRITE leases held in a shard."""
        return [
            Held(n.ino, int(n.modes)) for n in self._nodes.values() if n.shard == shard and n.modes
        ]

    def _clear(self, node: Node) -> None:
        self._entries -= len(node.entries)
        node.entries = {}
        node.listing = node.folded = node.following = None
        node.complete = False
        node.attr = None
        node.atime_ns = 0
        node.xattr_names = None
        node.xattrs = {}
        node.modes = 0
        node.epoch = next(self._epochs)

    def tend(self) -> None:
        """Push out what was in use when it was too much; call now and then."""
        if len(self._nodes) > self._limits.nodes or self._entries > self._limits.entries:
            self._shrink()

    def _shrink(self) -> None:
        """Push out the least recently used; an eighth at once, so that it is rare.

        Where nodes in use leave it above the bound, it is tried again an eighth later, or by
        `tend`.
        """
        limits = self._limits
        if self._entries > limits.entries * 7 // 8:
            self._fold()
        self._push_out_oldest()
        self._nodes_max = max(limits.nodes, len(self._nodes) + limits.nodes // 8)
        self._entries_max = max(limits.entries, self._entries + limits.entries // 8)

    def _fold(self) -> None:
        """Drop the oldest absences of large delegated directories, then fold their oldest names.

        None of an operation in line; names only as far as half of the bound is left free.
        """
        kept = self._limits.entries_unfolded
        for node in self._nodes.values():
            if len(node.entries) < 2 * kept or not node.complete or not node.modes & Lease.WRITE:
                continue
            old = list(itertools.islice(node.entries.values(), len(node.entries) - kept))
            for name in old:
                if not name.ino:
                    del node.entries[name.name]
                    self._entries -= 1
            surplus = self._entries - self._limits.entries // 2
            if surplus < kept:
                continue
            for name in itertools.islice((n for n in old if n.ino), surplus):
                node.fold(name.name)
                self._entries -= 1

    def _push_out_oldest(self) -> None:
        nodes_goal = self._limits.nodes * 7 // 8
        entries_goal = self._limits.entries * 7 // 8
        for ino in list(self._nodes):
            if len(self._nodes) <= nodes_goal and self._entries <= entries_goal:
                return
            node = self._nodes[ino]
            if node.pins:
                continue
            if len(self._nodes) <= nodes_goal and not node.entries:
                continue
            self._push_out(node)

    def _push_out(self, node: Node) -> None:
        modes = node.modes
        self._clear(node)
        del self._nodes[node.ino]
        if modes & Lease.WRITE:
            self._evicted(node.ino)
        if modes & Lease.READ:
            self._session.part(node.ino)


def _with_cookies(names: list[Name]) -> list[Name] | None:
    """Give new names the cookies they get in the shard; None where that cannot be told here."""
    hashes: set[int] = set()
    out: list[Name] = []
    for name in names:
        hash58 = keys.name_hash(name.name)
        if hash58 in hashes:
            return None  # the shard chose their places by the order in which they came and went
        hashes.add(hash58)
        known = name.cookie != UNKNOWN_COOKIE
        cookie = name.cookie if known else keys.cookie(hash58, 0)
        out.append(msgspec.structs.replace(name, cookie=cookie))
    return out
