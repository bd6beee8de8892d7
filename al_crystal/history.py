"""The campaign's memory: one append-only file of JSON lines; everything else is a fold over it.

Four kinds of line: ``start`` (what campaign this is), ``picks`` (a whole batch, frozen with its predictions), ``label`` (one answer
of the oracles) and ``round`` (a round is closed). A line is written with one ``write`` and an ``fsync``, so a crash can at worst
leave a torn last line; it is cut off when the file is opened for writing again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from .crystal import Candidate, Crystal, Label, Look, Noun, Observation

if TYPE_CHECKING:
    import pandas as pd


class HistoryError(ValueError):
    """The history cannot be used as asked; the message says what, where and how to fix it."""


class Start(Noun):
    """First line: the campaign's hash and the facts that must not change while it runs (potential, versions)."""

    campaign: str
    facts: dict[str, Any]


class Picks(Noun):
    """A whole batch of a round, written before any of it is labelled; and what was looked at beside it and passed over."""

    round: int
    candidates: list[Candidate]
    passed_over: list[Look] = Field(default_factory=list)
    diagnostics: dict[str, Any] = Field(default_factory=dict)


class Labelled(Noun):
    """One label of one attempt; with ``promotion``, of the level of theory that this rule promotes to."""

    round: int
    attempt: int
    label: Label
    promotion: str | None = None


class Round(Noun):
    """A closed round with its measurements."""

    round: int
    metrics: dict[str, Any]


KINDS: dict[str, type[Noun]] = {"start": Start, "picks": Picks, "label": Labelled, "round": Round}
_NAMES = {line_type: name for name, line_type in KINDS.items()}


@dataclass
class RoundState:
    """What the history says of one round."""

    candidates: list[Candidate]
    passed_over: list[Look] = field(default_factory=list)
    diagnostics: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, Label] = field(default_factory=dict)
    """Last label by crystal id."""
    attempts: dict[str, int] = field(default_factory=dict)
    """Attempts made by crystal id."""
    promoted: dict[str, dict[str, Labelled]] = field(default_factory=dict)
    """Last labelled line by promotion and crystal id."""
    metrics: dict[str, Any] | None = None

    @property
    def looks(self) -> list[Look]:
        """Everything that was looked at, picked or passed over."""
        picked = [Look(crystal=one.crystal, screening=one.screening) for one in self.candidates if one.screening is not None]
        return picked + self.passed_over

    def missing(self, retries: int = 0) -> list[tuple[Crystal, int]]:
        """Crystals still to be labelled with the number of the next attempt: unlabelled, or ``failed`` fewer than ``retries`` + 1 times.

        The largest come first, so that workers do not wait at the end for a long one that began last.
        """
        left = [
            candidate
            for candidate in self.candidates
            if candidate.id not in self.labels or (self.labels[candidate.id].status == "failed" and self.attempts[candidate.id] <= retries)
        ]
        left.sort(key=lambda candidate: -candidate.crystal.number_of_atoms)
        return [(candidate.crystal, self.attempts.get(candidate.id, 0)) for candidate in left]


