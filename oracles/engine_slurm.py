"""Slurm: one job per task, by its own commands (sbatch, squeue, scancel); nothing else is needed on the login node.

executorlib (1.11) was read and left: it does not catch errors of squeue in its scheduling thread (a controller that restarts), submits
a job again that died while the driver was down, keeps pickles, and does not say why a job ended.
"""

from __future__ import annotations

import math
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from oracles.engine_queue import EngineUnavailable, JobState, QueueEngine, QueueUnreachable, Ticket
from oracles.engine_settings import SlurmSettings

OUTPUT = "output.txt"
OUT_OF_REACH = (
    "unable to contact",
    "socket timed out",
    "connection refused",
    "connection timed out",
    "communication",
    "zero bytes",
    "shutdown",
)
PENDING = {"PENDING", "CONFIGURING", "REQUEUED", "RESV_DEL_HOLD", "REQUEUE_HOLD", "SPECIAL_EXIT"}
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "REQUEUE_FED"}
COMMAND_SECONDS = 60


class SlurmEngine(QueueEngine):
    """See :class:`oracles.engine_queue.QueueEngine`."""

    kind = "slurm"
    settings: SlurmSettings

    def problems(self) -> list[str]:
        """No sbatch, a job that Slurm would not take, a worker that cannot import us: found without a job being sent."""
        if shutil.which("sbatch") is None:
            return ["`engine.kind: slurm`: no sbatch on this machine\n  fix: run on a login node of the cluster, or use kind: local"]
        found = []
        try:
            _command(["sbatch", "--test-only", *self._options(), "--wrap", "true"])
        except EngineUnavailable as error:
            found.append(f"`engine`: Slurm refuses such a job: {error}\n  allowed: {self._partitions()}\n  fix: correct these settings")
        except QueueUnreachable as error:
            found.append(f"`engine`: Slurm does not answer: {error}\n  fix: try again when its controller is up")
        script = "\n".join([*self.settings.environment, f"{shlex.quote(self._python())} -c 'import oracles.work'"])
        try:
            tried = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=COMMAND_SECONDS)
            if tried.returncode:
                last = (tried.stderr.strip().splitlines() or ["no message"])[-1]
                found.append(
                    f"`engine`: the worker's Python ({self._python()}) cannot import us: {last}\n"
                    "  fix: activate the environment in `engine.environment`, or name its Python in `engine.python`"
                )
        except subprocess.TimeoutExpired:
            found.append(f"`engine.environment`: these lines take longer than {COMMAND_SECONDS} s\n  fix: shorten them")
        return found

    def submit(self, ticket: Ticket) -> str:
        """Write ``job.sh`` and hand it to sbatch."""
        script = ticket.folder / "job.sh"
        threads = f"export OMP_NUM_THREADS={self.settings.cores} MKL_NUM_THREADS={self.settings.cores}"
        work = f"exec {shlex.quote(self._python())} -m oracles.work {shlex.quote(str(ticket.folder))}"
        script.write_text("\n".join(["#!/bin/bash", threads, *self.settings.environment, work]) + "\n")
        place = [f"--job-name={ticket.job_name}", f"--chdir={ticket.folder}", f"--output={ticket.folder / OUTPUT}"]
        try:
            answer = _command(["sbatch", "--parsable", *self._options(), *place, str(script)])
        except EngineUnavailable as error:
            raise EngineUnavailable(
                f"slurm: sbatch refuses the job: {error}\n  allowed: {self._partitions()}\n  fix: correct the section `engine`"
            ) from error
        return answer.strip().splitlines()[-1].split(";")[0]

    def look(self) -> dict[str, JobState]:
        """One squeue for all jobs of this user, those that ended in the last minutes included."""
        states = {}
        for line in _command(["squeue", "--me", "--noheader", "--states=all", "--format=%i|%T|%r|%j"]).splitlines():
            job, word, reason, name = line.strip().split("|", 3)
            phase = "pending" if word in PENDING else "running" if word in RUNNING else "over"
            states[job] = JobState(phase, word, reason, name)
        return states

    def cancel(self, job: str) -> None:
        """By scancel."""
        _command(["scancel", "--quiet", job])

    def output(self, ticket: Ticket) -> str:
        """The last line that says something."""
        path = ticket.folder / OUTPUT
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()] if path.exists() else []
        return lines[-1][:300] if lines else ""

    def _options(self) -> list[str]:
        settings = self.settings
        chosen = {"partition": settings.partition, "account": settings.account}
        return [
            *(f"--{name}={value}" for name, value in chosen.items() if value),
            "--nodes=1",
            "--ntasks=1",
            f"--cpus-per-task={settings.cores}",
            f"--mem={math.ceil(settings.memory_gb * 1000)}M",
            f"--time={math.ceil(settings.time_limit_s / 60)}",
            "--no-requeue",  # attempts are ours to count
            *settings.options,
        ]

    def _python(self) -> str:
        return self.settings.python or sys.executable

    @staticmethod
    def _partitions() -> str:
        try:
            names = _command(["sinfo", "--noheader", "--format=%R"]).split()
        except (EngineUnavailable, QueueUnreachable):
            return "what sinfo lists"
        return f"partitions {', '.join(names)}"


def _command(command: list[str]) -> str:
    """Run one of Slurm's commands and return what it prints.

    Raises:
        QueueUnreachable: no answer from the controller. EngineUnavailable: an answer, and it is no.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, cwd=Path("/"))
    except FileNotFoundError:
        raise EngineUnavailable(f"there is no {command[0]} on this machine; run on a login node of the cluster") from None
    except subprocess.TimeoutExpired:
        raise QueueUnreachable(f"{command[0]} did not answer within {COMMAND_SECONDS} s") from None
    if done.returncode == 0:
        return done.stdout
    message = " ".join(done.stderr.split()).replace("sbatch: error: ", "").replace("squeue: error: ", "") or f"exit code {done.returncode}"
    if any(word in message.lower() for word in OUT_OF_REACH):
        raise QueueUnreachable(message)
    raise EngineUnavailable(message)
