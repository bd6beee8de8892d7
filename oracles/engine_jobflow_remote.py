"""jobflow-remote: every task is a jobflow job of its project, run by its runner on its workers, over a MongoDB database.

The job's uuid follows from the task, so a driver that comes back finds its jobs by asking the database; jobflow-remote itself is
imported when it is first needed (extra ``remote``).
"""

from __future__ import annotations

import importlib.util
import json
import uuid
from functools import cached_property
from typing import Any

from oracles.engine_queue import EngineUnavailable, JobState, QueueEngine, QueueUnreachable, Ticket
from oracles.engine_settings import JobflowRemoteSettings
from oracles.tasks import ERROR, LABEL, STARTED, TASK, write_whole

NAMESPACE = uuid.UUID("8a0f4a52-6f0e-5a35-9d1c-2f4f0c3f7a11")
PENDING = {"WAITING", "READY", "CHECKED_OUT", "UPLOADED", "SUBMITTED", "PAUSED", "BATCH_SUBMITTED"}
RUNNING = {"RUNNING", "RUN_FINISHED", "DOWNLOADED", "BATCH_RUNNING"}
OUR_IMPORT = ("ModuleNotFoundError", "ImportError")


class JobflowRemoteEngine(QueueEngine):
    """See :class:`oracles.engine_queue.QueueEngine`."""

    kind = "jobflow-remote"
    settings: JobflowRemoteSettings

    def problems(self) -> list[str]:
        """No package, no such project or worker, no database, no runner."""
        if importlib.util.find_spec("jobflow_remote") is None:
            return ["`engine.kind: jobflow-remote`: not installed here\n  fix: rigs/jobflow_remote.sh install VENV .venv"]
        try:
            controller = self._controller
            worker = self.settings.worker
            if worker is not None and worker not in controller.project.workers:
                known = ", ".join(controller.project.workers)
                return [f"`engine.worker`: the project {self.settings.project!r} has no worker {worker!r}\n  allowed: {known}"]
            controller.count_jobs()
        except EngineUnavailable as error:
            return [f"`engine`: {error}"]
        except Exception as error:  # pymongo's errors, and those of configuration files
            return [
                f"`engine`: the database of project {self.settings.project!r} does not answer: {_last_line(str(error))}\n"
                "  fix: start its MongoDB server, or correct the project's file (`jf project check`)"
            ]
        if controller.get_running_runner() in ("NO_DOCUMENT", None) or not isinstance(controller.get_running_runner(), dict):
            return [f"`engine`: no runner serves the project {self.settings.project!r}\n  fix: jf -p {self.settings.project} runner start"]
        return []

    def submit(self, ticket: Ticket) -> str:
        """Add the job to the database, with a uuid of ours."""
        from jobflow_remote import submit_flow

        from oracles.flows import label_task

        job = label_task((ticket.folder / TASK).read_text())
        job.name, job.uuid = ticket.job_name, _uuid(ticket)
        self._asked(
            lambda: submit_flow(
                job, worker=self.settings.worker, project=self.settings.project, resources=dict(self.settings.resources) or None
            )
        )
        return job.uuid

    def look(self) -> dict[str, JobState]:
        """The jobs of ours that the database knows."""
        found = self._asked(lambda: self._controller.get_jobs_info(name="al-*"))
        states = {}
        for info in found:
            word = info.state.value
            phase = "pending" if word in PENDING else "running" if word in RUNNING else "over"
            seconds = info.estimated_run_time if phase == "running" else None
            states[info.uuid] = JobState(phase, word, "", info.name, seconds)
        return states

    def cancel(self, job: str) -> None:
        """Stop the job, wherever it is on its way."""
        self._asked(lambda: self._controller.stop_jobs(job_ids=[(job, 1)], raise_on_error=False, break_lock=True))

    def fetch(self, ticket: Ticket) -> None:
        """Bring the output or the error of a job that is over."""
        if (ticket.folder / LABEL).exists() or (ticket.folder / ERROR).exists():
            return
        info = self._asked(lambda: self._controller.get_job_info(job_id=ticket.job))
        if info is None:
            return
        word = info.state.value
        if word == "COMPLETED":
            output: Any = self._asked(lambda: self._store().get_output(ticket.job, load=True))
            write_whole(ticket.folder / STARTED, json.dumps({"job": ticket.job, "node": ",".join(info.hosts or []) or info.worker}))
            write_whole(ticket.folder / LABEL, json.dumps(output))
        elif word in ("FAILED", "REMOTE_ERROR") and not ticket.cancelled:
            error = info.error or info.remote.error or "no message"
            reason = _last_line(error) if word == "FAILED" else f"the job left no result ({_last_line(error)})"
            if reason.startswith(OUR_IMPORT) and not self._ever_started():
                raise EngineUnavailable(
                    f"jobflow-remote: the first job failed before our code ran, no further jobs were sent: {reason}\n"
                    f"  likely: the Python of the project's worker cannot import us\n"
                    f"  fix: its `pre_run`, then `jf -p {self.settings.project} job rerun {ticket.job}`, and this command again"
                )
            write_whole(ticket.folder / ERROR, json.dumps({"reason": reason, "traceback": error}))

    @cached_property
    def _controller(self) -> Any:
        from jobflow_remote.config.manager import ConfigManager
        from jobflow_remote.jobs.jobcontroller import JobController

        projects = ConfigManager(warn=False).projects
        if self.settings.project not in projects:
            known = ", ".join(projects) or "none"
            raise EngineUnavailable(
                f"jobflow-remote has no project {self.settings.project!r}\n  allowed: {known}\n"
                "  fix: `engine.project`, or `jf project generate`"
            )
        return JobController.from_project_name(self.settings.project)

    def _store(self) -> Any:
        store = self._controller.jobstore
        store.connect()
        return store

    def _asked(self, question: Any) -> Any:
        """Ask the database; what it does not answer may be asked again."""
        from pymongo.errors import PyMongoError

        try:
            return question()
        except PyMongoError as error:
            raise QueueUnreachable(_last_line(str(error))) from error


def _uuid(ticket: Ticket) -> str:
    return str(uuid.uuid5(NAMESPACE, ticket.job_name))


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"
