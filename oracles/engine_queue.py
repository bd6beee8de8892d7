"""What all queues have in common: one folder and one job per task, found again after a restart, each ending in one label.

The order of things is what makes it safe. The task is written before its job is submitted; the job carries the task's key as its
name, so that a job whose number was not written down (the driver died in between) is recognised in the queue; and the worker claims
the task before it starts, so that even a job submitted twice is done once.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from al_crystal.crystal import Label
from oracles.engine_settings import JobflowRemoteSettings, SlurmSettings
from oracles.engines import CanLabel, Task, failed, signed
from oracles.tasks import ERROR, LABEL, STARTED, TASK, encode, key_of, write_whole

JOB = "job.json"
UNSEEN_POLLS = 3
"""A job that has ended without a label is looked at this often before it is given up: shared file systems are slow to show files."""


class EngineUnavailable(RuntimeError):
    """Labels cannot be computed here at all; the message says why and how to mend it. Nothing is lost: run the same command again."""


class StillRunning(Exception):
    """Not an error: jobs run on without the driver; the argument says how many."""


class QueueUnreachable(RuntimeError):
    """The queue does not answer at the moment; asking again later may help."""


class JobState(NamedTuple):
    """What the queue says of a job: ``pending``, ``running`` or ``over``, its own word for it, and its reason if it states one.

    ``running_s`` only where the queue does not watch over the time limit itself.
    """

    phase: str
    word: str
    reason: str
    name: str
    running_s: float | None = None


@dataclass
class Ticket:
    """A task on its way."""

    key: str
    folder: Path
    item: Any
    attempt: int
    job: str | None = None
    submitted: float = 0.0
    polls_after_end: int = 0
    cancelled: str = ""

    @property
    def job_name(self) -> str:
        """Names the task of this very folder: another campaign may hold the same task."""
        return f"al-{key_of(str(self.folder))}"


class QueueEngine(ABC):
    """An engine over a queue; subclasses know how to submit, look and cancel."""

    kind: str

    def __init__(self, settings: SlurmSettings | JobflowRemoteSettings, folder: Path) -> None:
        """``folder`` holds one subfolder per task, on a file system that the workers see."""
        self.settings, self.folder = settings, folder.resolve()
        self._unreachable_since: float | None = None

    @abstractmethod
    def problems(self) -> list[str]:
        """What stands in the way of submitting here, each with its fix; empty when nothing does."""

    @abstractmethod
    def submit(self, ticket: Ticket) -> str:
        """Submit the job of a task and return its number.

        Raises:
            QueueUnreachable: to try again later. EngineUnavailable: the queue refuses, and will go on refusing.
        """

    @abstractmethod
    def look(self) -> dict[str, JobState]:
        """The jobs the queue knows, by number.

        Raises:
            QueueUnreachable: it does not answer.
        """

    @abstractmethod
    def cancel(self, job: str) -> None:
        """Ask the queue to cancel a job; no error if it is over already."""

    def fetch(self, ticket: Ticket) -> None:
        """Bring the result of a job that is over into the task's folder; nothing to do where the worker writes there itself."""
        return

    def output(self, ticket: Ticket) -> str:
        """The last lines of what the job printed."""
        return ""

    def run(self, labeller: CanLabel, tasks: Iterable[Task]) -> Iterator[Label]:
        """One label per task, in the order in which they are done; a task that was submitted before is waited for, not repeated."""
        tickets = self._tickets(labeller, tasks)
        while tickets:
            labels, tickets = self._advance(tickets)
            yield from labels
            if tickets and not labels:
                time.sleep(self.settings.poll_s)

    def advance(self, labeller: CanLabel, tasks: Iterable[Task]) -> tuple[list[Label], int]:
        """Collect what is done, submit what is missing, and return at once: the labels, and how many tasks are still out."""
        labels, tickets = self._advance(self._tickets(labeller, tasks))
        while any(ticket.polls_after_end for ticket in tickets):
            time.sleep(min(self.settings.poll_s, 5.0))
            more, tickets = self._advance(tickets)
            labels += more
        return labels, len(tickets)

    def _tickets(self, labeller: CanLabel, tasks: Iterable[Task]) -> list[Ticket]:
        """Write every task down (once), and remember the jobs of those that were submitted by an earlier driver."""
        tickets = []
        for item, attempt in tasks:
            text = encode(labeller, item, attempt)
            key = key_of(text)
            folder = self.folder / key
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / TASK).exists():
                write_whole(folder / TASK, text)
            ticket = Ticket(key, folder, item, attempt)
            if (folder / JOB).exists():
                self._recall(ticket)
            tickets.append(ticket)
        return tickets

    def _recall(self, ticket: Ticket) -> None:
        record = json.loads((ticket.folder / JOB).read_text())
        ticket.job, ticket.submitted = record["job"], record["submitted"]
        ticket.cancelled = record.get("cancelled", "")

    def _record(self, ticket: Ticket) -> None:
        record = {"job": ticket.job, "submitted": ticket.submitted, "cancelled": ticket.cancelled}
        write_whole(ticket.folder / JOB, json.dumps(record))

    def _advance(self, tickets: list[Ticket]) -> tuple[list[Label], list[Ticket]]:
        """One look at the queue: the labels that are there, and the tickets that are left."""
        try:
            states = self.look()
            self._adopt(tickets, states)
            labels, left = [], []
            for ticket in tickets:
                label = self._collect(ticket, states)
                left += [ticket] if label is None else []
                labels += [label] if label is not None else []
            self._submit(left)
            self._unreachable_since = None
            return labels, left
        except QueueUnreachable as error:
            now = time.monotonic()
            self._unreachable_since = self._unreachable_since or now
            if now - self._unreachable_since > self.settings.patience_s:
                raise EngineUnavailable(
                    f"{self.kind}: the queue has been out of reach for {self.settings.patience_s:g} s: {error}\n"
                    "  kept: every label; jobs that run go on, and are found again\n  fix: run the same command when the queue is back"
                ) from error
            return [], tickets

    def _adopt(self, tickets: list[Ticket], states: dict[str, JobState]) -> None:
        """Find the jobs that an earlier driver submitted without living to write their numbers down."""
        numbers = {state.name: job for job, state in states.items() if state.phase != "over"}
        for ticket in tickets:
            if ticket.job is not None:
                continue
            job = numbers.get(ticket.job_name)
            if job is None and (ticket.folder / STARTED).exists():
                job = str(json.loads((ticket.folder / STARTED).read_text() or "{}").get("job", "unknown"))
            if job is not None:
                ticket.job, ticket.submitted = job, time.time()
                self._record(ticket)

    def _submit(self, tickets: list[Ticket]) -> None:
        """Fill the queue. Until a first worker has started, one job alone is sent: a broken environment costs one job, not all."""
        waiting = [ticket for ticket in tickets if ticket.job is None]
        out = len(tickets) - len(waiting)
        room = (self.settings.max_jobs if self._ever_started() else 1) - out
        for ticket in waiting[: max(0, room)]:
            ticket.job, ticket.submitted = self.submit(ticket), time.time()
            self._record(ticket)

    def _ever_started(self) -> bool:
        marker = self.folder / "worker-has-started"
        if not marker.exists() and any(self.folder.glob(f"*/{STARTED}")):
            marker.touch()
        return marker.exists()

    def _collect(self, ticket: Ticket, states: dict[str, JobState]) -> Label | None:
        """The label of a ticket, or None while there is hope of one."""
        state = states.get(ticket.job or "")
        if ticket.job is not None and (state is None or state.phase == "over"):
            self.fetch(ticket)
        if (ticket.folder / LABEL).exists():
            label = Label.model_validate_json((ticket.folder / LABEL).read_text())
            return signed(label, {"kind": self.kind, "job": ticket.job})
        if (ticket.folder / ERROR).exists():
            return self._failed(ticket, json.loads((ticket.folder / ERROR).read_text())["reason"])
        if ticket.job is None:
            return None
        if state is None or state.phase == "over":
            ticket.polls_after_end += 1
            if ticket.polls_after_end < UNSEEN_POLLS:
                return None
            return self._ended(ticket, state)
        self._enforce_limits(ticket, state)
        return None

    def _enforce_limits(self, ticket: Ticket, state: JobState) -> None:
        if ticket.cancelled or ticket.job is None:
            return
        waited = time.time() - ticket.submitted
        if state.phase == "pending" and waited > self.settings.pending_limit_s:
            because = f" ({state.reason})" if state.reason not in ("", "None") else ""
            ticket.cancelled = f"not started within {self.settings.pending_limit_s:g} s{because}; cancelled (pending_limit_s)"
        elif state.running_s is not None and state.running_s > self.settings.time_limit_s:
            ticket.cancelled = f"the time limit of {self.settings.time_limit_s:g} s was hit (time_limit_s)"
        if ticket.cancelled:
            self._record(ticket)
            self.cancel(ticket.job)

    def _ended(self, ticket: Ticket, state: JobState | None) -> Label:
        """What to say of a job that is over and has left nothing."""
        if ticket.cancelled:
            return self._failed(ticket, ticket.cancelled)
        if state is None:
            return self._failed(ticket, f"job {ticket.job} has left the queue without a label (killed, or its node was lost)")
        if state.word == "FAILED" and not (ticket.folder / STARTED).exists() and not self._ever_started():
            (ticket.folder / JOB).unlink()  # it did nothing: the next driver sends another
            raise EngineUnavailable(
                f"{self.kind}: the first job ({ticket.job}) ended before our worker could start; no further jobs were sent\n"
                f"  its output ({ticket.folder}): {self.output(ticket) or 'none'}\n"
                "  likely: the worker's Python cannot import us\n"
                "  fix: correct `engine.environment` and `engine.python`, and run the same command again"
            )
        if state.word == "TIMEOUT":
            return self._failed(ticket, f"the walltime of {self.settings.time_limit_s:g} s was hit (time_limit_s)")
        because = f" ({state.reason})" if state.reason not in ("", "None") else ""
        last = f"; last output: {self.output(ticket)}" if self.output(ticket) else ""
        return self._failed(ticket, f"job {ticket.job} ended without a label: {state.word}{because}{last}")

    def _failed(self, ticket: Ticket, reason: str) -> Label:
        return signed(failed(ticket.item, ticket.attempt, reason), {"kind": self.kind, "job": ticket.job})
