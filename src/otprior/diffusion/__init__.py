"""The diffusion process: noise schedules, denoisers, the probability flow, latent codes, grids of timesteps.

`NoiseSchedule` says how much signal and noise each timestep has. A `Denoiser` estimates the clean image: exactly for
known laws (`GaussianDenoiser`, `MixtureDenoiser`, `FiniteDenoiser`), or by a network (`NetworkDenoiser`).
`probability_flow` carries points between two moments (`Scales`) of the process; `ImageCoder` takes images to latent
codes and back, `swap` decodes codes with another network. `log_likelihood` follows the density along the flow.

Names are imported on first use (PEP 562): commands read `known_schedules` before anything heavy is loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
    "codes": ("Codes", "Encoder", "Encoding", "ImageCoder", "code_moments", "swap"),
    "denoisers": ("Denoiser", "ExactDenoiser", "FiniteDenoiser", "GaussianDenoiser", "MixtureDenoiser"),
    "flow": ("NOISE", "FlowSolution", "Scales", "flow_grid", "flow_jacobian", "probability_flow"),
    "grids": ("timestep_grid",),
    "likelihood": ("Likelihood", "bits_per_dimension", "log_likelihood"),
    "network": ("NetworkDenoiser",),
    "schedule": ("NoiseSchedule",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
