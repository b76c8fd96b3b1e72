"""Findings and events: bounded, named once, and following from what took effect."""

from cfs.core.api.cluster import Node, NodeState, Profile, Role
from cfs.core.api.scrub import Finding
from cfs.core.kv import MemoryStore
from cfs.core.root import commands, events, findings
from cfs.core.root.findings import FindingState
from cfs.core.root.machine import RootMachine

NODE = Node(
    node_id=1, name="m1", role=Role.META, host="h", port=1, domain="d", state=NodeState.IN, serial=9
)


def made():
    """A root group with a cluster in it."""
    store = MemoryStore()
    apply(
        store,
        commands.CreateCluster(
            cluster_id=b"C" * 16, name="c", site=0, shard_count=1, placement_count=1,
            profile=Profile(2, 1), ca_bundle=b"", created_ms=1, node=NODE,
            certificate_expires_ms=1, secrets={}, volume_key=b"k",
        ),
    )  # fmt: skip
    return store


def apply(store, command):
    """Apply a command; give its number."""
    return RootMachine().apply(store, 1, commands.encode(command)).unwrap()


def note(store, *keys, at, repaired=False, kind="fragment", where="s1 disk"):
    """Note findings of these keys."""
    found = tuple(
        Finding(kind=kind, key=key, where=where, detail="bad", repaired=repaired) for key in keys
    )
    return apply(store, commands.NoteFindings(findings=found, now_ms=at))


def test_a_finding_is_named_once_and_begins_anew_after_a_repair():
    store = made()
    assert note(store, "a", at=10) == 1
    assert note(store, "a", at=20) == 0
    (found,) = findings.read_findings(store)
    assert (found.since_ms, found.seen_ms, found.count) == (10, 20, 2)
    note(store, "a", at=30, repaired=True)
    assert findings.read_findings(store)[0].state == FindingState.REPAIRED
    note(store, "a", at=40)
    (found,) = findings.read_findings(store)
    assert (found.since_ms, found.state) == (40, FindingState.OPEN)


def test_what_a_whole_look_does_not_find_again_is_gone():
    store = made()
    note(store, "a", "b", at=10)
    note(store, "c", at=10, kind="replica")
    note(store, "d", at=10, where="s2 disk")
    note(store, "b", at=30)
    close = commands.CloseFindings(kinds=("fragment",), before_ms=20, where=("s1",))
    assert apply(store, close) == 1
    states = {f.key: f.state for f in findings.read_findings(store)}
    assert states["a"] == FindingState.GONE
    assert {states[k] for k in "bcd"} == {FindingState.OPEN}


def test_findings_are_bounded_and_closed_ones_go_first():
    store = made()
    note(store, "old", at=1, repaired=True)
    for start in range(0, findings.KEPT_MAX + 100, 100):
        note(store, *(f"k{n:05}" for n in range(start, start + 100)), at=5 + start)
    kept = findings.read_findings(store)
    assert len(kept) == findings.KEPT_MAX
    assert "old" not in {f.key for f in kept}
    assert findings.overflow(store) == 100


def test_events_follow_from_what_took_effect_and_are_bounded():
    store = made()
    change = commands.StateChange(1, "in", "draining")
    apply(store, commands.SetStates(changes=(change,), now_ms=77))
    refused = RootMachine().apply(
        store, 1, commands.encode(commands.SetStates(changes=(change,), now_ms=78))
    )
    assert refused.error is not None
    told = events.read_events(store, 0, 100)
    assert [e.number for e in told] == list(range(1, len(told) + 1))
    assert told[-1].text == "m1: in -> draining"
    assert told[-1].at_ms == 77
    for number in range(events.KEPT_MAX + 5):
        apply(store, commands.NoteEvent(kind="leader", text=str(number), now_ms=number))
    kept = events.read_events(store, 0, 10**6)
    assert len(kept) == events.KEPT_MAX
    assert kept[-1].number == events.last_number(store)
