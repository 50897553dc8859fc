"""The rival that solves nothing beforehand: mini-batch optimal transport.

A batch of B seeds and B random training images are paired by the exact assignment of least Σ |z − y|²; the start is
α y + σ z, as that of the coupled prior. With B → ∞ it is the coupled start. At any B it is a coupling whose noise leans
towards its atom, less so the smaller B is.

A start depends on its mini-batch here, and so on the batch that it is computed in: the one prior that is no function
of its row.

References:
    Tong et al., Improving and generalizing flow-based generative models with minibatch optimal transport (2023),
    arXiv:2302.00482.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from otprior.priors.random_atom import RandomAtomPrior


class MiniBatchPrior(RandomAtomPrior):
    """T(z) = α y_{i(z)} + σ z, the atoms of `RandomAtomPrior` paired anew within the rows of one call.

    Build it with `of` (or `fit`).
    """

    kind = "mini_batch"

    needs_fresh = False

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
