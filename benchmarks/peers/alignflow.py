"""AlignFlow's scheme, written from its description: AMSGrad on an entropic semi-dual, with a moving average.

The cost is |x − y|², so its dual vector v makes h = (v − |y|²)/2. Softmax at ε = 0.01, batches of 128, rate 1, and a
moving average of decay 0.9999, which begins at the start (zero) and is what is returned; no bias correction. For images
its authors use other settings in three runs, each from the last one's result (rate 10 then 0.1, ε = 1 then 0.01, decay
0.99 then 0.999, batches of 1,024 to 16,384): such values are on the grid, in one run.

Its start may be given. `start` "zero" is its default; "norms" is v = |y|², which is h = 0.

References:
    Kong et al. (2025): AlignFlow. https://arxiv.org/abs/2510.15038
"""

from __future__ import annotations

import itertools

import torch

from peers import Clock, Peer, Problem, Settings


def offsets(problem: Problem, v: torch.Tensor) -> torch.Tensor:
    """h (N,), float64, of the dual vector v (N,)."""
    return (v.double() - torch.from_numpy(problem.square_norms())) / 2


def adam(parameters: list[torch.Tensor], rate: float) -> torch.optim.Adam:
    """AMSGrad; parameters get a gradient of zero."""
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    return torch.optim.Adam(parameters, lr=rate, amsgrad=True)


def run(problem: Problem, settings: Settings, seed: int, clock: Clock) -> None:
    """Settings: `step` is the rate, `ema` the decay, `smoothing` is ε; `batch`; `start`."""
    # The first step of an optimiser imports much of torch.
    adam([torch.zeros(1)], 1.0).step()
    clock.start()
    y = torch.from_numpy(problem.atoms)
    weights = torch.from_numpy(problem.filled_weights())
    square_norms = torch.from_numpy(problem.square_norms()).to(y.dtype)
    generator = torch.Generator().manual_seed(seed)
    v = square_norms.clone() if settings["start"] == "norms" else torch.zeros_like(weights)
    average = v.clone()
    optimizer = adam([v], settings["step"])
    smoothing, size = settings["smoothing"], settings["batch"]
    for step in itertools.count(1):
        z = torch.randn(size, y.shape[1], generator=generator, dtype=y.dtype)
        # |x|² is common to a row, and a softmax does not see it.
        scores = torch.addmm(v - square_norms, z, y.T, alpha=2)
        v.grad = torch.softmax(scores.div_(smoothing), dim=1).mean(dim=0) - weights
        optimizer.step()
        average.lerp_(v, 1 - settings["ema"])
        clock(step * size, lambda: offsets(problem, average).numpy())


DEFAULTS = {"step": 1.0, "batch": 128, "ema": 0.9999, "smoothing": 0.01, "start": "zero"}

PEER = Peer(
    label="AlignFlow",
    defaults=DEFAULTS,
    starts=(
        DEFAULTS | {"ema": 0.99},
        {"step": 1.0, "batch": 1024, "ema": 0.99, "smoothing": 1.0, "start": "norms"},
    ),
    axes={"ema": (0.9, 0.99, 0.999), "smoothing": (0.01, 1.0), "batch": (128, 1024, 4096)},
    run=run,
    note="defaults of its function",
)
