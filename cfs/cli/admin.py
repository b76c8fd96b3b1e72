"""`cfs admin`: what an operator does to a running cluster."""

from __future__ import annotations

import typer

from cfs.cli import jobs, scrub

app = typer.Typer(help="Look after a running cluster.", no_args_is_help=True)
app.command("jobs")(jobs.list_jobs)
app.add_typer(jobs.app, name="job")
app.command("scrub")(scrub.scrub)
app.command("findings")(scrub.findings)
