"""The cells along circles z(θ) = a cos θ + b sin θ: where one is left and the next entered.

The score of an atom along a circle is f(θ) = h + A cos θ + B sin θ, with A = ⟨a, y⟩ and B = ⟨b, y⟩. Its peak is
h + √(A² + B²), so atoms whose peak does not reach the lowest value of the maximum win nowhere: most of very many. The
circle is cut into 32 arcs. Of the atoms that are left, the contenders of an arc are those that beat the winner at its
middle somewhere on the arc, which for two sinusoids is known exactly: a few.

Among contenders the winner is found at nine angles of the arc. Where neighbours differ, the angle at which their
scores are equal is in closed form; if a third atom has a higher score there it comes in between, and so on until no
third one has. (A cell that is entered and left between two neighbouring angles is missed.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from otprior.transport.potential import SCORES_PER_BLOCK

ARCS = 32
HALF_ARC = math.pi / ARCS
ANGLES_PER_ARC = 8
# Scores nearer than this, relative to their size, are equal.
EQUAL = 1e-12
ROUNDING = 1e-5  # of scores in float32
# Angles at which winners are looked for whose scores bound the maximum from below, and at which that bound is taken.
FIRST_ANGLES, BOUND_ANGLES = 16, 128


@dataclass(frozen=True)
class Crossings:
    """The crossings on C circles, in no particular order.

    Attributes:
        left: The atom whose cell is left as θ grows, int64 (P,).
        entered: The atom whose cell is entered, (P,).
        angle: θ − θ_0 in [0, 2π], (P,), float64, with one θ_0 for all circles.
        first: The atom at θ_0 of each circle, (C,).
    """

    left: Tensor
    entered: Tensor
    angle: Tensor
    first: Tensor


def find_crossings(a: Tensor, b: Tensor, offsets: Tensor) -> Crossings:
    """All crossings on the circles.

    Arguments:
        a, b: A and B, shape (C, N).
        offsets: h, shape (N,), float64.
    """
    arcs = _Arcs.of(*_contenders(a, b, offsets), a, b, offsets)
    turn = torch.linspace(-HALF_ARC, HALF_ARC, ANGLES_PER_ARC + 1, dtype=torch.float64, device=a.device)
    winner = arcs.winners(turn)
    # (An arc ends where the next begins, with a contender of both.)
    arc, place = torch.nonzero(winner[:, 1:] != winner[:, :-1], as_tuple=True)
    ends = turn[place], turn[place + 1], winner[arc, place], winner[arc, place + 1]
    arc, left, entered, angle = _refine(arcs, arc, *ends)
    first = torch.arange(len(a), device=a.device) * ARCS
    from_start = angle + HALF_ARC + (arc % ARCS).double() * (2 * HALF_ARC)
    return Crossings(
        arcs.atoms[arc, left], arcs.atoms[arc, entered], from_start, arcs.atoms[first, winner[first, 0]]
    )


def _reaching(a: Tensor, b: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """The atoms that may win somewhere on each circle, (C, K), and which of these entries are filled."""
    angle = torch.arange(FIRST_ANGLES, dtype=a.dtype, device=a.device) * (2 * math.pi / FIRST_ANGLES)
    winners = [
        torch.add(h, a, alpha=math.cos(t)).add_(b, alpha=math.sin(t)).argmax(dim=1) for t in angle.tolist()
    ]
    first = torch.stack(winners, dim=1)
    one, other = a.gather(1, first)[..., None], b.gather(1, first)[..., None]
    angle = torch.arange(BOUND_ANGLES, dtype=a.dtype, device=a.device) * (2 * math.pi / BOUND_ANGLES)
    value, place = (h[first][..., None] + one * angle.cos() + other * angle.sin()).max(dim=1)
    # Half a step away from an angle its winner has lost its amplitude times half a step at most.
    amplitude = torch.hypot(one, other).squeeze(2).gather(1, place)
    lowest = (value - amplitude * (math.pi / BOUND_ANGLES)).amin(dim=1)
    peak = torch.hypot(a, b).add_(h)
    lowest -= ROUNDING * peak.abs().amax(dim=1)
    circle, atom = torch.nonzero(peak >= lowest[:, None], as_tuple=True)
    return _table(circle, len(a), atom)[0], _table(circle, len(a), torch.ones_like(atom))[0].bool()


def _table(row: Tensor, count: int, *values: Tensor) -> list[Tensor]:
    """Values (P,) of ascending rows, side by side in tables (count, K); the rest is zero."""
    number = torch.bincount(row, minlength=count)
    column = torch.arange(len(row), device=row.device) - (number.cumsum(0) - number)[row]
    tables = []
    for each in values:
        table = each.new_zeros(count, int(number.max()))
        table[row, column] = each
        tables.append(table)
    return tables


def _contenders(a: Tensor, b: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Arc and atom of all that win somewhere on an arc, and of a few that do not; int64 (P,), arcs in order.

    Arc k of circle c has the number 32 c + k, and its middle at 2π k/32.
    """
    angle = torch.arange(ARCS, dtype=a.dtype, device=a.device) * (2 * math.pi / ARCS)
    here, ahead = (
        torch.stack(each, dim=1) for each in ((angle.cos(), angle.sin()), (-angle.sin(), angle.cos()))
    )
    atoms, filled = _reaching(a, b, offsets.to(a.dtype))
    h = torch.where(filled, offsets.to(a.dtype)[atoms], -torch.inf)
    scores = torch.stack([a.gather(1, atoms), b.gather(1, atoms)], dim=1)
    arc, atom = [], []
    rows = max(1, SCORES_PER_BLOCK // (4 * ARCS * atoms.shape[1]))
    for some in torch.arange(len(a), device=a.device).split(rows):
        value = here @ scores[some] + h[some][:, None]
        slope = ahead @ scores[some]
        best, winner = value.max(dim=2, keepdim=True)
        # Divided by cos t, a difference of scores at t from the middle is its value + slope · tan t + Δh (1/cos t − 1).
        reach = (slope - slope.gather(2, winner)).abs_().mul_(math.tan(HALF_ARC)).add_(value)
        own = h[some][:, None].expand_as(value).gather(2, winner)
        bend = (h[some].amax(dim=1)[:, None, None] - own) * (1 / math.cos(HALF_ARC) - 1)
        slack = bend + ROUNDING * (best.abs() + own.abs())
        circle, k, place = torch.nonzero(reach >= best - slack, as_tuple=True)
        arc.append((circle + some[0]) * ARCS + k)
        atom.append(atoms[some][circle, place])
    return torch.cat(arc), torch.cat(atom)


@dataclass(frozen=True)
class _Arcs:
    """The contenders of each arc, (n, K); scores h + A cos t + B sin t at an angle t from its middle, float64.

    Where an arc has fewer than K, h is −∞.
    """

    atoms: Tensor
    a: Tensor
    b: Tensor
    h: Tensor

    @classmethod
    def of(cls, arc: Tensor, atom: Tensor, a: Tensor, b: Tensor, offsets: Tensor) -> _Arcs:
        """Of those pairs (arc, atom) that beat the winner at the middle of the arc somewhere on it."""
        circle, middle = arc // ARCS, (arc % ARCS).double() * (2 * HALF_ARC)
        one, other = a[circle, atom].double(), b[circle, atom].double()
        cos, sin = middle.cos(), middle.sin()
        # Turned, so that each arc is around the angle zero.
        one, other, h = one * cos + other * sin, other * cos - one * sin, offsets[atom]
        count = len(a) * ARCS
        best = h.new_full((count,), -math.inf).scatter_reduce_(0, arc, h + one, "amax")
        place = torch.arange(len(arc), device=arc.device)
        is_best = torch.nonzero(h + one >= best[arc]).reshape(-1)
        winner = torch.full((count,), len(arc), device=arc.device).scatter_reduce_(
            0, arc[is_best], is_best, "amin"
        )[arc]
        apart = h - h[winner], one - one[winner], other - other[winner]
        keep = (_highest_on_arc(*apart) > 0) | (place == winner)
        arc, atom, one, other, h = (each[keep] for each in (arc, atom, one, other, h))
        atoms, one, other, h, filled = _table(arc, count, atom, one, other, h, torch.ones_like(arc))
        return cls(atoms, one, other, torch.where(filled.bool(), h, -math.inf))

    def winners(self, turn: Tensor) -> Tensor:
        """The contender of the highest score of each arc at the angles `turn` (M,); (n, M)."""
        cos, sin = turn.cos(), turn.sin()
        rows = max(1, SCORES_PER_BLOCK // (len(turn) * self.h.shape[1]))
        parts = zip(*(each[..., None].split(rows) for each in (self.a, self.b, self.h)))
        return torch.cat([(h + a * cos + b * sin).argmax(dim=1) for a, b, h in parts])

    def meeting(self, arc: Tensor, low: Tensor, high: Tensor, left: Tensor, entered: Tensor) -> Tensor:
        """The angle in [low, high] at which the score of `entered` overtakes that of `left`; all (P,)."""
        a, b, h = (each[arc, left] - each[arc, entered] for each in (self.a, self.b, self.h))
        # The difference size cos(t − peak) + h falls through zero once a turn, after its peak.
        angle = torch.atan2(b, a) + torch.arccos((-h / torch.hypot(a, b)).clamp(-1, 1))
        angle = low + torch.remainder(angle - low, 2 * math.pi)
        # (Rounding may put it a hair before `low`.)
        return torch.where(angle > low + math.pi, low, torch.minimum(angle, high))

    def third(self, arc: Tensor, angle: Tensor, left: Tensor, entered: Tensor) -> Tensor:
        """The contender whose score exceeds those of the two that meet at an angle, or `left`; all (P,)."""
        value = self.h[arc] + self.a[arc] * angle.cos()[:, None] + self.b[arc] * angle.sin()[:, None]
        highest, best = value.max(dim=1)
        here = torch.maximum(*(value.gather(1, each[:, None]).squeeze(1) for each in (left, entered)))
        return torch.where(highest > here + EQUAL * here.abs(), best, left)


def _highest_on_arc(h: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The maximum of h + a cos t + b sin t over an arc |t| ≤ π/32."""
    ends = h + a * math.cos(HALF_ARC) + b.abs() * math.sin(HALF_ARC)
    return torch.where(torch.atan2(b, a).abs() < HALF_ARC, h + torch.hypot(a, b), ends)


def _refine(
    arcs: _Arcs, arc: Tensor, low: Tensor, high: Tensor, left: Tensor, entered: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Arc, contender left, contender entered and angle of each crossing between angles whose winners differ."""
    done = []
    while len(arc):
        angle = arcs.meeting(arc, low, high, left, entered)
        third = arcs.third(arc, angle, left, entered)
        settled, divided = third == left, third != left
        done.append([each[settled] for each in (arc, left, entered, angle)])
        arc, low, high, left, entered, angle, third = (
            each[divided] for each in (arc, low, high, left, entered, angle, third)
        )
        # The third cell lies between the two: its interval is divided.
        arc, left, entered = arc.repeat(2), torch.cat([left, third]), torch.cat([third, entered])
        low, high = torch.cat([low, angle]), torch.cat([angle, high])
    if not done:
        return arc, left, entered, low
    return tuple(torch.cat(each) for each in zip(*done))  # type: ignore[return-value]
