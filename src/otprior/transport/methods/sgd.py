"""Averaged stochastic gradient on the semi-dual, preconditioned for high dimension.

For z normal and ln N ≪ d the scores ⟨z, y_i⟩ of centred atoms are nearly independent normal variables of standard
deviation |y_i|, so their maximum is nearly Gumbel. With q_i = √(2 ln 1/ν_i) and τ_i = |y_i|/q_i,

- a cell's mass moves like exp(h_i/τ_i), so τ_i/ν_i turns a mass error into the change of h_i that removes it: the
  preconditioner, with which every coordinate has the same rate of convergence;
- the h at which this model's own masses equal ν is the start (`independent_scores`; `warm_start` corrects it).

A step counts in which cells a block of draws falls. Draws are mixed from few (see `cells.search`), so a step is cheap.
Steps decrease as (1 + t/t₀)^(−0.6), slower than 1/t, and the answer is the average of the iterates with weights that
grow like √t (Polyak & Juditsky, 1992; Shamir & Zhang, 2013). They leave χ² of 0.4 to 1.1 N/n after n draws (1.45 N/n
where draws are not shared); a look at χ² on the way says when it will be small enough.

Cells share a draw by softmax rather than take it whole (`cells.entropic`). That makes steps less noisy, at the price
of a potential that is off, by a χ² that grows like ε⁴. So the first draws are shared at ε = τ, which finds what many
atoms have in common, and they say how far the masses of cells then are from those of shares. From there on ε falls like
n^(−1/4), so that this part of χ² falls like 1/n, as the other does.

Where the model is wrong, steps are too long. Near duplicates and tight clusters trade mass among themselves on the
scale of their differences, so the step of h_i is held below that of the distance to the nearest other atom. Where many
atoms have near duplicates, and in few dimensions, that does not help enough: see `block_newton`. Which of the two is
right, a trial on a few of the atoms says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from otprior.transport.cells import Cells
from otprior.transport.cells.entropic import EntropicCells
from otprior.transport.cells.search import DRAWS_PER_SET, LaguerreCells
from otprior.transport.chi_squared import draws_for
from otprior.transport.independent_scores import independent_score_start
from otprior.transport.measure import DiscreteMeasure, rows_per_block
from otprior.transport.methods import Iterate, Problem
from otprior.transport.methods.warm_start import warm_start
from otprior.transport.potential import natural_quantile, natural_scale
from otprior.utils.random import normal_block, stream_generator

name = "sgd"

# Draws planned are this many N/tol: what brings χ² to tol on most problems, and the margin that its upper limit takes.
DRAWS_PER_ATOM_AND_TOL = 1.75
# χ² is looked at after this many N/tol draws, on draws with a standard deviation of an eighth of the tolerance, and the
# plan is then for this part of the tolerance, as if it fell like 1/n.
LOOK, LOOK_DRAWS, AIM = 0.5, 8.0, 0.66
# Draws an atom from and until which cells are held against shares; what their difference adds to χ² in units of N/n.
COMPARED_FROM, COMPARED_TO, ALLOWED = 0.5, 1.0, 0.05
# The trial: so many atoms, draws of each, and at most so many times N/n left. (Normal atoms in 16 dimensions and more,
# mixtures and Fashion-MNIST are between 0.3 and 4.6; patches of photographs and five dimensions or fewer 7 to 40.)
TRIAL_ATOMS, TRIAL_DRAWS, TRIAL_LIMIT = 256, 10, 6.5
STEP_EXPONENT = 0.6
# Relative noise of a step: its scale times the spread √(1/(Bν)) of a frequency over its mass.
STEP_NOISE = 0.45
SHARED_STEP_NOISE = 0.675
# The step is halved or so after this many draws an atom.
DECAY_DRAWS = 2.5
AVERAGING_POWER = 0.5
CLIP = 3.0  # an update moves h_i by no more than this many τ_i
NEIGHBOUR_CAP = 2.0  # τ for a step: at most this many distances to the nearest atom, over q
COMPARED_WITH_ALL = 1 << 12  # atoms up to which each is compared with all others
DISTANCES_PER_BLOCK = 1 << 22
LINES, NEIGHBOURS_ON_LINE, LINE_BLOCK = 4, 4, 1 << 14


def suits(problem: Problem) -> bool:
    """Whether it does on some of the atoms what it should."""
    cells, measure = problem.cells, problem.measure
    if not isinstance(cells, LaguerreCells):
        return True
    order = torch.randperm(len(measure), generator=stream_generator(cells.seed, "trial"))
    chosen = order[:TRIAL_ATOMS].sort().values
    weights = measure.weights[chosen]
    few = DiscreteMeasure.build(measure.atoms[chosen], weights / weights.sum())
    trial = AveragedSgd(LaguerreCells.build(few, cells.seed, source=cells.source), "trial")
    state = trial.init()
    while state.step * trial.draws_per_step < TRIAL_DRAWS * len(few):
        state = trial.step(state)
    sets = range(max(8, TRIAL_DRAWS * len(few) // DRAWS_PER_SET))
    chi2 = trial.cells.chi_squared(state.average, "trial result", sets)
    return chi2.value * state.step * trial.draws_per_step <= TRIAL_LIMIT * len(few)


def iterates(problem: Problem, step: int = 0, state: Mapping[str, Tensor] | None = None) -> Iterator[Iterate]:
    """Yields the averages, without end."""
    cells, count = problem.cells, len(problem.measure)
    sgd = AveragedSgd(cells, shared=True)
    if state is None:
        now, expected = sgd.init(warm_start(cells, AveragedSgd)), expected_draws(problem)
    else:
        now, expected = SgdState.of(step, state, cells.atoms.device), int(state["expected"])
    look = math.ceil(LOOK * count / problem.tol / sgd.draws_per_step)
    while True:
        draws = now.step * sgd.draws_per_step
        tensors = now.tensors() | {"expected": torch.tensor(expected)}
        yield Iterate(now.average, draws, expected_draws=expected, step=now.step, state=tensors)
        now = sgd.step(now)
        if now.step == look:
            sets = max(8, round(draws_for(count, problem.tol / LOOK_DRAWS) / DRAWS_PER_SET))
            chi2 = cells.chi_squared(now.average, "plan", range(sets))
            ahead = chi2.value / (AIM * problem.tol)
            expected = int(look * sgd.draws_per_step * min(max(ahead, 1.0), DRAWS_PER_ATOM_AND_TOL / LOOK))


def expected_draws(problem: Problem) -> int:
    """Draws after which the tolerance should be reached."""
    return int(DRAWS_PER_ATOM_AND_TOL * len(problem.measure) / problem.tol)


@dataclass(frozen=True)
class SgdState:
    """The state after some steps.

    Attributes:
        step: Their number.
        iterate, average: The offsets, and the weighted average of those before; (N,) float64.
        gaps: How much more often cells were hit than shares say, relative to ν: the sums over even and odd steps in
            which both were counted; (2, N) float64.
    """

    step: int
    iterate: Tensor
    average: Tensor
    gaps: Tensor

    @classmethod
    def of(cls, step: int, tensors: Mapping[str, Tensor], device: torch.device) -> SgdState:
        """From `tensors`."""
        return cls(step, *(tensors[key].to(device) for key in ("iterate", "average", "gaps")))

    def tensors(self) -> dict[str, Tensor]:
        """All but the number of steps."""
        return {"iterate": self.iterate, "average": self.average, "gaps": self.gaps}


class AveragedSgd:
    """The iteration for one problem: `state = init(start)`, then `state = step(state)` as often as wanted.

    Step t uses the sets t·S to t·S + S − 1 of the stream, S = `sets_per_step`.

    Arguments:
        cells: Counts the draws of a step.
        stream: What the draws are for.
        shared: Whether cells share draws by a softmax that narrows from step to step. Otherwise, and where `cells`
            share them anyway, draws are counted as `cells` does.

    Attributes:
        cells, stream: The same.
        sets_per_step, draws_per_step: What a step takes.

    Examples:
        >>> method = AveragedSgd(LaguerreCells.build(DiscreteMeasure.of(torch.eye(3)), seed=0))
        >>> state = method.step(method.init(torch.zeros(3, dtype=torch.float64)))
    """

    def __init__(self, cells: Cells, stream: str = "fit", shared: bool = False) -> None:
        measure = cells.measure
        self._hard = cells if shared and isinstance(cells, LaguerreCells) else None
        self.sets_per_step = _sets_per_step(len(measure))
        self.draws_per_step = self.sets_per_step * DRAWS_PER_SET
        self.cells, self.stream = cells, stream
        self._weights = measure.weights.to(cells.atoms.device)
        tau = natural_scale(measure.atoms, self._weights)
        cap = NEIGHBOUR_CAP * _nearest_distance(cells.atoms) / natural_quantile(self._weights)
        self._step_scale = torch.minimum(tau, cap).clamp(min=1e-3 * tau)
        self._widest = float(tau.median())
        self._shares = EntropicCells(self._hard, self._widest) if self._hard else None
        noise = (1 / (self.draws_per_step * self._weights)).sqrt()
        most = SHARED_STEP_NOISE if self._hard else STEP_NOISE
        self._first_step = (most / noise).clamp(max=most)
        # Steps in which cells and shares are compared.
        first, last = (round(n * len(measure) / self.draws_per_step) for n in (COMPARED_FROM, COMPARED_TO))
        self._compared = range(first, max(last, first + 2)) if self._hard else range(0)
        self._decay_steps = max(20.0, DECAY_DRAWS * len(measure) / self.draws_per_step)

    def init(self, start: Tensor | None = None) -> SgdState:
        """The state before the first step, at the offsets `start` (N,) or at those of `independent_score_start`."""
        h = independent_score_start(self.cells.measure.atoms, self._weights) if start is None else start
        return SgdState(0, h, h, h.new_zeros(2, len(h)))

    def step(self, state: SgdState) -> SgdState:
        """One block of draws, one update."""
        first = state.step * self.sets_per_step
        numbers = range(first, first + self.sets_per_step)
        width, gaps = self.width(state), state.gaps
        cells = replace(self._shares, entropy=width) if self._shares else self.cells
        hits = cells.hits(state.iterate, self.stream, numbers)
        masses = hits.double() / (self.draws_per_step * cells.units_per_draw) / self._weights
        if self._hard and state.step in self._compared:
            wins = self._hard.hits(state.iterate, self.stream, numbers).double()
            gaps = gaps.clone()
            gaps[state.step % 2] += wins / self.draws_per_step / self._weights - masses
        rate = self._first_step * (1 + state.step / self._decay_steps) ** -STEP_EXPONENT
        update = (rate * (masses - 1)).clamp(-CLIP, CLIP)
        # (Shared masses change on the scale of ε, where that is larger.)
        iterate = state.iterate - self._step_scale.clamp(min=width) * update
        iterate -= iterate.mean()
        weight = (AVERAGING_POWER + 1) / (state.step + 1 + AVERAGING_POWER)
        return SgdState(state.step + 1, iterate, state.average + weight * (iterate - state.average), gaps)

    def width(self, state: SgdState) -> float:
        """ε of the softmax by which the next step's draws are shared; 0 where each has one cell."""
        if not self._hard:
            return self.cells.entropy
        if state.step <= self._compared[-1]:
            return self._widest
        # Even and odd steps have errors of their own, so that their product is right in the mean.
        odd = sum(step % 2 for step in self._compared)
        gap = state.gaps / state.gaps.new_tensor([len(self._compared) - odd, odd])[:, None]
        found, error = (gap[0] * gap[1] @ self._weights, (gap[0] - gap[1]).square() @ self._weights / 2)
        most = float(found.clamp(min=0.0) + error / len(self._weights) ** 0.5)
        draws = state.step * self.draws_per_step / len(self._weights)
        return self._widest * min(1.0, (ALLOWED / (max(most, 1e-9) * draws)) ** 0.25)


