from dataclasses import replace

import pytest
import torch

from surrogates.compiled import Compiled
from surrogates.features import Rows
from surrogates.inputs import Inputs
from surrogates.network import OLDER, SOURCES, Network, NetworkSettings
from tests.surrogates.helpers import CRYSTALS, SMALL, batch


def disturbed(settings: NetworkSettings = SMALL, levels: int = 1) -> Network:
    """A network none of whose weights has a value that hides a mistake, as the zeros and ones do that norms and corrections begin with."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(2)
        network = Network(settings, levels=levels).eval()
        for weight in network.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return network


def rows() -> Rows:
    """Crystals of one to four elements in no order of size, one of them without a cell."""
    found = Rows.from_batch(batch([CRYSTALS[3], CRYSTALS[1], CRYSTALS[2], CRYSTALS[0], CRYSTALS[1]]))
    lattice = found.lattice_parameters.clone()
    lattice[2] = torch.nan
    return replace(found, lattice_parameters=lattice)


def assert_alike(network: Network, source: torch.Tensor, level: int) -> None:
    inputs = Inputs.of(rows())
    with torch.no_grad():
        plain = network(inputs, source, level)
    compiled = Compiled(network)(inputs, source, level)
    for name in plain._fields:
        torch.testing.assert_close(getattr(compiled, name), getattr(plain, name), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("source", range(len(SOURCES)))
def test_a_compiled_network_says_what_the_network_says(source, level):
    assert_alike(disturbed(), torch.full((5,), source), level)


@pytest.mark.parametrize(
    "settings",
    [
        SMALL.model_copy(update={"width": 13, "hidden": 21, "head_hidden": 9, "cell_hidden": 10, "heads": 1}),  # no multiples of a vector
        SMALL.model_copy(update={"layers": 0, "heads": 3}),
        NetworkSettings(),
    ],
)
def test_networks_of_any_size_can_be_compiled(settings):
    assert_alike(disturbed(settings, levels=2), torch.tensor([OLDER, 0, 2, OLDER, 1]), 2)


def test_a_compiled_network_is_a_copy():
    network, inputs = disturbed(), Inputs.of(rows())
    compiled = Compiled(network)
    before = compiled(inputs, torch.zeros(5, dtype=torch.int64))
    with torch.no_grad():
        for weight in network.parameters():
            weight += 1.0
    after = compiled(inputs, torch.zeros(5, dtype=torch.int64))
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert not any(tensor.requires_grad for tensor in before)
