"""Every point of the cube is a valid cell, and decoding and encoding are inverse."""

import numpy as np
import pytest

from al_crystal.crystal import Crystal
from gfn.checks import lattice, room
from gfn.constraints import LatticeRestriction, Restriction, Space
from gfn.lattice import LatticeSpace
from gfn.space_group import SYSTEM_OF

GROUPS = np.array([2, 14, 62, 129, 166, 150, 194, 225])
WINDOWS = [
    {},
    {"lengths": (3.0, 6.0), "edge_ratio": (0.8, 1.3)},
    {"angles": (75.0, 135.0), "flatness": 0.7},
    {"volume_per_atom": (20.0, 24.0)},
    {"angles": (89.0, 121.0), "flatness": 0.3},
    {"decoding": "absolute", "lengths": (0.9, 100.0), "angles": (50.0, 150.0), "flatness": 0.05},
]


def points(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    groups = np.repeat(GROUPS, n)
    cube = random.random((len(groups), 6))
    cube[: n // 10] = random.integers(0, 2, (n // 10, 6))  # the corners too
    counts = np.tile([4, 4], (len(groups), 1))
    return groups, cube, counts


@pytest.mark.parametrize("windows", WINDOWS)
def test_every_point_of_the_cube_is_a_cell_inside_the_windows(windows):
    space = Space(elements=["Na", "Cl"], space_groups=GROUPS.tolist(), lattice=windows)
    cells = LatticeSpace(space.lattice, space.elements)
    groups, cube, counts = points(200)
    cube = np.where(cells.free[SYSTEM_OF[groups]], cube, 0.0)
    decoded = cells.decode(cube, SYSTEM_OF[groups], counts)
    for group, cell in zip(groups, decoded, strict=True):
        crystal = Crystal(space_group=int(group), composition={"Na": 4, "Cl": 4}, lattice_parameters=tuple(cell))
        if room(space, crystal) is None:
            assert lattice(space, crystal) is None
            assert crystal.volume > 0


@pytest.mark.parametrize("windows", WINDOWS)
def test_encode_is_the_inverse_of_decode(windows):
    space = Space(elements=["Na", "Cl"], lattice=windows)
    cells = LatticeSpace(space.lattice, space.elements)
    groups, cube, counts = points(100)
    limits, sums = cells.limits[SYSTEM_OF[groups]], counts @ cells.weights
    room_for_all = ((limits[:, :, 0] <= sums) & (sums <= limits[:, :, 1])).all(axis=1)  # elsewhere the masks never let it into the group
    assert room_for_all.any()
    groups, cube, counts = groups[room_for_all], cube[room_for_all], counts[room_for_all]
    system = SYSTEM_OF[groups]
    cube = np.where(cells.free[system], 0.01 + 0.98 * cube, 0.0)
    decoded = cells.decode(cube, system, counts)
    again = cells.decode(cells.encode(decoded, system, counts), system, counts)
    np.testing.assert_allclose(again, decoded, rtol=1e-7)


def test_free_coordinates_are_the_free_parameters_of_each_lattice_system():
    assert LatticeSpace(Space().lattice, ()).free.sum(axis=1).tolist() == [6, 4, 3, 2, 2, 2, 2, 1]


def test_an_angle_window_without_right_angles_leaves_triclinic_cells_only():
    space = Space().restricted(Restriction(lattice=LatticeRestriction(angles=(91.0, 110.0))))
    feasible = LatticeSpace(space.lattice, space.elements).system_feasible
    assert feasible.tolist() == [True, False, False, False, False, False, False, False]
