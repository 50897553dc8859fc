r"""Is the flow map between two moments the gradient of a convex function? Its Jacobian would be symmetric.

The Jacobian solves dJ/ds = A(s) J with A = ∂D/∂u − α I symmetric. A product of symmetric matrices is symmetric if
they commute, and along a path of the flow they need not. From pure noise, with B = Σ − I and C = T·z, where
(T·z)_ij = E[(x_0 − μ)_i (x_0 − μ)_j ⟨x_0 − μ, z⟩] is the third cumulant of the data against z,

    A(s) = s B + s² C + O(s³),   so   ½ (J − Jᵀ) = −(s⁵/60) (B C − C B) + O(s⁶).

(The second-order term of J is ∫_{a>b} A(a) A(b), whose antisymmetric part is ½ ∫_{a>b} [A(a), A(b)], and [A(a),
A(b)] = (a b² − a² b) [B, C] to lowest order.) So the flow from noise to data whose third cumulant against some z
does not commute with Σ is not optimal transport; and the fifth power says why this is hard to see at early times,
or in a cost. Gaussians, products in fixed axes, and laws of rotational symmetry have commuting A, and symmetric J:
the controls.

Lavenant & Santambrogio, The flow map of the Fokker-Planck equation does not provide optimal transport (2022).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from otprior.diffusion.denoisers import ExactDenoiser, GaussianDenoiser, MixtureDenoiser
from otprior.diffusion.flow import NOISE, Scales, flow_jacobian
from otprior.metrics.intervals import bootstrap_mean
from otprior_studies.claims.claim import PRIOR_V1, Curves, Effort, Finding, claim

END = Scales.vp(0.9)
ODE_TOLERANCE = 1e-8


def antisymmetry(jacobian: Tensor) -> Tensor:
    """|J − Jᵀ|/|J + Jᵀ| in Frobenius norm, (B, d, d) to (B,): tan φ for a rotation by φ of a plane."""
    skew, even = jacobian - jacobian.mT, jacobian + jacobian.mT
    return torch.linalg.matrix_norm(skew) / torch.linalg.matrix_norm(even)


def counter_example() -> MixtureDenoiser:
    """Three unequal round Gaussians at the corners of a triangle without symmetry."""
    means = torch.tensor([[0.0, 0.0], [3.0, 0.0], [2.4, 1.2]], dtype=torch.float64)
    return MixtureDenoiser(torch.tensor([0.3, 0.4, 0.3]), means, 0.04 * torch.eye(2).expand(3, 2, 2))


def third_cumulant(law: MixtureDenoiser, z: Tensor) -> Tensor:
    """T·z of a mixture of Gaussians, z (B, d) to (B, d, d)."""
    total = torch.zeros(len(z), law.dim, law.dim, dtype=z.dtype)
    for weight, part in zip(law.weights, law.components):
        shift = part.mean - law.mean
        along = z @ shift
        cross = shift[:, None] * (z @ part.covariance)[:, None, :]
        total += weight * (
            along[:, None, None] * (torch.outer(shift, shift) + part.covariance) + cross + cross.mT
        )
    return total


def _controls() -> dict[str, ExactDenoiser]:
    """Laws for which the flow is optimal."""
    cross = torch.tensor([[2.0, 1.0], [-2.0, 1.0], [2.0, -1.5], [-2.0, -1.5]], dtype=torch.float64)
    product = torch.tensor([0.3 * 0.6, 0.7 * 0.6, 0.3 * 0.4, 0.7 * 0.4], dtype=torch.float64)
    halves = torch.full((2,), 0.5, dtype=torch.float64)
    rings = torch.tensor([0.1, 2.0], dtype=torch.float64)[:, None, None] * torch.eye(2)
    return {
        "Gaussian": GaussianDenoiser(torch.ones(2), torch.tensor([[2.0, 1.4], [1.4, 1.5]])),
        "product of two mixtures": MixtureDenoiser(product, cross, 0.1 * torch.eye(2).expand(4, 2, 2)),
        "two round Gaussians of one centre": MixtureDenoiser(halves, torch.zeros(2, 2), rings),
    }


@claim(
    "flow-jacobian", PRIOR_V1, "The probability flow is an optimal transport map (its Jacobian is symmetric)."
)
def symmetric_flow(effort: Effort) -> Finding:
    law, z = counter_example(), effort.normal("jacobian", effort.choose(2000, 150), 2)
    _, jacobian = flow_jacobian(law, z, NOISE, END, rtol=1e-12, atol=1e-12)
    _, looser = flow_jacobian(law, z, NOISE, END, rtol=1e-10, atol=1e-10)
    error = float((jacobian - looser).abs().max())
    values = antisymmetry(jacobian)
    found = bootstrap_mean(values, effort.generator("jacobian bootstrap"))
    controls = {
        name: float(antisymmetry(flow_jacobian(other, z[:100], NOISE, END)[1]).max())
        for name, other in _controls().items()
    }
    measured, predicted = [], []
    commutator = law.covariance @ third_cumulant(law, z) - third_cumulant(law, z) @ law.covariance
    first = float(torch.linalg.matrix_norm(commutator).mean())
    for s in (0.05, 0.1, 0.2, 0.4, 0.8):
        _, early = flow_jacobian(law, z, NOISE, Scales.vp(math.tanh(s)), rtol=1e-13, atol=1e-14)
        # (To unit scale at both ends already: a VP process.)
        skew = torch.linalg.matrix_norm(early - early.mT) / 2
        measured.append((s, float(skew.mean())))
        predicted.append((s, s**5 / 60 * first))
    largest = float(values.max())
    return Finding(
        statistic=found.estimate,
        interval=(found.lo - error, found.hi + error),
        threshold=ODE_TOLERANCE,
        unseen_rotation=math.degrees(ODE_TOLERANCE),
        why=f"Mean of |J − Jᵀ|/|J + Jᵀ| over the noise, three Gaussians, to α = {END.alpha}: the tangent of "
        f"a rotation, up to {math.degrees(math.atan(largest)):.1f}° here. Optimal transport gives 0. The "
        "data's third cumulant does not commute with their covariance.",
        details={
            "ODE error of the Jacobian": error,
            "mean rotation, degrees": math.degrees(math.atan(found.estimate)),
            "largest rotation, degrees": math.degrees(math.atan(largest)),
            "controls, largest value": controls,
            "measured over first term at s = 0.05": measured[0][1] / predicted[0][1],
        },
        curves=(
            Curves(
                "flow-jacobian",
                "The flow's rotation grows like the fifth power of time from noise",
                "s = asinh(α/σ)",
                "mean |J − Jᵀ|/2",
                {"measured": measured, "first term, s⁵/60 |[Σ, T·z]|": predicted},
                "xy",
            ),
        ),
    )
