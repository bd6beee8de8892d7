"""The YAML section ``engine``: where labels are computed; it never changes what they are. Light to import."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InlineSettings(_Settings):
    """In this process."""

    kind: Literal["inline"] = Field(default="inline", description="one crystal after another in this process")


class LocalSettings(_Settings):
    """In worker processes on this machine."""

    kind: Literal["local"] = Field(default="local", description="worker processes that may hang or die")
    workers: int = Field(default=2, ge=1, description="worker processes")
    time_limit_s: float = Field(default=600.0, gt=0, description="a crystal that takes longer is ended and failed, wall seconds")
    memory_limit_gb: float = Field(default=6.0, gt=0, description="memory that a worker may allocate, GB")


class _QueueSettings(_Settings):
    pending_limit_s: float = Field(default=7 * 86400.0, gt=0, description="a job that waits longer is cancelled and failed, seconds")
    max_jobs: int = Field(default=100, ge=1, description="most jobs in the queue at a time")
    poll_s: float = Field(default=10.0, gt=0, description="seconds between two looks at the queue")
    patience_s: float = Field(default=3600.0, gt=0, description="how long the queue may be out of reach before the campaign stops, seconds")


class SlurmSettings(_QueueSettings):
    """As jobs of a Slurm cluster, one for each crystal, over a file system that the nodes share."""

    kind: Literal["slurm"] = Field(default="slurm", description="jobs of a Slurm cluster")
    partition: str | None = Field(default=None, description="partition; the cluster's default if not given")
    account: str | None = Field(default=None, description="account that the time is charged to")
    cores: int = Field(default=1, ge=1, description="cores of a job (threads of the libraries)")
    memory_gb: float = Field(default=4.0, gt=0, description="memory of a job, GB")
    time_limit_s: float = Field(default=3600.0, ge=60, description="walltime of a job, seconds; Slurm counts whole minutes")
    options: tuple[str, ...] = Field(default=(), description="further options of sbatch, such as --qos=long")
    environment: tuple[str, ...] = Field(default=(), description="shell lines before the work starts, such as `module load gcc`")
    python: str | None = Field(default=None, description="Python of the worker; the one that runs the campaign if not given")


class JobflowRemoteSettings(_QueueSettings):
    """Through jobflow-remote (extra `remote`): its runner, its database, and the workers of a project."""

    kind: Literal["jobflow-remote"] = Field(default="jobflow-remote", description="jobs submitted to jobflow-remote")
    project: str = Field(description="name of the jobflow-remote project (`jf project list`)")
    worker: str | None = Field(default=None, description="worker of the project; its first if not given")
    time_limit_s: float = Field(default=7200.0, gt=0, description="a job that runs longer is cancelled and failed, seconds")
    resources: dict[str, str | int | float] = Field(default_factory=dict, description="resources of a job, in the worker's keys")


EngineSettings = Annotated[InlineSettings | LocalSettings | SlurmSettings | JobflowRemoteSettings, Field(discriminator="kind")]
"""Every engine there is; a new one adds its settings here and its class to ``oracles.engines.make_engine``."""
