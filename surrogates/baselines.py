"""What an ensemble is held against: simpler models on the same rows, and one trunk on fewer rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surrogates.held_out import Measure, TestSets
from surrogates.learning import TrainingSettings, train_network
from surrogates.train import run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from surrogates.features import Rows
    from surrogates.tables import Table

SHARES = (0.03, 0.1, 0.3, 1.0)
"""Of the training rows, in a learning curve."""


def baselines(train: Table, sets: TestSets, rows: int = 30_000) -> list[Measure]:
    """Held-out errors (eV/atom, eV) of a constant, a random forest and a Gaussian process.

    They see pooled element properties, space group and sizes: no cell, no source.
    """
    from sklearn.dummy import DummyRegressor
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kernel = ConstantKernel(1.0) * RBF(10.0) + WhiteKernel(0.1)
    models: dict[str, tuple[Any, int]] = {
        "constant (median)": (DummyRegressor(strategy="median"), rows),
        f"random forest, 60 trees, {rows:,} rows": (RandomForestRegressor(60, max_features=0.33, min_samples_leaf=2, random_state=0), rows),
        "Gaussian process, 2,000 rows": (make_pipeline(StandardScaler(), GaussianProcessRegressor(kernel, normalize_y=True)), 2000),
    }
    found = []
    for column, name, table in ((0, "formation energy", sets.seed), (0, "formation energy", sets.matbench), (1, "band gap", sets.matbench)):
        known = np.flatnonzero(~train.targets[:, column].isnan().numpy())
        order = np.random.default_rng(0).permutation(known)
        where = ~table.targets[:, column].isnan()
        test, target = plain_features(table.rows[where]), table.targets[where, column].numpy()
        origin = "MatBench" if table is sets.matbench else "seed"
        for label, (model, number) in models.items():
            chosen = torch.tensor(order[:number])
            model.fit(plain_features(train.rows[chosen]), train.targets[chosen, column].numpy())
            found.append(Measure(f"{label}: {name}, {origin}", float(np.abs(model.predict(test) - target).mean()), len(target)))
    return found


def plain_features(rows: Rows) -> NDArray[np.float32]:
    """``(n, features)`` what the baselines see: pooled element properties, sizes and symmetry facts."""
    from surrogates.features import space_group_table
    from surrogates.inputs import Inputs

    parts = [Inputs.of(rows[where]).crystal for where in torch.arange(len(rows)).split(4096)]
    return torch.cat([torch.cat(parts), space_group_table()[rows.space_group], rows.space_group[:, None].float()], dim=1).numpy()


def learning_curve(train: Table, sets: TestSets, passes: float, settings: TrainingSettings | None = None) -> list[Measure]:
    """Held-out errors (eV/atom, eV) of one trunk trained on random shares of the rows, without wrong cells.

    Seed rows are predicted with cell and source hidden, MatBench rows with their source.

    ``passes`` over all rows; a smaller share gets as many steps as a third of all, up to four times the passes. ``settings`` are those
    of training unless given.
    """
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    hidden, published = sets.seed.without_cells(), sets.matbench.as_published()
    tests = (("seed", hidden, torch.zeros_like(hidden.source)), ("MatBench", published, published.source))
    found = []
    for share in SHARES:
        part = train[order[: round(share * len(train))]]
        own = max(passes, min(4 * passes, passes / 3 / share))
        made = (settings or TrainingSettings()).model_copy(update={"epochs": own})
        network = train_network(part, None, made, torch.Generator().manual_seed(0))
        for name, table, source in tests:
            output = run((network,), table.rows, source)
            for column, value in enumerate((output.energy.mean(0), output.gap.clamp(min=0).mean(0))):
                error = value - table.targets[:, column]
                error = error[~error.isnan()].abs()
                what = f"{len(part):,} rows, {own:.3g} passes: {('formation energy', 'band gap')[column]}, {name}"
                found.append(Measure(f"learning curve, {what}", float(error.mean()), len(error)))
    return found
