"""How far a crystal is from the training data, by its composition and by its cell."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from surrogates.features import Rows, element_table
from surrogates.inputs import Inputs

UNKNOWN_ELEMENT = 10.0
"""Added for every element that was never seen in training."""


@dataclass(frozen=True)
class Distance:
    """Distance to the nearest of many centres of the training data in whitened composition space.

    Attributes:
        offset, projection: ``(features,)`` and ``(features, axes)``: whitening.
        centres: ``(centres, axes)``.
        spacing: scalar; 95 % of the training rows are nearer than this to a centre.
        widest: scalar; 99 % of the real cells have |log(volume / estimate)| below this.
        seen: ``(104,)`` booleans by atomic number, elements in the training data.
    """

    offset: torch.Tensor
    projection: torch.Tensor
    centres: torch.Tensor
    spacing: torch.Tensor
    widest: torch.Tensor
    seen: torch.Tensor

    def __call__(self, inputs: Inputs) -> torch.Tensor:
        """``(n,)``: 0 inside the data, growing outside in units of the spacing; +10 for every unknown element."""
        position = (_descriptor(inputs) - self.offset) @ self.projection
        nearest = torch.cdist(position, self.centres).amin(1)
        outside = (nearest / self.spacing - 1).clamp(min=0) + (inputs.log_volume.abs() / self.widest - 1).clamp(min=0)
        unknown = torch.zeros_like(nearest).index_add(0, inputs.packed.crystal, (~self.seen[inputs.elements]).float())
        return outside + UNKNOWN_ELEMENT * unknown

    def extended(self, rows: Rows) -> Distance:
        """The distance after these rows were learned: they are new centres, and their elements are seen."""
        seen = self.seen.clone()
        seen[rows.elements.unique()] = True
        seen[0] = False
        position = (_descriptor(Inputs.of(rows)) - self.offset) @ self.projection
        return replace(self, centres=torch.cat([self.centres, position]), seen=seen)

    @classmethod
    def fit(cls, rows: Rows, seed: int, axes: int = 24, centres: int = 1024) -> Distance:
        """Whiten, cluster (k-means of scikit-learn) and measure the spacing on training rows."""
        from sklearn.cluster import MiniBatchKMeans

        inputs = Inputs.of(rows)
        descriptor = _descriptor(inputs)
        offset = descriptor.mean(0)
        scale = descriptor.std(0).clamp(min=1e-3)
        _, values, vectors = torch.linalg.svd((descriptor - offset) / scale, full_matrices=False)
        projection = vectors[:axes].T / scale[:, None] / (values[:axes] / len(rows) ** 0.5)
        projection = projection * (values[:axes] / values[0]) ** 0.5  # halfway between whitened and plain: noise axes stay small
        position = (descriptor - offset) @ projection
        means = MiniBatchKMeans(min(centres, len(rows)), random_state=seed, n_init=1, batch_size=4096).fit(position.numpy())
        middle = torch.tensor(means.cluster_centers_, dtype=torch.float32)
        nearest = torch.cat([torch.cdist(part, middle).amin(1) for part in position.split(4096)])
        seen = torch.zeros(len(element_table()), dtype=torch.bool)
        seen[rows.elements.unique()] = True
        seen[0] = False
        return cls(offset, projection, middle, nearest.quantile(0.95), inputs.log_volume[inputs.known].abs().quantile(0.99), seen)


def _descriptor(inputs: Inputs) -> torch.Tensor:
    """``(n, features)``: mean and standard deviation of the element properties, and the fractions' norms."""
    count = element_table().shape[1]
    return torch.cat([inputs.crystal[:, : 2 * count], inputs.crystal[:, 4 * count + 2 : 4 * count + 6]], dim=1)
