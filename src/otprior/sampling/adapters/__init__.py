"""Networks from outside diffusers as an `OTPriorPipeline`, a file a library; none of the libraries is imported."""

from otprior.sampling.adapters.azula import from_azula
from otprior.sampling.adapters.k_diffusion import from_k_diffusion
from otprior.sampling.adapters.lucidrains import from_lucidrains
from otprior.sampling.adapters.module import from_module

__all__ = ["from_azula", "from_k_diffusion", "from_lucidrains", "from_module"]
