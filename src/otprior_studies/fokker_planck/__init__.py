"""The Fokker-Planck equation of the forward process, ∂p/∂t = div(x p) + Δp, and particles that move with it.

`otprior.diffusion.denoisers` knows the score of some laws in closed form. Here it comes from the equation instead, for
any density that is a short tensor train of functions of one variable (`trains`): by modes, exactly in time (`hermite`),
or as the authors of 2202.07477 solve it (`cross`, extra `theory`). `particles` moves points by −x − ∇ log p to the
normal law.
"""
