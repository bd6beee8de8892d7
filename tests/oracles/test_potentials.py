from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from oracles import weights
from oracles.potentials import MATGL_MODELS, PotentialNotFound, PotentialRefused, UnknownElement, load, resolve
from oracles.self_test import examine, reference_structure, references
from oracles.symmetric_cell import SymmetricCell
from oracles.weights import WeightsNotFound


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine without weights and without a network."""
    monkeypatch.delenv("AL_CRYSTAL_MODELS", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path))


def test_auto_takes_chgnet_where_m3gnet_cannot_be_had(nowhere):
    record = resolve("auto")
    assert record.name == "CHGNet"
    assert "AL_CRYSTAL_MODELS is not set" in record.reason
    assert "HF_HUB_OFFLINE" in record.reason


def test_what_cannot_be_had_is_said(nowhere, tmp_path):
    with pytest.raises(PotentialNotFound, match="has no M3GNet"):
        resolve("M3GNet", tmp_path)
    with pytest.raises(PotentialNotFound, match="allowed: auto, CHGNet"):
        resolve("M4GNet")
    with pytest.raises(PotentialNotFound, match="cannot be imported"):
        resolve("no_such_module:Calculator")


@pytest.mark.models
def test_a_potential_is_loaded_once_by_either_of_its_records(m3gnet):
    assert m3gnet.record.aggregation == "destination"
    assert load(m3gnet.record) is m3gnet
    assert load(m3gnet.record.model_copy(update={"aggregation": None})) is m3gnet


def test_hub_attempts_are_bounded():
    import time

    start = time.monotonic()
    problem = weights._within(0.2, lambda: time.sleep(30))
    assert time.monotonic() - start < 5
    assert "no answer within 0.2 s" in problem
    assert weights._within(1.0, lambda: None) is None
    assert weights._within(1.0, lambda: 1 / 0) == "ZeroDivisionError: division by zero"


def test_only_an_absent_cache_entry_means_not_cached(nowhere, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def raising(error):
        def download(*_, **__):
            raise error

        return download

    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising(LocalEntryNotFoundError("not cached")))
    with pytest.raises(WeightsNotFound, match="HF_HUB_OFFLINE"):
        weights.find_weights("M3GNet-MP-2021.2.8-PES")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising(PermissionError("cache of another user")))
    with pytest.raises(PermissionError, match="another user"):
        weights.find_weights("M3GNet-MP-2021.2.8-PES")


@pytest.mark.parametrize("name", references()["crystals"])
def test_reference_crystals_are_what_they_say(name):
    structure = reference_structure(name, 4.5)
    assert structure.get_space_group_info()[0] == references()["crystals"][name]["space_group"]
    assert structure.get_primitive_structure().num_sites == structure.num_sites
    assert structure.volume * {"P": 1, "F": 4}[references()["crystals"][name]["space_group"][0]] == pytest.approx(4.5**3)


def test_an_ase_calculator_passes_on_the_elements_it_knows(emt):
    assert examine(emt) == []
    found = emt.evaluate([reference_structure("Cu")])
    assert found.energies_per_atom[0] == pytest.approx(0.0, abs=0.05)  # EMT counts from the bulk metal


def test_a_calculator_that_is_wrong_is_refused_with_its_numbers():
    """Lennard-Jones argon parameters: every reference crystal wants to fly apart or collapse."""
    with pytest.raises(PotentialRefused, match="must not label") as refusal:
        load(resolve("ase.calculators.lj:LennardJones"))
    assert "eV/atom at 0.96, 1, 1.04" in str(refusal.value)


def test_evaluate_cells_of_any_potential_equals_evaluating_all_atoms(emt):
    structure = Structure.from_spacegroup("P4/nmm", Lattice.tetragonal(4.4, 6.1), ["Cu", "Au"], [[0, 0.5, 0.17], [0, 0.5, 0.67]])
    cell = SymmetricCell.from_structure(structure)
    whole, quotient = emt.evaluate([cell.to_structure()]), emt.evaluate_cells([cell])
    assert quotient.energies == pytest.approx(whole.energies)
    assert np.allclose(quotient.stresses, whole.stresses)
    assert quotient.forces[0].shape == (2, 3)


@pytest.mark.models
def test_golden_values(m3gnet, models_folder):
    golden = json.loads((models_folder / "golden.json").read_text())
    for name, right in golden.items():
        if name.startswith("_"):
            continue
        found = m3gnet.evaluate([reference_structure(name, right["a_A"])])
        assert found.energies_per_atom[0] == pytest.approx(right["energy_per_atom"], abs=1e-3)
        assert -np.trace(found.stresses[0]) / 3 == pytest.approx(right["pressure_eV_A3"], abs=2e-4)
        assert np.abs(found.forces[0]).max() < 1e-4
        assert references()["golden_energy_per_atom"][m3gnet.level_of_theory][name] == pytest.approx(right["energy_per_atom"], abs=1e-3)


@pytest.mark.models
def test_the_wrong_aggregation_is_refused(m3gnet, models_folder):
    assert m3gnet.record.aggregation == "destination"
    record = resolve("M3GNet", models_folder).model_copy(update={"aggregation": "source"})
    with pytest.raises(PotentialRefused, match="messages summed into the source"):
        load(record)


@pytest.mark.models
def test_broken_weights_are_refused(models_folder, tmp_path):
    import torch

    name = MATGL_MODELS["M3GNet"][0]
    broken = tmp_path / name
    shutil.copytree(models_folder / name, broken)
    state = torch.load(broken / "state.pt", weights_only=True, map_location="cpu")
    key = next(key for key in state if key.endswith("weight") and state[key].ndim == 2)
    state[key] = state[key] * 1.05
    torch.save(state, broken / "state.pt")
    with pytest.raises(PotentialRefused, match="should be"):
        load(resolve("M3GNet", tmp_path))
    (broken / "state.pt").write_bytes(b"not weights")
    with pytest.raises(PotentialRefused, match="cannot be loaded"):
        load(resolve("M3GNet", tmp_path))


@pytest.mark.models
def test_elements_that_a_potential_does_not_know(m3gnet):
    radon = Structure(Lattice.cubic(5), ["Rn"], [[0, 0, 0]])
    with pytest.raises(UnknownElement, match="does not know Rn"):
        m3gnet.evaluate([radon])
