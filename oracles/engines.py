"""Where labels are computed: in this process, or in worker processes that may hang, crash or run out of memory without harm.

An engine is a class with ``run``; it never changes what a label says, only where it is computed and what happens when that goes
wrong.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from typing import TYPE_CHECKING, Any, Protocol

from al_crystal.crystal import Label
from oracles.engine_settings import EngineSettings, InlineSettings, LocalSettings, SlurmSettings

if TYPE_CHECKING:
    from pathlib import Path


class Identified(Protocol):
    """What is labelled: a :class:`~al_crystal.crystal.Crystal`, or a structure on its way to the next level of theory."""

    @property
    def id(self) -> str:
        """The id that its label carries."""
        ...


Task = tuple[Any, int]
"""What to label (:class:`Identified`) and the number of the attempt at it."""


class CanLabel(Protocol):
    """What an engine runs: a pydantic model or dataclass (queues write it as JSON), picklable, that labels one thing at a time.

    :class:`oracles.labelling.Labeller` labels crystals, :class:`oracles.dft.labelling.DftLabeller` relaxed structures.
    """

    def label(self, crystal: Any, attempt: int = 0, /) -> Label:
        """The label of a crystal; raising makes it a ``failed`` one."""
        ...


class Engine(Protocol):
    """Runs label tasks."""

    def run(self, labeller: CanLabel, tasks: Iterable[Task]) -> Iterator[Label]:
        """One label per task, in the order in which they are done."""
        ...

    def advance(self, labeller: CanLabel, tasks: Iterable[Task]) -> tuple[Iterable[Label], int]:
        """Labels that are done, and how many tasks go on without the driver (none, unless the engine is a queue)."""
        ...

    def problems(self) -> list[str]:
        """What stands in the way of this engine here, each with its fix; empty when nothing does."""
        ...


def make_engine(settings: EngineSettings, folder: Path) -> Engine:
    """The engine that the settings name; queues keep one subfolder of ``folder`` per task."""
    if isinstance(settings, InlineSettings):
        return InlineEngine()
    if isinstance(settings, LocalSettings):
        return LocalEngine(settings)
    if isinstance(settings, SlurmSettings):
        from oracles.engine_slurm import SlurmEngine

        return SlurmEngine(settings, folder)
    from oracles.engine_jobflow_remote import JobflowRemoteEngine

    return JobflowRemoteEngine(settings, folder)


class _WithoutQueue(ABC):
    """Engines whose work ends with the driver."""

    @abstractmethod
    def run(self, labeller: CanLabel, tasks: Iterable[Task]) -> Iterator[Label]:
        """See :meth:`Engine.run`."""

    def advance(self, labeller: CanLabel, tasks: Iterable[Task]) -> tuple[Iterable[Label], int]:
        """All labels, one by one: nothing goes on without the driver."""
        return self.run(labeller, tasks), 0

    def problems(self) -> list[str]:
        """None: Python is all it needs."""
        return []


class InlineEngine(_WithoutQueue):
    """One crystal after another in this process: an exception becomes a ``failed`` label, a crash ends the process."""

    def run(self, labeller: CanLabel, tasks: Iterable[Task]) -> Iterator[Label]:
        """See :meth:`Engine.run`."""
        for crystal, attempt in tasks:
            try:
                label = labeller.label(crystal, attempt)
            except Exception as error:  # the campaign goes on, whatever an oracle raises
                label = failed(crystal, attempt, one_line(error))
            yield signed(label, {"kind": "inline", "process": os.getpid()})


class LocalEngine(_WithoutQueue):
    """Worker processes that load the models once and take one crystal at a time, with limits of time and memory for each."""

    def __init__(self, settings: LocalSettings) -> None:
        """``settings``: workers, time_limit_s, memory_limit_gb."""
        self.settings = settings

    def run(self, labeller: CanLabel, tasks: Iterable[Task]) -> Iterator[Label]:
        """See :meth:`Engine.run`; the workers end with the iteration, finished or not."""
        import multiprocessing

        from pebble import ProcessPool

        pool = ProcessPool(
            max_workers=self.settings.workers,
            initializer=prepare_worker,
            initargs=(self.settings.memory_limit_gb, os.getpid()),
            context=multiprocessing.get_context("spawn"),  # forking a process that runs torch's threads can hang
        )
        pending: dict[Any, Task] = {}  # by future
        try:
            for crystal, attempt in tasks:
                future: Any = pool.schedule(work, args=(labeller, crystal, attempt), timeout=self.settings.time_limit_s)
                pending[future] = (crystal, attempt)
            while pending:
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield self._collect(future, *pending.pop(future))
        finally:
            pool.stop()
            pool.join()

    def _collect(self, future: Any, crystal: Identified, attempt: int) -> Label:
        """The worker's label, or a ``failed`` one that says how the worker came to its end."""
        from pebble import ProcessExpired

        error = future.exception()
        if error is None:
            return future.result()
        if isinstance(error, TimeoutError):
            reason = f"no label within the time limit of {self.settings.time_limit_s:g} s; the worker was ended"
        elif isinstance(error, ProcessExpired):
            reason = f"the worker died (exit code {error.exitcode}{_signal_name(error.exitcode)})"
        elif isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            reason = f"out of memory at the limit of {self.settings.memory_limit_gb:g} GB"
        else:
            reason = one_line(error)
        return signed(failed(crystal, attempt, reason), {"kind": "local"})


def failed(crystal: Identified, attempt: int, reason: str) -> Label:
    """A label that says why there is none; it may be tried again with the next attempt number."""
    return Label(crystal_id=crystal.id, status="failed", reason=reason, provenance={"attempt": attempt})


def prepare_worker(memory_limit_gb: float, parent: int) -> None:
    """Limit the memory of a worker, give torch one thread, and let the worker die with the driver (Linux)."""
    import ctypes
    import resource
    import signal
    import sys

    limit = int(memory_limit_gb * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)  # the driver died before the line above
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"  # read when torch is imported, which happens with the first task
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def work(labeller: CanLabel, crystal: Identified, attempt: int) -> Label:
    """What a worker does."""
    return signed(labeller.label(crystal, attempt), {"kind": "local", "process": os.getpid()})


def signed(label: Label, engine: dict[str, Any]) -> Label:
    """The label with the engine that computed it."""
    return label.model_copy(update={"provenance": label.provenance | {"engine": engine}})


def _signal_name(exit_code: int | None) -> str:
    import signal

    if exit_code is None or exit_code >= 0:
        return ""
    try:
        return f", {signal.Signals(-exit_code).name}"
    except ValueError:
        return ""


def one_line(error: BaseException) -> str:
    """An exception as a reason: its type and the first line of its message."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
