"""What a solve gives: a potential, how good it is, how it ended; and what it reports on the way."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TypedDict

import torch
from torch import Tensor

from otprior.transport.adjacency import Adjacency, sample_adjacency
from otprior.transport.chi_squared import ChiSquared
from otprior.transport.measure import DiscreteMeasure
from otprior.utils.random import seed_from
from otprior.utils.validation import require


class Outcome(enum.Enum):
    """How a solve ended; `remedy` says what to do about it.

    Examples:
        >>> Outcome.CONVERGED.remedy
        'Nothing to do.'
    """

    CONVERGED = "converged"
    BUDGET_SPENT = "budget spent"
    DIVERGED = "diverged"

    @property
    def remedy(self) -> str:
        """What to change, in a sentence."""
        return _REMEDIES[self]


_REMEDIES = {
    Outcome.CONVERGED: "Nothing to do.",
    Outcome.BUDGET_SPENT: "Raise max_draws (the error falls like 1/draws), raise tol, or use fewer atoms.",
    Outcome.DIVERGED: "Check the atoms for extreme outliers and the weights for extreme ratios, or rescale the atoms.",
}


class SolveStats(TypedDict):
    """How a solve went.

    Keys:
        method: Names of the methods that were tried, ", then " between them.
        atoms, dim: Distinct atoms of positive weight N, and d.
        draws: Draws that methods took; those of the stopping rule are not counted.
        seconds: Of all processes that went on from one checkpoint.
        seed: Of the draws.
        source: "normal", "uniform" or "sampler".
        entropy: ε.
        precision: "float32", or "bfloat16" where draws were screened in it.
        processes: How many shared the work.
    """

    method: str
    atoms: int
    dim: int
    draws: int
    seconds: float
    seed: int
    source: str
    entropy: float
    precision: str
    processes: int


@dataclass(frozen=True)
class Solution:
    """The potential of a semi-discrete problem, and how good it is.

    Attributes:
        potential: h of u(z) = max_i ⟨z, y_i⟩ + h_i, one for each atom given, shape (M,), float64; mean zero over
            the distinct atoms of positive weight; a duplicate carries its representative's value (ties go to the
            lowest index), an atom of zero weight −∞.
        chi2: χ² of the cell masses on fresh draws, with its standard error.
        outcome: How it ended.
        removed: Indices of the atoms of zero weight, shape (R,).
        stats: How it went.
        measure: The atoms, and how distinct ones correspond to those given.

    Examples:
        >>> solution = solve_semidiscrete(torch.eye(3), tol=0.01)
        >>> solution.potential.shape, solution.chi2.upper <= 0.01
        (torch.Size([3]), True)
    """

    potential: Tensor
    chi2: ChiSquared
    outcome: Outcome
    removed: Tensor
    stats: SolveStats
    measure: DiscreteMeasure = field(repr=False)

    def adjacency(self, draws: int, *, generator: torch.Generator | None = None) -> Adjacency:
        """Samples which cells meet, and the normal mass of their faces; see `otprior.transport.adjacency`.

        Arguments:
            draws: Draws of N(0, I), at least 512. Ten an atom give its noise's mean to 15 % or so on images.
            generator: Seeds the draws; None stands for a fixed seed.

        Returns:
            Faces with their standard errors; `conditional_means` gives the mean of the noise in each cell.

        Raises:
            ValueError: If there are fewer draws, or the solve was for another source or with entropy.

        Examples:
            >>> solution = solve_semidiscrete(torch.tensor([[-1.0], [1.0]]))
            >>> means, errors = solution.adjacency(20_000).conditional_means()  # near ∓√(2/π)
        """
        source, entropy = self.stats["source"], self.stats["entropy"]
        require(source == "normal", "adjacency", "asked of a solve from N(0, I)", source)
        require(not entropy, "adjacency", "asked of a solve without entropy", entropy)
        return sample_adjacency(self.measure, self.potential, draws, seed_from(generator))


@dataclass(frozen=True)
class Progress:
    """What a solve reports on the way.

    Attributes:
        draws: Draws so far.
        expected_draws: Draws expected in all, by the present estimate.
        chi2: The last χ² measured; None before the first.

    Examples:
        >>> seen = []
        >>> solution = solve_semidiscrete(torch.randn(20, 3), progress=seen.append)
        >>> isinstance(seen[-1], Progress)
        True
    """

    draws: int
    expected_draws: int
    chi2: ChiSquared | None


class ConvergenceError(RuntimeError):
    """Raised by `solve_semidiscrete(throw=True)` when the tolerance was not reached; carries `.solution`.

    Examples:
        >>> solution = solve_semidiscrete(torch.randn(20, 3), throw=False)
        >>> ConvergenceError(solution, tol=1e-6).solution is solution
        True
    """

    def __init__(self, solution: Solution, tol: float) -> None:
        self.solution = solution
        chi2 = solution.chi2
        super().__init__(
            f"semi-discrete solve {solution.outcome.value}: χ² = {chi2.value:.3g} ± {chi2.standard_error:.2g} "
            f"after {solution.stats['draws']:,} draws, where tol = {tol:g}. {solution.outcome.remedy} "
            "(throw=False returns the solution as it is.)"
        )
