import numpy as np
import torch
from scipy.stats import spearmanr

from surrogates import scales
from surrogates.features import Rows
from surrogates.network import mean_strain
from surrogates.scales import refitted
from surrogates.tables import Table
from surrogates.train import run
from tests.surrogates.helpers import CRYSTALS, batch, small_ensemble


def test_scales_follow_the_errors_on_rows_kept_apart_and_nothing_else_changes(monkeypatch):
    monkeypatch.setattr(scales, "STEPS", 2000)  # until the few numbers of a small network have settled
    rows = Rows.from_batch(batch([crystal for crystal in CRYSTALS for _ in range(40)]))
    networks, source = small_ensemble().networks, torch.zeros(len(rows), dtype=torch.int64)
    before = run(networks, rows, source)
    size = torch.tensor([0.01, 1.0, 0.1, 0.4]).repeat_interleave(40)
    sign = torch.randn(len(rows), generator=torch.Generator().manual_seed(0)).sign()
    energy, gap = before.energy.mean(0) + mean_strain(before.strain), before.gap.clamp(min=0).mean(0)
    targets = torch.stack([energy + sign * size, gap + 1 + size], dim=1)
    targets[0] = torch.nan
    zeros = torch.zeros_like(targets)
    table = Table(rows, targets, zeros, source, zeros.long(), (), {"fold": np.zeros(len(rows))})
    after = run(refitted(networks, table), rows, source)
    for name in ("energy", "gap", "strain", "gap_logit", "volume"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name))
    assert spearmanr(after.log_scale_energy.mean(0)[::40], size[::40]).statistic == 1
    assert not torch.equal(before.log_scale_energy, after.log_scale_energy)
    torch.testing.assert_close(run(networks, rows, source).log_scale_energy, before.log_scale_energy)
