"""Optimal-transport priors for diffusion models.

Names are imported on first use (PEP 562), so that `import otprior` and `otprior --help` stay light.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "NoiseSchedule": "otprior.diffusion.schedule",
    "timestep_grid": "otprior.diffusion.grids",
    "Outcome": "otprior.transport.solution",
    "Solution": "otprior.transport.solution",
    "solve_semidiscrete": "otprior.transport.solve",
    "transport_cost": "otprior.transport.cost",
    "BrenierPotential": "otprior.transport.potential",
    "Prior": "otprior.priors",
    "IdentityPrior": "otprior.priors",
    "GaussianPrior": "otprior.priors",
    "MixturePrior": "otprior.priors",
    "SemiDiscretePrior": "otprior.priors",
    "RandomAtomPrior": "otprior.priors",
    "SemiDiscreteCoupling": "otprior.priors.coupling",
    "OTPriorPipeline": "otprior.sampling",
    "attach": "otprior.sampling",
    "detach": "otprior.sampling",
    "start_at": "otprior.sampling",
    "seeds_to_generators": "otprior.sampling",
    "load_images": "otprior.data",
    "bundled": "otprior.data.bundled",
    # diffusers reloads a pipeline's component only from a module that shows it, and this base class.
    "ModelMixin": "diffusers",
    "MixtureNetwork": "otprior.diffusion.mixture_network",
}
_FOR_DIFFUSERS = ("ModelMixin", "MixtureNetwork")

__all__ = ["__version__", *(name for name in _HOMES if name not in _FOR_DIFFUSERS)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'otprior' has no attribute {name!r}")
    home = import_module(_HOMES[name])
    value = home if name == "bundled" else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
