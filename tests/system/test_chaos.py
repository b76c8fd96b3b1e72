"""A short one of the scenarios of `make chaos`: real processes in namespaces, several faults."""

from tests.chaos.run import run
from tests.system.cluster import full


def test_histories_are_explained_while_machines_fail():
    report = run("mixed", seconds=full(60, 14), seed=5)
    print(report.text())
    assert not report.violations, report.text() + "\n" + "\n".join(report.violations)
    assert report.answered > 100, report.text()
