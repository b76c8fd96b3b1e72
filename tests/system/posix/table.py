"""How a row is written: `user | setup | calls | outcome`.

Setup is done by root and must succeed. The calls are the user's; the outcome is that of the last:
the name of an errno, `ok`, or the text it gives. Calls are separated by `;`, words by blanks.

    ""       the empty path
    @255     a name of 255 bytes
    ~4095    `././…/`, so that with the name behind it the path has 4,095 bytes
"""

from typing import NamedTuple


class Row(NamedTuple):
    user: str
    setup: str
    calls: str
    expected: str

    def __str__(self):
        return " | ".join(self)


def rows(text):
    """Read a table; a line that begins with # is a comment."""
    found = []
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            fields = [field.strip() for field in line.split("|")]
            assert len(fields) == 4, line
            found.append(Row(*fields))
    return found


def expand(word):
    """Give the path or word that is meant."""
    if word == '""':
        return ""
    if "@" in word and word.partition("@")[2][:3].isdigit():
        before, _, after = word.partition("@")
        return before + "n" * int(after[:3]) + after[3:]
    if word.startswith("~") and word[1:5].isdigit():
        length, name = int(word[1:5]), word[5:]
        room = length - len(name)
        return "./" * (room // 2 - 1) + "./" + "/" * (room % 2) + name
    return word
