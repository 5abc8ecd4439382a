"""What is foreign is printed as it is, by construction."""

import ast
import io
from pathlib import Path

import pytest
from rich.panel import Panel
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from core.cli import terminal as module
from core.cli.terminal import printable, progress_text, terminal

CLI = Path(module.__file__).parent
HOSTILE = "[/INST] [bold]x[/] :smile: \x1b]0;title\x07\x1b[31m\x9b2J a\tb"


@pytest.fixture
def written():
    console = terminal()
    console.file = io.StringIO()
    console.width = 200
    return console, console.file.getvalue


def check(text):
    assert "[/INST] [bold]x[/] :smile:" in text
    assert not {"\x1b", "\x07", "\x9b"} & set(text)


def table(*cells):
    drawn = Table("head [/x]", title=HOSTILE, caption=HOSTILE)
    drawn.add_row(*cells)
    return drawn


@pytest.mark.parametrize(
    "content",
    [
        HOSTILE,
        Text(HOSTILE, "red"),
        table(HOSTILE),
        table(Text(HOSTILE)),
        Panel(HOSTILE),
        Panel(Text(HOSTILE)),
    ],
)
def test_nothing_printed_is_interpreted(written, content):
    console, text = written
    console.print(content)
    check(text())


def test_neither_is_what_is_written_while_it_comes_a_rule_or_a_status(written):
    console, text = written
    console.out(HOSTILE, end="")
    check(text())
    console.rule(HOSTILE)
    console.out(HOSTILE, style="dim", end="")
    with console.status(HOSTILE) as status:
        status.update(HOSTILE)
    check(text())


def test_neither_is_what_stands_beside_a_progress_bar(written):
    console, text = written
    with Progress(progress_text(), console=console) as bar:
        bar.add_task(HOSTILE)
    check(text())


def test_line_ends_and_tabs_stay():
    assert printable("a\r\nb\tc\nd") == "a\nb\tc\nd"
    assert printable("\x1b[2J\x7f\x80") == "␛[2J␡\ufffd"
    assert printable("half \ud83d") == "half ?"


def test_commands_write_through_the_terminal_alone():
    """A console, markup or a column of another making would read foreign text as markup."""
    wrong = []
    for path in CLI.rglob("*.py"):
        if path.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id in ("Console", "TextColumn", "Status"):
                    wrong.append(f"{path.name}:{node.lineno}")
            elif isinstance(node, ast.ImportFrom) and node.module == "rich.markup":
                wrong.append(f"{path.name}:{node.lineno}")
    assert not wrong
