"""The same figures as torch-fidelity's on the same features: those that it gave, and its own where it is installed.

It asks for torchvision, of a build that fits torch's, and so is no part of the extra `test`. torchmetrics and prdc are:
`test_metrics_frechet`, `test_metrics_kernel` and `test_metrics_neighbours` compare with them.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from otprior.metrics import frechet_distance, kernel_distance, precision_recall_density_coverage


def features() -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    real = torch.randn(300, 16, generator=draws, dtype=torch.float64)
    return real, 0.8 * torch.randn(300, 16, generator=draws, dtype=torch.float64) + 0.3


def test_agrees_with_what_torch_fidelity_gave() -> None:
    """Version 0.4.0, by the calls of the test below; its shares are of single precision."""
    real, fake = features()
    assert frechet_distance(real, fake) == pytest.approx(2.5141441381900265, rel=1e-9)
    assert kernel_distance(real, fake) == pytest.approx(0.3032420153048436, rel=1e-9)
    ours = precision_recall_density_coverage(real, fake, 3)
    assert ours["precision"] == pytest.approx(0.9133333563804626, abs=1e-6)
    assert ours["recall"] == pytest.approx(0.36666667461395264, abs=1e-6)


def test_agrees_with_torch_fidelity() -> None:
    pytest.importorskip("torch_fidelity", exc_type=ImportError)
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, fake = features()
    statistics = (fid_features_to_statistics(each) for each in (fake, real))
    (fid,) = fid_statistics_to_metric(*statistics, False).values()
    assert frechet_distance(real, fake) == pytest.approx(fid, rel=1e-6)
    # (Its subsets are of all rows.)
    kid = kid_features_to_metric(fake, real, kid_subsets=1, kid_subset_size=300, verbose=False)
    assert kernel_distance(real, fake) == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-9)
    shares = prc_features_to_metric(fake, real, prc_neighborhood=3, save_cpu_ram=False, verbose=False)
    ours = precision_recall_density_coverage(real, fake, 3)
    # (Its balls are closed, which differs on ties alone.)
    assert ours["precision"] == pytest.approx(shares["precision"], abs=1e-6)
    assert ours["recall"] == pytest.approx(shares["recall"], abs=1e-6)
