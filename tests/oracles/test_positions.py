from __future__ import annotations

import numpy as np
import pytest
import spglib

from al_crystal.crystal import Crystal
from al_crystal.seeds import rng
from oracles.positions import NoPositions, draw, ranked
from oracles.search import race, search, standing
from oracles.settings import Heat, PositionSettings, RelaxationSettings
from oracles.wyckoff import assignments

PEROVSKITE = Crystal(space_group=62, composition={"Ca": 4, "Ti": 4, "O": 12}, lattice_parameters=(5.5, 7.7, 5.4, 90, 90, 90))
FEW = PositionSettings(ways=20, candidates=40)


def test_drafts_have_the_composition_the_cell_and_the_group():
    drafts = draw(PEROVSKITE, FEW, rng(0, 0, "test"))
    assert len(drafts) > 10
    for draft in drafts[:10]:
        structure = draft.cell.to_structure()
        assert structure.composition.get_el_amt_dict() == PEROVSKITE.composition
        assert structure.volume == pytest.approx(PEROVSKITE.volume)
        found = spglib.get_symmetry_dataset(draft.cell.to_arrays(), symprec=1e-4)
        assert len(found.rotations) >= 8


def test_the_same_seed_draws_the_same():
    one, other = (draw(PEROVSKITE, FEW, rng(5, 0, "test")) for _ in range(2))
    assert all(np.array_equal(a.cell.positions, b.cell.positions) for a, b in zip(one, other, strict=True))
    assert not np.array_equal(one[-1].cell.positions, draw(PEROVSKITE, FEW, rng(6, 0, "test"))[-1].cell.positions)


def test_impossible_crystals_are_refused_with_the_reason():
    misfit = Crystal(space_group=227, composition={"C": 5}, lattice_parameters=(3.5, 3.5, 3.5, 90, 90, 90))
    with pytest.raises(NoPositions, match="no way to put"):
        draw(misfit, FEW, rng(0, 0, "test"))
    crowded = Crystal(space_group=225, composition={"Na": 4, "Cl": 4}, lattice_parameters=(2.2, 2.2, 2.2, 90, 90, 90))
    with pytest.raises(NoPositions, match="in every draw two atoms are closer"):
        draw(crowded, FEW, rng(0, 0, "test"))


def test_search_finds_ordered_copper_gold(emt):
    """L1_0 CuAu from its group, composition and cell: a potential that is real, an answer that is known."""
    crystal = Crystal(space_group=123, composition={"Cu": 1, "Au": 1}, lattice_parameters=(2.8, 2.8, 3.7, 90, 90, 90))
    settings = PositionSettings(ways=20, candidates=12, heats=(Heat(runners=4, steps=3),), relaxed=2)
    found = search(crystal, emt, settings, RelaxationSettings(), rng(0, 0, "test"))
    best = found[0]
    assert best.relaxed.outcome == best.rest.outcome == "converged"
    assert found == sorted(found, key=lambda one: one.relaxed.energy_per_atom)
    assert np.allclose(best.rest.cell.lattice @ best.rest.cell.lattice.T, best.draft.cell.lattice @ best.draft.cell.lattice.T)
    assert best.relaxed.energy_per_atom <= best.rest.energy_per_atom
    energies = [draft.energy_per_atom for draft in ranked(draw(crystal, settings, rng(0, 0, "test")), emt)]
    assert energies == sorted(energies)


def test_runners_of_another_race_join_and_stand_alone_where_nothing_else_does(emt):
    crystal = Crystal(space_group=123, composition={"Cu": 2, "Au": 2}, lattice_parameters=(3.9, 3.9, 3.7, 90, 90, 90))
    settings, relaxation = PositionSettings(candidates=12, heats=(Heat(runners=4, steps=3),), relaxed=2), RelaxationSettings()
    runners = race(crystal, emt, settings, relaxation, rng(0, 0, "other"))
    hopeless = settings.model_copy(update={"closest_approach": 5.0})
    with pytest.raises(NoPositions):
        search(crystal, emt, hopeless, relaxation, rng(0, 0, "test"))
    alone = search(crystal, emt, hopeless, relaxation, rng(0, 0, "test"), runners)
    lowest = min(standing(walk) for _, walk in runners)
    assert min(one.rest.energy_per_atom for one in alone) <= lowest
    joined = search(crystal, emt, settings, relaxation, rng(1, 0, "test"), race(crystal, emt, settings, relaxation, rng(0, 0, "other")))
    assert min(one.rest.energy_per_atom for one in joined) <= lowest


def test_ways_are_all_listed_where_a_sample_would_miss_the_room_there_is():
    """Of the 28,800 ways of this crystal few leave its atoms room; from a few hundred of them most searches ended 8 eV/atom too high."""
    composition = {"K": 6, "Sn": 2, "Te": 6, "Cl": 6}
    limit = PositionSettings().enumerated_ways
    first, second = (assignments(84, composition, limit, np.random.default_rng(seed)) for seed in (0, 1))
    assert len(first) == 28_800
    assert {way.occupied for way in first} == {way.occupied for way in second}
