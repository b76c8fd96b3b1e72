from pathlib import Path

from cfs.cli.manual import pages

MAN = Path(__file__).parents[3] / "man"


def test_manual_pages_say_what_the_commands_say():
    made = pages()
    committed = {p.name: p.read_text() for p in MAN.glob("*.1")}
    assert committed == made, "run 'make man'"
