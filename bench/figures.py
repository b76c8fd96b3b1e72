"""The arithmetic and the tables of the comparison. Pure.

A run is `{row: rate or error text}`, as fsbench prints it; every rate is better when higher. A
figure is the median over rounds. The floors: sequential write and read reach gluster disperse; no
other row lies below a third of it; rows of metadata reach nine tenths of the better of gluster
replica 3 and MooseFS goal 2. A floor stands when its peers were measured. Where the bare
pass-through lies below the same floor in the same rounds, FUSE in Python cannot reach it here: the
row is reported as such, not as missed.
"""

from __future__ import annotations

import statistics

ROWS = (
    "seq_write", "seq_read", "warm_read", "rand_read_4k", "sync_write_4k", "rand_write_4k",
    "create", "stat_cold", "ls_l", "rename", "unlink", "create_par8", "small_write", "small_read",
    "untar", "grep_r", "rm_rf",
)  # fmt: skip
BULK = {"seq_write", "seq_read", "warm_read"}
NEEDS = {
    "seq_read": ("seq_write",),
    "warm_read": ("seq_write",),
    "rand_read_4k": ("seq_write",),
    "rand_write_4k": ("seq_write",),
    "stat_cold": ("create",),
    "ls_l": ("create",),
    "rename": ("create",),
    "unlink": ("create", "rename"),
    "small_read": ("small_write",),
    "grep_r": ("untar",),
    "rm_rf": ("untar",),
}
EQUAL = {"seq_write", "seq_read"}
OTHERS_SHARE = 1 / 3
METADATA = {
    "create", "stat_cold", "ls_l", "rename", "unlink", "small_write", "small_read", "untar",
    "grep_r", "rm_rf",
}  # fmt: skip
METADATA_SHARE = 0.9
METADATA_PEERS = {"gluster-replica": "gluster replica", "moosefs2": "MooseFS"}
PROBES = (
    ("fsyncs", "fsyncs/s (4 KiB)"),
    ("mloops", "CPU (Mloop/s)"),
    ("load", "load average"),
)


def with_needs(rows):
    """Give the rows with those they build on, in the order fsbench runs them."""
    wanted = set(rows)
    for row in rows:
        wanted.update(NEEDS.get(row, ()))
    return [r for r in ROWS if r in wanted]


def medians(runs):
    """Give the median of each row over runs; None for a row without a rate."""
    rows = [r for r in ROWS if any(r in run for run in runs)]
    found = {}
    for row in rows:
        rates = [run[row] for run in runs if isinstance(run.get(row), int | float)]
        found[row] = statistics.median(rates) if rates else None
    return found


def ratio(one, other):
    """Give one / other; None when either is missing or the divisor is 0."""
    return one / other if one is not None and other else None


def floors_of(row, found):
    """Give `(name, rate)` of every floor this row has, by the medians of each system."""
    floors = []
    disperse = found.get("gluster", {}).get(row)
    if disperse is not None:
        equal = row in EQUAL
        name = "= gluster" if equal else "gluster / 3"
        floors.append((name, disperse * (1 if equal else OTHERS_SHARE)))
    rates = [(found.get(key, {}).get(row) or 0.0, name) for key, name in METADATA_PEERS.items()]
    best, name = max(rates)
    if row in METADATA and best:
        floors.append((f"{METADATA_SHARE} {name}", best * METADATA_SHARE))
    return floors


def verdict(row, found):
    """Say whether a row meets its floors."""
    rate, bare = found.get("cfs", {}).get(row), found.get("pass", {}).get(row)
    if rate is None:
        return "failed"
    said = [_judge(name, floor, rate, bare) for name, floor in floors_of(row, found)]
    return "; ".join(said) or "no peer"


def _judge(name, floor, rate, bare):
    if rate >= floor:
        return f"meets {name}"
    if bare is not None and bare < floor:
        return f"below {name}; so is the pass-through"
    return f"**below {name}**"


def worst(found, count):
    """Give the rows farthest below their floors; without a peer, below the pass-through."""
    cfs, bare = found.get("cfs", {}), found.get("pass", {})

    def base(row):
        return max((rate for _, rate in floors_of(row, found)), default=bare.get(row))

    return sorted((r for r in cfs if base(r)), key=lambda r: ratio(cfs.get(r), base(r)) or 0.0)[
        :count
    ]


def number(value):
    """Write a rate or ratio with what digits it bears."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def markdown(head, lines, left=1):
    """Make a table; the first `left` columns and the last are text."""
    rule = [":---" if i < left else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines)) + "\n"


def spread(runs, row):
    """Write the lowest and highest rate of a row over the runs, or what failed."""
    rates = [r[row] for r in runs if isinstance(r.get(row), int | float)]
    errors = [r[row] for r in runs if isinstance(r.get(row), str)]
    text = f"{number(min(rates))} to {number(max(rates))}" if rates else ""
    return "; ".join([text, *errors] if text else errors) or "-"


def figures_table(runs_by_key, labels):
    """Make the main table: medians, ratios, floors. `runs_by_key` includes `cfs`."""
    found = {key: medians(runs) for key, runs in runs_by_key.items()}
    others = [key for key in found if key not in {"cfs", "local"}]
    head = ["row", *(labels[k] for k in found), *(f"CFS / {labels[k]}" for k in others), "floor"]
    lines = []
    for row in (r for r in ROWS if r in found["cfs"]):
        unit = "MB/s" if row in BULK else "/s"
        cells = [number(found[k].get(row)) for k in found]
        ratios = [number(ratio(found["cfs"][row], found[k].get(row))) for k in others]
        lines.append([f"{row} ({unit})", *cells, *ratios, verdict(row, found)])
    return markdown(head, lines)


def spread_table(runs_by_key, labels):
    """Make the table of lowest and highest rates."""
    rows = [r for r in ROWS if any(r in run for runs in runs_by_key.values() for run in runs)]
    lines = [[row, *(spread(runs, row) for runs in runs_by_key.values())] for row in rows]
    return markdown(["row", *(labels[k] for k in runs_by_key)], lines)


def probe_table(probes, labels):
    """Make the table of what the machine could do before and after each run."""
    lines = [
        [
            f"{labels[p['key']]} {p['round']}",
            *(f"{number(p['before'][k])} → {number(p['after'][k])}" for k, _ in PROBES),
        ]
        for p in probes
    ]
    return markdown(["run", *(name for _, name in PROBES)], lines)


def between(text, begin, end, new):
    """Replace what stands between two marks; append both when they are missing."""
    if begin not in text or end not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}\n{new}{end}{tail}"
