"""Small campaigns' pieces that several tests build on."""

from __future__ import annotations

from al_crystal.crystal import AtomicStructure, Candidate, Crystal, Label, Prediction, Value

LEVEL = "PBE"


def crystal(index: int = 0, formula: dict[str, int] | None = None, space_group: int = 225) -> Crystal:
    """A cubic crystal whose edge names it."""
    edge = 5.0 + 0.01 * index
    return Crystal(space_group=space_group, composition=formula or {"Na": 4, "Cl": 4}, lattice_parameters=(edge, edge, edge, 90, 90, 90))


def candidate(item: Crystal, arm: str = "gfn", energy: float = -1.0, gap: float = 1.0) -> Candidate:
    """A candidate with a prediction of ±0.1."""
    prediction = Prediction(
        mean={"formation_energy_per_atom": energy, "band_gap": gap},
        standard_deviation={"formation_energy_per_atom": 0.1, "band_gap": 0.1},
        distance=0.5,
    )
    return Candidate(crystal=item, prediction=prediction, acquisition=0.0, arm=arm, reason="test")


def label(item: Crystal, status: str = "ok", energy: float = -1.05, gap: float = 1.3) -> Label:
    """A label with both cells' energies and a rock-salt structure."""
    edge = item.lattice_parameters[0]
    symbols = list(item.composition)
    structure = AtomicStructure(
        lattice=((edge, 0, 0), (0, edge, 0), (0, 0, edge)),
        species=(symbols[0], symbols[-1]),
        fractional_coordinates=((0, 0, 0), (0.5, 0.5, 0.5)),
    )
    return Label(
        crystal_id=item.id,
        status=status,
        reason="" if status == "ok" else "because of the test",
        properties={
            "formation_energy_per_atom": Value(value=energy, level_of_theory=LEVEL),
            "band_gap": Value(value=gap, level_of_theory=LEVEL),
        },
        proposal_properties={"formation_energy_per_atom": Value(value=energy + 0.1, level_of_theory=LEVEL)},
        relaxed=item,
        structure=structure,
        cost={"cpu_s": 1.0},
    )
