"""Sampling from a prior: the diffusers pipeline, schedulers that begin at t*, and files of settings."""

from otprior.sampling.attach import attach, detach
from otprior.sampling.fitted_grid import fit_grid
from otprior.sampling.inputs import seeds_to_generators
from otprior.sampling.pipeline import OTPriorPipeline, OTPriorPipelineOutput
from otprior.sampling.schedulers import matching_timestep, start_at, start_scheduler, supported_schedulers
from otprior.sampling.settings import read_settings, write_settings
from otprior.sampling.start_spec import StartSpec

__all__ = [
    "OTPriorPipeline",
    "OTPriorPipelineOutput",
    "StartSpec",
    "attach",
    "detach",
    "fit_grid",
    "matching_timestep",
    "read_settings",
    "seeds_to_generators",
    "start_at",
    "start_scheduler",
    "supported_schedulers",
    "write_settings",
]
