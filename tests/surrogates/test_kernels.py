import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from surrogates import kernels

NOTHING = np.zeros(1, np.float32)


def silu(numbers: list[float]) -> np.ndarray:
    values = np.array(numbers, np.float32)[:, None]
    kernels.silu(values, NOTHING)
    return values[:, 0]


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40))
def test_silu_is_that_of_double_precision(numbers):
    values = np.array(numbers, np.float32).astype(float)
    exact = values / (1 + np.exp(np.minimum(-values, 700.0)))
    np.testing.assert_allclose(silu(numbers), exact, rtol=1e-6, atol=1e-30)


def test_silu_in_a_long_row_that_is_vectorised():
    values = np.linspace(-60, 60, 20_001, dtype=np.float32)
    exact = values.astype(float) / (1 + np.exp(-values.astype(float)))
    row = values[None].copy()
    kernels.silu(row, np.zeros(values.size, np.float32))
    np.testing.assert_allclose(row[0], exact, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("width", [5, 32])
def test_mixing_is_a_softmax_over_the_elements_of_each_crystal(width):
    generator = torch.Generator().manual_seed(width)
    starts = np.array([0, 1, 3, 7])
    attended = 30 * torch.randn(7, 3 * width, generator=generator)  # far beyond where exponentials alone would overflow
    bias, fraction = torch.randn(3 * width, generator=generator), torch.rand(7, generator=generator) + 0.1
    mixed = torch.empty(7, width)
    kernels.mix(attended.numpy(), bias.numpy(), fraction.numpy(), starts, mixed.numpy())
    gate, key, value = (attended + bias).double().split(width, dim=1)
    for first, end in itertools.pairwise(starts):
        share = (key[first:end] + fraction[first:end, None].double().log()).softmax(0)
        expected = gate[first:end].sigmoid() * (share * value[first:end]).sum(0)
        torch.testing.assert_close(mixed[first:end], expected.float(), atol=1e-4, rtol=1e-5)


def test_normalising_and_pooling():
    generator = torch.Generator().manual_seed(0)
    tokens, product = torch.randn(6, 20, generator=generator), torch.randn(6, 20, generator=generator)
    bias, scale, offset = torch.randn(3, 20, generator=generator)
    total, normed = tokens + product + bias, torch.empty(6, 20)
    kernels.add_and_normalise(tokens.numpy(), product.numpy(), bias.numpy(), normed.numpy())
    torch.testing.assert_close(tokens, total)
    torch.testing.assert_close(normed, functional.layer_norm(total, (20,)), atol=1e-5, rtol=1e-5)
    fraction, pooled = torch.tensor([1.0, 0.25, 0.75, 0.2, 0.3, 0.5]), torch.empty(3, 40)
    order = np.array([2, 0, 1])  # the row of each crystal
    kernels.pool(normed.numpy(), scale.numpy(), offset.numpy(), fraction.numpy(), np.array([0, 1, 3, 6]), order, pooled.numpy())
    moved = normed * scale + offset
    for row, tokens_of_it in zip(order, (slice(0, 1), slice(1, 3), slice(3, 6)), strict=True):
        mean = (moved[tokens_of_it] * fraction[tokens_of_it, None]).sum(0)
        torch.testing.assert_close(pooled[row], torch.cat([mean, moved[tokens_of_it].amax(0)]), atol=1e-6, rtol=1e-5)