def _nearest_distance(atoms: Tensor) -> Tensor:
    """The distance of each atom (N, d) to the nearest other one, or to one that is near; shape (N,), float64."""
    if len(atoms) > COMPARED_WITH_ALL:
        return _distance_along_lines(atoms)
    half_squares = torch.linalg.vector_norm(atoms, dim=1).square_().mul_(0.5)
    # (Small results that live between large blocks would keep their memory from being used again.)
    found = torch.empty(len(atoms), dtype=torch.int64, device=atoms.device)
    rows = max(1, DISTANCES_PER_BLOCK // len(atoms))
    for start in range(0, len(atoms), rows):
        # ⟨y_i, y_j⟩ − |y_j|²/2 is largest for the nearest y_j.
        closeness = torch.addmm(-half_squares, atoms[start : start + rows], atoms.T)
        closeness.diagonal(start).fill_(-math.inf)
        found[start : start + rows] = closeness.argmax(dim=1)
    # Rounding may have picked another near atom; its distance is then exact all the same.
    size, distances = rows_per_block(atoms), torch.empty_like(found, dtype=torch.float64)
    for own, near, into in zip(atoms.split(size), found.split(size), distances.split(size)):
        into.copy_(torch.linalg.vector_norm((own - atoms[near]).double(), dim=1))
    return distances


def _distance_along_lines(atoms: Tensor) -> Tensor:
    """The least distance to the neighbours in the order of projections on random lines: finds near duplicates and
    tight clusters, which is what the step is held back for, in linear time."""
    lines = normal_block(0, "lines", 0, LINES, atoms.shape[1]).to(atoms.device, atoms.dtype)
    nearest = torch.full((len(atoms),), math.inf, dtype=torch.float64, device=atoms.device)
    for line in lines:
        order = (atoms @ line).argsort()
        for first in range(0, len(order), LINE_BLOCK):
            index = order[first : first + LINE_BLOCK + NEIGHBOURS_ON_LINE]
            points = atoms[index]
            for shift in range(1, NEIGHBOURS_ON_LINE + 1):
                distance = torch.linalg.vector_norm(points[shift:] - points[:-shift], dim=1).double()
                for one in (index[shift:], index[:-shift]):
                    nearest[one] = torch.minimum(nearest[one], distance)
    return nearest


def _sets_per_step(atoms: int) -> int:
    """Sets of draws a step: a tenth of the atoms in draws, between 512 draws and 16,384."""
    return min(64, max(2, round(atoms / 10 / DRAWS_PER_SET)))
