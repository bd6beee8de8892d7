"""What the user sees while a campaign runs: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class Bar(Protocol):
    """Where a stage reports how far it is."""

    def __call__(self, done: int, note: str = "") -> None:
        """``done`` steps of the stage's total are behind; ``note`` is a short remark."""


class Terminal:
    """Lines, tables and progress through rich; without a terminal, only lines that are worth keeping in a log."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(highlight=False, soft_wrap=True)
        if not self.console.is_terminal:
            self.console.width = 160  # a log has no edge to fit into
        self._start = time.monotonic()

    def line(self, text: str, style: str = "") -> None:
        """One line, with the minutes and seconds since the start."""
        seconds = int(time.monotonic() - self._start)
        self.console.print(f"[dim]{seconds // 60:3d}:{seconds % 60:02d}[/dim]  ", end="")
        self.console.print(text, style=style, markup=False)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A small table; numbers are the caller's to format."""
        from rich.table import Table

        table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Bar]:
        """A stage of ``total`` steps: a live bar on a terminal, nothing elsewhere (the stage's closing line says it all)."""
        if not self.console.is_terminal:
            yield lambda done, note="": None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        time_left, note = TimeRemainingColumn(), TextColumn("{task.fields[note]}")
        columns = (TextColumn("       {task.description}"), BarColumn(), MofNCompleteColumn(), time_left, note)
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=total, note="")
            yield lambda done, note="": progress.update(task, completed=done, note=note)
