r"""Making a stock scheduler of diffusers begin at t*, at a given number of steps or on a given grid.

No scheduler is changed in place: a fresh one is made that differs in its schedule only. `start` has the door,
`start_scheduler`; `start_at` puts a scheduler of the same class around it, which any pipeline can be given; `support`
has the table of what can start; `vp`, `flow` and `edm` say how, a family a file; `names` finds schedulers by the names
that people use.
"""

from otprior.sampling.schedulers.start import matching_timestep, start_scheduler
from otprior.sampling.schedulers.start_at import start_at
from otprior.sampling.schedulers.support import supported_schedulers

__all__ = ["matching_timestep", "start_at", "start_scheduler", "supported_schedulers"]
