"""The rival that solves nothing beforehand: mini-batch optimal transport.

A batch of B seeds and B random training images are paired by the exact assignment of least Σ |z − y|²; the start is
α y + σ z, as that of the coupled prior. With B → ∞ it is the coupled start. At any B it is a coupling whose noise leans
towards its atom, less so the smaller B is.

A start depends on its mini-batch here, and so on the batch that it is computed in. A prior's start has to be a function
of its row, which this is not: it is made for studies, from random atoms, and never saved.

References:
    Tong et al., Improving and generalizing flow-based generative models with minibatch optimal transport (2023),
    arXiv:2302.00482.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from otprior.priors.base import Prior
from otprior.priors.random_atom import RandomAtomPrior


class MiniBatchPrior(RandomAtomPrior):
    """T(z) = α y_{i(z)} + σ z, the atoms of `RandomAtomPrior` paired anew within the rows of one call.

    Build it with `of`.
    """

    kind = "mini_batch"
    made_from = "random_atom"
    loadable = False
    needs_fresh = False

    @classmethod
    def derive(cls, fitted: Prior, timestep: float, options: Mapping[str, Any]) -> Self:
        """Made by `of` from a random atom's prior."""
        assert isinstance(fitted, RandomAtomPrior)
        cls.Options.make(options)
        return cls.of(fitted, timestep)

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> str:
        """What it is."""
        return "mini-batch transport"

    def _source(self, z: Tensor, labels: Tensor | None) -> Tensor:
        source = super()._source(z, labels)
        classes = torch.zeros(len(z), dtype=torch.int64) if labels is None else labels
        for label in classes.unique().tolist():
            rows = torch.nonzero(classes == label).reshape(-1)
            # (|z|² and |y|² are the same for every pairing.)
            scores = z[rows].double() @ self.atoms[source[rows]].double().T
            paired = torch.from_numpy(linear_sum_assignment(scores.cpu().numpy(), maximize=True)[1])
            source[rows] = source[rows][paired.to(source.device)]
        return source

    def _start_and_source(
        self, z: Tensor, labels: Tensor | None, fresh: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        source = self._source(z, labels)
        return self.alpha * self.atoms[source] + self.sigma * z, source
