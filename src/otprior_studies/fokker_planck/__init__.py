"""The Fokker-Planck equation of the forward process, ∂p/∂t = div(x p) + Δp, and particles that move with it.

`otprior.diffusion.denoisers` knows the score of some laws in closed form. Here it comes from the equation instead,
for any
density that is a short train of functions of one variable: by modes (`HermitePath`, exact in time), or as the authors
of 2202.07477 solve it (`solve_by_cross`, extra `theory`). `carry` moves particles by −x − ∇ log p to the normal law.
"""

from otprior_studies.fokker_planck.cross import CrossPath, solve_by_cross
from otprior_studies.fokker_planck.hermite import Cores, HermitePath
from otprior_studies.fokker_planck.particles import DensityPath, carry, carry_with_jacobian
from otprior_studies.fokker_planck.trains import Basis, FunctionTrain, chebyshev, decompose, hermite

__all__ = [
    "Basis",
    "Cores",
    "CrossPath",
    "DensityPath",
    "FunctionTrain",
    "HermitePath",
    "carry",
    "carry_with_jacobian",
    "chebyshev",
    "decompose",
    "hermite",
    "solve_by_cross",
]
