"""Manual pages, made from the Typer tree: `python -m cfs.cli.manual DIRECTORY`.

One page a command, `cfs-COMMAND.1`, and `cfs.1` for all. A test compares them with what is
committed, so they cannot drift from the commands.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import typer.main

from cfs.cli.main import app

SECTION = "1"

EXIT_CODES = (
    ("0", "done"),
    ("1", "refused by the file system or the cluster"),
    ("2", "wrong usage or configuration"),
    ("3", "a process could not be started or stopped"),
    ("4", "the cluster does not answer"),
)


def pages() -> dict[str, str]:
    """Give every page: file name to roff text."""
    root: Any = typer.main.get_command(app)
    made: dict[str, str] = {}
    commands = list(_walk(root, "cfs"))
    for name, command in commands:
        made[f"{name.replace(' ', '-')}.{SECTION}"] = _page(name, command)
    made[f"cfs.{SECTION}"] = _overview(root, commands)
    return made


def _walk(command: Any, name: str) -> Any:
    for word, child in sorted(getattr(command, "commands", {}).items()):
        full = f"{name} {word}"
        if hasattr(child, "commands"):
            yield from _walk(child, full)
        else:
            yield full, child


def _overview(root: Any, commands: list[tuple[str, Any]]) -> str:
    lines = _head("cfs", _first(root.help or ""))
    lines += [".SH SYNOPSIS", ".B cfs", ".I COMMAND", "[\\fIOPTIONS\\fR]", ".SH COMMANDS"]
    for name, command in commands:
        page = name.replace(" ", "-")
        lines += [".TP", f".BR {_escape(page)} (1)", _escape(_first(command.help or ""))]
    lines += [".SH OPTIONS", ".TP", ".B \\-\\-install\\-completion"]
    lines += ["Install completion for the current shell."]
    return _tail(lines)


def _page(name: str, command: Any) -> str:
    text = inspect.cleandoc(command.help or "")
    lines = _head(name.replace(" ", "-"), _first(text))
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    lines += [".SH SYNOPSIS", f".B {_escape(name)}", "[\\fIOPTIONS\\fR]"]
    lines += [f".I {_escape(str(a.name).upper())}" for a in arguments]
    lines += [".SH DESCRIPTION", *[_escape(line) if line else ".PP" for line in text.split("\n")]]
    if arguments or options:
        lines.append(".SH OPTIONS")
    for argument in arguments:
        shown = _escape(str(argument.name).upper())
        lines += [".TP", f".I {shown}", _escape(argument.help or "")]
    for option in options:
        value = "" if option.is_flag else f" \\fI{_escape(str(option.name).upper())}\\fR"
        names = ", ".join(f"\\fB{_escape(o)}\\fR" for o in option.opts)
        lines += [".TP", names + value, _escape((option.help or "") + _note(option))]
    return _tail(lines)


def _note(option: Any) -> str:
    if option.required:
        return " Required."
    default = option.default
    if default in (None, "", False) or callable(default) or option.is_flag:
        return ""
    return f" Default: {default}."


def _head(name: str, summary: str) -> list[str]:
    return [
        f'.TH {name.upper()} {SECTION} "" "CFS" "CFS manual"',
        ".SH NAME",
        f"{_escape(name)} \\- {_escape(summary.rstrip('.'))}",
    ]


def _tail(lines: list[str]) -> str:
    lines.append(".SH EXIT STATUS")
    for code, meaning in EXIT_CODES:
        lines += [".TP", f".B {code}", _escape(meaning)]
    lines += [".SH SEE ALSO", ".BR cfs (1),", ".BR cfs\\-glossary (7)"]
    return "\n".join(lines) + "\n"


def _first(text: str) -> str:
    return text.strip().split("\n")[0]


def _escape(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("-", "\\-")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped


def write(directory: Path) -> None:
    """Write every page into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (directory / name).write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