@dataclass
class State:
    """The fold of a history: the start line and the rounds in order."""

    start: Start | None = None
    rounds: list[RoundState] = field(default_factory=list)

    def add(self, line: Noun) -> None:
        """Take in one line.

        Raises:
            HistoryError: the line does not follow from those before it (a round skipped, a label of an unknown crystal).
        """
        if isinstance(line, Start):
            if self.start is not None:
                raise HistoryError("a second start line")
            self.start = line
        elif isinstance(line, Picks):
            if line.round != len(self.rounds):
                raise HistoryError(f"picks of round {line.round} where round {len(self.rounds)} is due")
            self.rounds.append(RoundState(line.candidates, line.passed_over, line.diagnostics))
        elif isinstance(line, Labelled):
            if not 0 <= line.round < len(self.rounds):
                raise HistoryError(f"a label of round {line.round}, which has no picks")
            entry = self.rounds[line.round]
            if all(candidate.id != line.label.crystal_id for candidate in entry.candidates):
                raise HistoryError(f"a label of crystal {line.label.crystal_id}, which was not picked in round {line.round}")
            if line.promotion is not None:
                entry.promoted.setdefault(line.promotion, {})[line.label.crystal_id] = line
                return
            entry.labels[line.label.crystal_id] = line.label
            entry.attempts[line.label.crystal_id] = line.attempt + 1
        elif isinstance(line, Round):
            if not 0 <= line.round < len(self.rounds):
                raise HistoryError(f"the close of round {line.round}, which has no picks")
            self.rounds[line.round].metrics = line.metrics

    @property
    def closed_rounds(self) -> int:
        """How many rounds are closed."""
        return sum(entry.metrics is not None for entry in self.rounds)

    def labelled(self) -> Iterator[tuple[int, Candidate, Label]]:
        """(round, candidate, last label) of everything labelled, in order of picking."""
        for number, entry in enumerate(self.rounds):
            for candidate in entry.candidates:
                if candidate.id in entry.labels:
                    yield number, candidate, entry.labels[candidate.id]

    def measured(self, before_round: int | None = None) -> list[Crystal]:
        """Every crystal that was looked at or has an ``ok`` label, once, in order; of the rounds before ``before_round`` if given."""
        looks = (look.crystal for entry in self.rounds[:before_round] for look in entry.looks)
        labelled = (
            candidate.crystal
            for number, candidate, label in self.labelled()
            if label.status == "ok" and (before_round is None or number < before_round)
        )
        return list({crystal.id: crystal for crystal in (*looks, *labelled)}.values())

    def observations(self, before_round: int | None = None) -> list[Observation]:
        """Training rows of all ``ok`` labels, of the rounds before ``before_round`` if given."""
        return [
            row
            for number, candidate, label in self.labelled()
            if before_round is None or number < before_round
            for row in label.observations(candidate.crystal)
        ]

    def known_ids(self) -> set[str]:
        """Ids of all crystals ever picked."""
        return {candidate.id for entry in self.rounds for candidate in entry.candidates}

    def to_frame(self) -> pd.DataFrame:
        """One row a candidate: crystal, arm, prediction, status and labelled properties (units: ``al_crystal.crystal.UNITS``).

        Where it was screened also the energy that was looked up (``screened_``) and what the surrogate alone said (``surrogate_``).
        """
        import pandas as pd

        from .crystal import LATTICE_PARAMETERS

        rows = []
        for number, entry in enumerate(self.rounds):
            for candidate in entry.candidates:
                crystal, label = candidate.crystal, entry.labels.get(candidate.id)
                row: dict[str, Any] = {
                    "round": number,
                    "id": candidate.id,
                    "formula": crystal.formula,
                    "space_group_number": crystal.space_group,
                    "composition": json.dumps(crystal.composition),
                    "n_atoms": crystal.number_of_atoms,
                    "volume_per_atom": crystal.volume_per_atom,
                    "arm": candidate.arm,
                    "acquisition": candidate.acquisition,
                    "distance": candidate.prediction.distance,
                    "status": label.status if label else "unlabelled",
                    "reason": label.reason if label else "",
                }
                row |= dict(zip(LATTICE_PARAMETERS, crystal.lattice_parameters, strict=True))
                row |= {f"predicted_{name}": value for name, value in candidate.prediction.mean.items()}
                row |= {f"predicted_{name}_std": value for name, value in candidate.prediction.standard_deviation.items()}
                if candidate.screening is not None:
                    row["screened_formation_energy_per_atom"] = candidate.screening.formation_energy_per_atom.value
                    row |= {f"surrogate_{name}": value for name, value in candidate.screening.surrogate.mean.items()}
                if label is not None:
                    row["relaxed_space_group_number"] = label.relaxed.space_group if label.relaxed else None
                    row["relaxed_volume_per_atom"] = label.relaxed.volume_per_atom if label.relaxed else None
                    row |= {f"labelled_{name}": value.value for name, value in label.properties.items()}
                    row |= {f"proposal_{name}": value.value for name, value in label.proposal_properties.items()}
                    row |= {f"cost_{name}": value for name, value in label.cost.items()}
                for promotion, lines in entry.promoted.items():
                    if candidate.id in lines:
                        higher = lines[candidate.id].label
                        row[f"{promotion}_status"] = higher.status
                        row |= {f"{promotion}_{name}": value.value for name, value in higher.properties.items()}
                rows.append(row)
        return pd.DataFrame(rows)


class History:
    """The open history of one run; one driver at a time.

    Use as a context manager. Reading alone needs no lock: :func:`read`.
    """

    def __init__(self, folder: Path) -> None:
        """Open (or begin) ``folder/history.jsonl`` for appending.

        Raises:
            HistoryError: another driver holds the run, or the file is damaged anywhere but in its last line.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _take(self._lock, folder)
        except HistoryError:
            os.close(self._lock)
            raise
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        self.path = folder / "history.jsonl"
        self.state = read(self.path, repair=True)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        _sync_folder(folder)

    def append(self, line: Noun) -> None:
        """Check that ``line`` follows, write it durably (one write, one fsync), and fold it in."""
        self.state.add(line)
        data = (json.dumps({"kind": _NAMES[type(line)], **line.model_dump(mode="json")}, allow_nan=False) + "\n").encode()
        written = os.write(self._file, data)
        if written != len(data):
            raise HistoryError(f"{self.path}: only {written} of {len(data)} bytes were written; is the disk full?")
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file and release the lock."""
        os.close(self._file)
        os.close(self._lock)

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(path: Path, *, repair: bool = False) -> State:
    """Fold the history at ``path`` (empty when there is none); a torn last line is ignored, and cut off with ``repair``.

    Raises:
        HistoryError: a damaged line that is not the last, or lines out of order; the message names the line.
    """
    state = State()
    if not path.exists():
        return state
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    for number, line in enumerate(data[:whole].splitlines(), start=1):
        try:
            record = json.loads(line)
            state.add(KINDS[record.pop("kind")].model_validate(record))
        except (ValueError, KeyError) as error:  # json, pydantic and history errors are all ValueErrors
            raise HistoryError(
                f"{path}:{number}: this line of the history cannot be read: {str(error).splitlines()[0]}\n"
                "  fix: restore the file from a copy; lines are only ever appended, so an older copy is a valid beginning"
            ) from error
    if repair and whole < len(data):
        with open(path, "r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
    return state


def check_free(folder: Path) -> None:
    """Whether a driver could begin here, without touching anything.

    Raises:
        HistoryError: another driver holds the run.
    """
    if (folder / "lock").exists():
        lock = os.open(folder / "lock", os.O_RDONLY)
        try:
            _take(lock, folder)
        finally:
            os.close(lock)


def _take(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(lock, 32, 0).decode().strip() or "unknown"
        raise HistoryError(
            f"{folder}: another driver (process {holder}) is running this campaign\n"
            "  allowed: one driver at a time\n  fix: wait for it, stop it, or give this campaign another name"
        ) from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
