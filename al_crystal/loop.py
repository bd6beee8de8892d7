"""The stages of a round, in order; the one file that knows the sampler, the surrogate and the oracles."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfn.sampler import Sampler
from gfn.trainer import Trainer
from oracles.dft.labelling import DftLabeller
from oracles.engine_queue import StillRunning
from oracles.engines import make_engine
from oracles.labelling import Labeller
from oracles.packing import overlap
from oracles.screening import LOOKS, Screener
from surrogates.ensemble import Ensemble
from surrogates.residual import MOST
from surrogates.training import fine_tune

from .acquisition import PoolPosterior, acquisition_function, choose, shortlist
from .beliefs import Beliefs
from .crystal import (
    Arm,
    Candidate,
    Crystal,
    CrystalBatch,
    Label,
    Look,
    Prediction,
    Screening,
    Value,
    crystals_from_frame,
    crystals_to_frame,
)
from .experience import experience
from .history import History, Labelled, Picks, Round
from .measures import desirability_of, round_metrics
from .promotion import PromotionRule, chosen, missing, references, with_formation_energy
from .screening import ENERGY, Correction, corrected, corrected_prediction, hopeful, repeated, roomy, screenings, taught
from .seeds import rng, torch_rng

if TYPE_CHECKING:
    from gfn.environment import CrystalEnvironment
    from oracles.engines import CanLabel, Task
    from oracles.potentials import PotentialRecord

    from .config import Campaign
    from .terminal import Terminal


class Loop:
    """A campaign at work: what it was given, and a history that says how far it has come."""

    def __init__(
        self,
        campaign: Campaign,
        environment: CrystalEnvironment,
        potential: PotentialRecord,
        history: History,
        terminal: Terminal,
        once: bool = False,
    ) -> None:
        """``once``: do not wait for jobs of a queue, raise ``StillRunning`` instead."""
        self.campaign, self.environment, self.potential = campaign, environment, potential
        self.history, self.terminal, self.once = history, terminal, once
        self.engine = make_engine(campaign.engine, history.folder / "tasks")
        self.earlier = experience(potential.level_of_theory, campaign.surrogate.experience) if campaign.selection.screened else []

    def run(self) -> None:
        """Do whatever the history does not have yet, until every round is closed."""
        for number in range(self.history.state.closed_rounds):
            self.promote(number)  # rules that were added since
        for number in range(self.history.state.closed_rounds, self.campaign.rounds):
            if number == len(self.history.state.rounds):
                beliefs = Beliefs(self.surrogate(number), self.campaign.objective)
                self.history.append(self.pick(number, beliefs))
            self.label(number)
            self.promote(number)
            self.surrogate(number + 1)
            self.close(number)

    def surrogate(self, number: int) -> Ensemble:
        """The ensemble that knows the labels of every round before ``number``; trained again where its folder is gone."""
        folder = self.folder(number) / "surrogate"
        if folder.exists():
            return Ensemble.load(folder)
        settings = self.campaign.surrogate
        if settings.start == "warm" and number > 0:
            ensemble = self.surrogate(number - 1)
        else:
            ensemble = Ensemble.load(settings.pretrained) if settings.pretrained else Ensemble.pretrained()
        own, earlier = taught(self.history.state, number, self.earlier, MOST)
        if own or earlier:
            start = time.monotonic()
            ensemble = fine_tune(ensemble, [*own, *earlier], settings, seed=self.seed(number, "surrogate"))
            done = f"round {number - 1}: surrogate retrained on {len(own)} observations" if number else "round 0: surrogate begins"
            beside = f", beside {len(earlier)} of earlier campaigns" if earlier else ""
            self.terminal.line(f"{done}{beside}, {time.monotonic() - start:.0f} s")
        _replace(folder, ensemble.save)
        return ensemble

    def pick(self, number: int, beliefs: Beliefs) -> Picks:
        """Train the sampler on the pessimistic reward, draw a pool, choose a diverse batch beside a random control."""
        settings, selection = self.campaign.sampler, self.campaign.selection
        start = time.monotonic()
        trainer = Trainer(self.environment, settings, seed=self.seed(number, "sampler"))
        retraced = self.retrace(number, trainer) if settings.dataset_size else 0
        with self.terminal.bar(f"round {number}: training the sampler", settings.iterations) as bar:
            training = trainer.train(beliefs.log_reward, settings.iterations, lambda record: bar(int(record["iteration"])))
        _replace(self.folder(number) / "sampler", trainer.save)
        drawn = self.unknown(trainer.sampler().sample(selection.pool, torch_rng(self.campaign.seed, number, "pool")))
        uniform = Sampler.uniform(self.environment)
        control = self.unknown(uniform.sample(selection.batch_size, torch_rng(self.campaign.seed, number, "random")))
        self.terminal.line(f"round {number}: sampler trained, {time.monotonic() - start:.0f} s; {len(drawn):,} new crystals in the pool")
        pool = self.with_room(number, drawn)
        self.save_pool(number, beliefs, pool)
        picks = self.choose(number, beliefs, pool, control)
        counts = {"pool": len(pool), "pool_without_room": len(drawn) - len(pool), "retraced": retraced, "sampler": training[-1]}
        return picks.model_copy(update={"diagnostics": counts | picks.diagnostics})

    def retrace(self, number: int, trainer: Trainer) -> int:
        """Let the sampler retrace what earlier campaigns and the rounds before measured; how many that are. Some lie outside the space."""
        measured = [*(one.look.crystal for one in self.earlier), *self.history.state.measured(number)]
        kept = trainer.use_dataset(CrystalBatch.from_crystals(measured)) if measured else 0
        if trainer.skipped:
            reasons = ", ".join(f"{count} for {reason}" for reason, count in trainer.skipped.items())
            self.terminal.line(f"round {number}: measured, but outside the space and not retraced: {reasons}")
        return kept

    def choose(self, number: int, beliefs: Beliefs, pool: list[Crystal], control: list[Crystal]) -> Picks:
        """The candidates of a round: seed crystals in the first, the random control, and the best of the pool; and what screening did."""
        selection, objective = self.campaign.selection, self.campaign.objective
        seeds = self.seed_crystals() if number == 0 else []
        randoms = control[: round(selection.random_share * selection.batch_size)]
        best = max((desirability_of(objective, label) for _, _, label in self.history.state.labelled()), default=0.0)
        posterior = beliefs.posterior(CrystalBatch.from_crystals(pool))
        acquisition = acquisition_function(selection, objective, posterior, best, seed=self.seed(number, "acquisition"))
        looked: list[Crystal] = []
        screened: dict[str, tuple[Prediction, Screening]] = {}
        diagnostics: dict[str, Any] = {}
        if selection.screened:
            rows = shortlist(acquisition, pool, selection.screened, selection)
            looked, posterior, screened, diagnostics = self.screen(number, beliefs, [pool[row] for row in rows], posterior[rows])
            rows = hopeful(objective, posterior, fewest=selection.batch_size - len(randoms))
            diagnostics["screened_without_hope"] = len(looked) - len(rows)
            pool, posterior = [looked[row] for row in rows], posterior[rows]
            acquisition = acquisition_function(selection, objective, posterior, best, seed=self.seed(number, "acquisition"))
        picks = choose(acquisition, pool, selection.batch_size - len(randoms), selection, taken=[*seeds, *randoms])
        values = {pool[pick.row].id: pick.value for pick in picks}
        name = selection.acquisition.replace("_", " ")
        chosen = _candidates(beliefs, [pool[pick.row] for pick in picks], "gfn", lambda crystal: f"{name} {values[crystal.id]:.4g}", values)
        candidates = [
            *_candidates(beliefs, seeds, "seed", lambda crystal: "named in the campaign file"),
            *_candidates(beliefs, randoms, "random", lambda crystal: "control, drawn uniformly from the space"),
            *(_screened(candidate, *screened[candidate.id]) if candidate.id in screened else candidate for candidate in chosen),
        ]
        passed_over = [Look(crystal=crystal, screening=screened[crystal.id][1]) for crystal in looked if crystal.id not in values]
        return Picks(round=number, candidates=candidates, passed_over=passed_over, diagnostics=diagnostics)

    def with_room(self, number: int, pool: list[Crystal]) -> list[Crystal]:
        """The crystals of a pool whose cells have room for their atoms; where these are too few, the least crowded others too."""
        selection = self.campaign.selection
        if selection.overlap is None:
            return pool
        overlaps = []
        with self.terminal.bar(f"round {number}: packing", len(pool)) as bar:
            for crystal in pool:
                overlaps.append(overlap(crystal, enough=selection.overlap))
                bar(len(overlaps))
        rows = roomy(overlaps, selection.overlap, fewest=max(selection.batch_size, selection.screened))
        self.terminal.line(f"round {number}: {len(rows):,} of {len(pool):,} have room for their atoms")
        return [pool[row] for row in rows]

    def screen(
        self, number: int, beliefs: Beliefs, crystals: list[Crystal], posterior: PoolPosterior
    ) -> tuple[list[Crystal], PoolPosterior, dict[str, tuple[Prediction, Screening]], dict[str, Any]]:
        """Look at crystals with the potential, drop those in which no atoms fit, and correct beliefs by what looks have taught so far.

        Returns:
            the crystals that are left, their posterior, by id the corrected prediction with its screening, and counts.
        """
        screener = Screener(self.campaign.oracles, self.potential, self.campaign.seed)
        first = self.look(number, screener, crystals, attempt=0)
        rows = [row for row, label in enumerate(first) if ENERGY in label.proposal_properties]
        left, posterior = [crystals[row] for row in rows], posterior[rows]
        looks = [first[row].proposal_properties[ENERGY] for row in rows]
        predictions = beliefs.predictions(left)
        further: list[Label] = []

        def again(rows: list[int], attempt: int) -> list[Value | None]:
            found = self.look(number, screener, [left[row] for row in rows], attempt)
            further.extend(found)
            return [label.proposal_properties.get(ENERGY) for label in found]

        screened = screenings(repeated(looks, predictions, again, LOOKS), predictions)
        correction = Correction.before(self.history.state, number, self.earlier)
        if correction is not None and left:
            energies = correction(screened)
            posterior = corrected(posterior, energies)
            predictions = [corrected_prediction(*values) for values in zip(predictions, *energies, strict=True)]
        counts = {
            "screened": len(crystals),
            "screened_without_energy": len(crystals) - len(left),
            "screened_again": len(further),
            "screening_cpu_s": round(sum(label.cost.get("cpu_s", 0.0) for label in [*first, *further]), 1),
        }
        self.terminal.line(
            f"round {number}: screened {len(crystals)} ({len(further)} further looks), {len(left)} have an energy"
            + ("" if correction else "; nothing learned yet")
        )
        ids = [crystal.id for crystal in left]
        return left, posterior, dict(zip(ids, zip(predictions, screened, strict=True), strict=True)), counts

    def look(self, number: int, screener: Screener, crystals: list[Crystal], attempt: int) -> list[Label]:
        """What a look says of each crystal; another attempt has other random numbers."""
        labels: dict[str, Label] = {}
        with self.terminal.bar(f"round {number}: screening" + (" again" if attempt else ""), len(crystals)) as bar:
            for label in self.compute(screener, [(crystal, attempt) for crystal in crystals]):
                labels[label.crystal_id] = label
                bar(len(labels))
        return [labels[crystal.id] for crystal in crystals]

    def label(self, number: int) -> None:
        """Label what the round has picked and not labelled yet; every label is in the history before the next is waited for."""
        entry = self.history.state.rounds[number]
        labeller = Labeller(self.campaign.oracles, self.potential, self.campaign.seed, after_looks=self.campaign.selection.screened > 0)
        self.work(number, "labelling", labeller, lambda: entry.missing(self.campaign.retries), Labelled)
        counts = Counter(label.status for label in entry.labels.values())
        self.terminal.line(f"round {number}: labelled " + ", ".join(f"{count} {status}" for status, count in counts.most_common()))

    def promote(self, number: int) -> None:
        """Label the best of a round once more, by density-functional theory, as the campaign's rules say."""
        entry, retries = self.history.state.rounds[number], self.campaign.retries
        for rule in self.campaign.promotion:
            promoted = chosen(rule, self.campaign, self.history.state, number)
            labeller = DftLabeller(settings=rule.to, geometry=self.potential.level_of_theory)
            elements = self.references(rule, labeller, {symbol for one in promoted for symbol in one.structure.species})

            def line(round: int, attempt: int, label: Label, name: str = rule.name, elements: Any = elements) -> Labelled:
                return Labelled(round=round, attempt=attempt, label=with_formation_energy(label, elements), promotion=name)

            self.work(number, rule.name, labeller, lambda rule=rule, chosen=promoted: missing(rule, entry, chosen, retries), line)  # type: ignore[misc]
            good = sum(found.label.status == "ok" for found in entry.promoted.get(rule.name, {}).values())
            self.terminal.line(f"round {number}: promoted {len(promoted)} to {rule.name}, {good} ok")

    def references(self, rule: PromotionRule, labeller: DftLabeller, symbols: set[str]) -> dict[str, Label] | None:
        """The labels of the elements at a rule's level, computed where they are not yet; None where they are withheld."""
        if rule.to.references == "withhold":
            return None
        folder = self.history.folder / "references" / rule.name
        return references(symbols, folder, self.campaign.retries, lambda tasks: self.compute(labeller, tasks))

    def work(self, number: int, what: str, labeller: CanLabel, tasks: Callable[[], Sequence[Task]], line: Callable[..., Labelled]) -> None:
        """Compute what ``tasks`` says is missing, and append a line for each label as it comes."""
        total = len(tasks())
        with self.terminal.bar(f"round {number}: {what}", total) as bar:
            while missing := tasks():
                bar(total - len(missing))
                attempts = {one.id: attempt for one, attempt in missing}
                for label in self.compute(labeller, missing):
                    self.history.append(line(round=number, attempt=attempts[label.crystal_id], label=label))
                    bar(total - len(tasks()), f"{label.crystal_id} {label.status}")

    def compute(self, labeller: CanLabel, tasks: Sequence[Task]) -> Iterator[Label]:
        """The labels of the tasks, as they come; with ``once`` those that are there.

        Raises:
            StillRunning: with ``once``, after the labels that are there.
        """
        if not self.once:
            yield from self.engine.run(labeller, tasks)
            return
        labels, out = self.engine.advance(labeller, tasks)
        yield from labels
        if out:
            raise StillRunning(out)

    def close(self, number: int) -> None:
        """Measure the round and write the line that closes it."""
        metrics = round_metrics(self.history.state.rounds[number], self.campaign.objective)
        self.history.append(Round(round=number, metrics=metrics))
        if error := metrics["look_errors"]:
            self.terminal.line(
                f"round {number}: surrogate alone about all that was looked at: MAE {error['mae']:.3f}, median {error['median']:.3f}, "
                f"bias {error['bias']:+.3f}, {error['coverage_90']:.0%} within 90 % intervals (n = {error['n']})"
            )
        for name, error in metrics["prediction_errors"].items():
            self.terminal.line(
                f"round {number}: {name} predicted before labelling: MAE {error['mae']:.3f}, bias {error['bias']:+.3f}, "
                f"{error['coverage_90']:.0%} within 90 % intervals (n = {error['n']})"
            )

    def unknown(self, batch: CrystalBatch) -> list[Crystal]:
        """The crystals of a batch that were never picked, each once."""
        known = self.history.state.known_ids()
        return list({crystal.id: crystal for crystal in batch.to_crystals() if crystal.id not in known}.values())

    def seed_crystals(self) -> list[Crystal]:
        """The crystals of the table that the campaign names, if it does."""
        import pandas as pd

        path = self.campaign.selection.seed_crystals
        if path is None:
            return []
        return crystals_from_frame(pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, keep_default_na=False))

    def save_pool(self, number: int, beliefs: Beliefs, pool: list[Crystal]) -> None:
        """Write the pool with its predictions beside the round, for the report and the notebooks."""
        frame = crystals_to_frame(pool)
        predictions = beliefs.predictions(pool)
        for name in predictions[0].mean:
            frame[f"predicted_{name}"] = [prediction.mean[name] for prediction in predictions]
            frame[f"predicted_{name}_std"] = [prediction.standard_deviation[name] for prediction in predictions]
        frame["distance"] = [prediction.distance for prediction in predictions]
        _replace(self.folder(number) / "pool.parquet", frame.to_parquet)

    def folder(self, number: int) -> Path:
        """Where what can be re-created of a round is kept."""
        return self.history.folder / f"round-{number:03d}"

    def seed(self, number: int, stage: str) -> int:
        """An integer seed for a stage of a round."""
        return int(rng(self.campaign.seed, number, stage).integers(2**31))


def _candidates(
    beliefs: Beliefs, crystals: Sequence[Crystal], arm: Arm, reason: Callable[[Crystal], str], values: dict[str, float] | None = None
) -> list[Candidate]:
    predictions = beliefs.predictions(list(crystals))
    return [
        Candidate(crystal=crystal, prediction=prediction, acquisition=(values or {}).get(crystal.id, 0.0), arm=arm, reason=reason(crystal))
        for crystal, prediction in zip(crystals, predictions, strict=True)
    ]


def _screened(candidate: Candidate, prediction: Prediction, screening: Screening) -> Candidate:
    return candidate.model_copy(update={"prediction": prediction, "screening": screening})


def _replace(target: Path, save: Callable[[Path], object]) -> None:
    """Save under a temporary name, then rename: what is there is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    save(unfinished)
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(unfinished, target)
