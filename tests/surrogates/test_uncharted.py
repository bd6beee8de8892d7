import torch

from surrogates.features import Rows, element_table
from surrogates.uncharted import SHARE, uncharted, uncharted_pairs
from tests.surrogates.helpers import batch


def test_a_tenth_of_the_pairs_is_drawn_each_in_both_orders_and_none_with_padding():
    pairs = uncharted_pairs(seed=0)
    assert torch.equal(pairs, pairs.T)
    assert not pairs[0].any()
    assert not pairs.diagonal().any()
    count = len(element_table()) - 1
    assert abs(float(pairs.sum()) / (count * (count - 1)) - SHARE) < 0.015
    assert torch.equal(pairs, uncharted_pairs(seed=0))
    assert not torch.equal(pairs, uncharted_pairs(seed=1))


def test_a_crystal_is_uncharted_when_it_holds_a_pair_wherever_in_the_row():
    rows = Rows.from_batch(batch())  # MgO, Si, CaTiO3, LiFePO4
    pairs = torch.zeros(104, 104, dtype=torch.bool)
    for one, other in ((8, 12), (3, 26)):  # Mg-O, Li-Fe
        pairs[one, other] = pairs[other, one] = True
    assert uncharted(rows, pairs).tolist() == [True, False, False, True]
    pairs[8, 20] = pairs[20, 8] = True  # Ca-O, first and last of three
    assert uncharted(rows, pairs).tolist() == [True, False, True, True]
    assert not uncharted(rows, torch.zeros_like(pairs)).any()
