"""The arithmetic and the tables of the comparison. Pure.

A run is `{row: rate or error text}`, as fsbench prints it; every rate is better when higher. A
figure is the median over rounds. The floors: sequential write and read reach gluster disperse; no
other row lies below a third of it. Where the bare pass-through lies below the same floor in the
same rounds, FUSE in Python cannot reach it here: the row is reported as such, not as missed.
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


def floor_of(row, gluster):
    """Give the rate asked for in this row; None without a figure of gluster."""
    rate = gluster.get(row)
    return None if rate is None else rate * (1 if row in EQUAL else OTHERS_SHARE)


def verdict(row, cfs, gluster, passthrough):
    """Say whether a row meets its floor."""
    floor, rate, bare = floor_of(row, gluster), cfs.get(row), passthrough.get(row)
    if rate is None:
        return "failed"
    if floor is None:
        return "no peer"
    name = "= gluster" if row in EQUAL else "gluster / 3"
    if rate >= floor:
        return f"meets {name}"
    if bare is not None and bare < floor:
        return f"below {name}; so is the pass-through"
    return f"**below {name}**"


def worst(cfs, gluster, passthrough, count):
    """Give the rows farthest below their floors; without a peer, below the pass-through."""

    def distance(row):
        base = floor_of(row, gluster) or passthrough.get(row)
        return ratio(cfs.get(row), base) or 0.0

    judged = [r for r in cfs if floor_of(r, gluster) or passthrough.get(r)]
    return sorted(judged, key=distance)[:count]


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
    cfs, gluster, bare = (found.get(k, {}) for k in ("cfs", "gluster", "pass"))
    head = ["row", *(labels[k] for k in found), "CFS / gluster", "CFS / pass-through", "floor"]
    lines = []
    for row in (r for r in ROWS if r in cfs):
        unit = "MB/s" if row in BULK else "/s"
        cells = [number(found[k].get(row)) for k in found]
        ratios = [number(ratio(cfs[row], other.get(row))) for other in (gluster, bare)]
        lines.append([f"{row} ({unit})", *cells, *ratios, verdict(row, cfs, gluster, bare)])
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
