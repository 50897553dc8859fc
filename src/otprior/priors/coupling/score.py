r"""What pairing changes about scores, and the correction.

Let x_t = (1 − t) z + t y with (z, y_i) drawn from a coupling of density φ(z) s_i(z), φ that of N(0, I) and
Σ_i s_i = 1. The part of the law of x_t that has image i has the density (1 − t)^−d φ(z_i) s_i(z_i) at x, with
z_i = (x − t y_i)/(1 − t). Summed over i and differentiated in x,

    ∇ log p_t(x) = 1/(1 − t) · E[ −z + ∇ log s_i(z) | x_t = x ].

With independent pairs s_i is a constant, and this is Tweedie's formula: the score is −E[z | x_t]/(1 − t). For the
entropic coupling, s_i(z) = softmax_i (⟨z, y_i⟩ + h_i)/ε, so ∇ log s_i(z) = (y_i − b(z))/ε with b(z) = Σ_j s_j(z) y_j.
Hence

    ∇ log p_t(x) = −E[ẑ | x_t = x]/(1 − t),    ẑ = z − (y_i − b(z))/ε,

the *corrected noise*. A network that learns ẑ by regression, as a second output beside the velocity, gives the score of
the marginal law; the plain noise, or x − t v from the velocity v = E[y − z | x_t], does not. (For x_t = α y + σ z it is
the same ẑ, and the score is −E[ẑ | x_t]/σ.) The variance of the correction grows as 1/ε. For ε = 0 it is a measure on
the faces of the cells, which no regression sees: within a piece the score is −z/(1 − t), and p_t vanishes between the
pieces.

*What needs it.* The flow itself does not, nor its likelihood: d log p_t(x_t)/dt = −div v holds for every coupling.
Samplers that add noise (SDEs, Langevin correctors) need the score. So does guidance: v + (w − 1)(v − v_∅), where v_∅ is
the velocity for no class, moves by the difference of the scores only if pairs are independent, for which
v = x/t + (1 − t)/t ∇ log p_t. With coupled pairs the same move is

    v_w = v + (w − 1) (1 − t)/t (∇ log p_t(x | c) − ∇ log p_t(x)) = v − (w − 1)/t (E[ẑ | x, c] − E[ẑ | x]).

References:
    Mousavi-Hosseini et al., Flow matching with semidiscrete couplings (2025), arXiv:2509.25519: the generalised Tweedie
    formula. The derivation here is our own.
"""

from __future__ import annotations

from torch import Tensor

from otprior.priors.coupling.pairs import Pairs, SemiDiscreteCoupling
from otprior.utils.torch_state import plain_torch
from otprior.utils.validation import check_tensor, require


@plain_torch()
def corrected_noise(coupling: SemiDiscreteCoupling, pairs: Pairs) -> Tensor:
    """ẑ = z − (y − b(z))/ε of each pair: the target whose mean given x_t is −(1 − t) times the score.

    Arguments:
        coupling: With entropy.
        pairs: Drawn from it.

    Returns:
        Shape (B, *shape), float32.

    Raises:
        ValueError: If the coupling has no entropy, or pairs are not of its shape or, by class, without labels.
    """
    entropy = coupling.maps.entropy
    hint = (
        "Fit one with entropy=; without, the correction lies on the faces of the cells, where no sample falls"
    )
    require(entropy > 0, "coupling", "one with entropy", "one without", hint)
    flat = coupling.check_batch(pairs.noise)
    same, shape = pairs.images.shape == pairs.noise.shape, tuple(pairs.images.shape)
    require(same, "pairs.images", f"shaped as their noise, {tuple(pairs.noise.shape)}", shape)
    by_class = coupling.maps.class_mass is not None
    labels = coupling.maps.check_labels(pairs.labels if by_class else None, len(flat))
    mean = coupling.maps.barycentre(flat, labels).reshape(pairs.noise.shape)
    return pairs.noise - (pairs.images - mean) / entropy


def score_from_noise(noise: Tensor, t: Tensor) -> Tensor:
    """∇ log p_t = −E[ẑ | x_t]/(1 − t), from a network's mean (B, ...) of corrected noise; t (B,), below 1.

    Raises:
        ValueError: If t has another shape, or reaches 1.
    """
    return -noise / _wide(t, 1 - t, noise, "below 1")


def guided_velocity(
    velocity: Tensor, noise: Tensor, noise_without: Tensor, t: Tensor, scale: float
) -> Tensor:
    """v_w = v − (w − 1)/t (E[ẑ | x, c] − E[ẑ | x]): classifier-free guidance under coupled pairs.

    Arguments:
        velocity: v for the class, shape (B, ...).
        noise, noise_without: A network's means of corrected noise for the class, and for no class.
        t: Above 0, shape (B,).
        scale: w; 1 is no guidance.

    Raises:
        ValueError: If t has another shape, or is 0.
    """
    return velocity - (scale - 1) * (noise - noise_without) / _wide(t, t, noise, "above 0")


def _wide(t: Tensor, divisor: Tensor, noise: Tensor, rule: str) -> Tensor:
    """t or 1 − t, to divide images by: after checks that t has the shape (B,) and that nothing is divided by 0."""
    check_tensor("t", t)
    require(t.shape == noise.shape[:1], "t", f"of shape ({len(noise)},)", tuple(t.shape))
    wrong = ~(divisor > 0)
    require(not wrong.any(), "t", rule, t[wrong][:5].tolist())
    return divisor.reshape(-1, *[1] * (noise.ndim - 1))
