"""The diffusers pipeline that starts at t* from a prior; `pipeline` says what it does."""

from otprior.sampling.inputs import seeds_to_generators
from otprior.sampling.pipeline import OTPriorPipeline, OTPriorPipelineOutput

__all__ = ["OTPriorPipeline", "OTPriorPipelineOutput", "seeds_to_generators"]
