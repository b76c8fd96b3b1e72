"""`cfs clone`: a writable copy of a file or tree that shares its data with the original."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cfs.cli.mounted import place_of
from cfs.cli.taking_over import run_shown
from cfs.cli.trees import Done, alike, take_over
from cfs.core.errors import Refused


def clone(
    source: Annotated[Path, typer.Argument(help="On a mount; in .snapshots too.", parser=Path)],
    target: Annotated[Path, typer.Argument(help="On the same mount; must not exist.", parser=Path)],
    resume: Annotated[  # noqa: FBT002
        bool, typer.Option("--resume", help="Go on with a clone that was interrupted.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: events.")] = False,  # noqa: FBT002
) -> None:
    """Clone a file or directory: contents by reference, so no data is copied or takes room.

    A tree that others change meanwhile is cloned as it is met; clone it from a snapshot instead.
    """
    from_, to = place_of(source), place_of(target)
    if from_.root != to.root:
        raise Refused(f"{source} and {target} are on different mounts; copy with cp")
    if not os.path.lexists(from_.path):
        raise Refused(f"{source} does not exist")
    if os.path.lexists(to.path) and not resume:
        raise Refused(f"{target} exists; choose another name, or --resume to go on with it")
    if from_.path == to.path or from_.path in to.path.parents:
        raise Refused(f"{target} lies inside {source}; choose a place outside it")
    done = Done()
    run_shown(
        f"cloning {from_.inside}",
        lambda tell: take_over(from_.path, to.path, same=alike, remove=False, done=done, tell=tell),
        done,
        as_json=as_json,
    )
