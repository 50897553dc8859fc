"""The papers whose claims are tested, as reports name them.

"(abstract)" says that a statement is taken from the paper's abstract: its theorem may carry assumptions or a norm
that the abstract does not mention. What is stated without it is a derivation in docs/claims.md.
"""

# Wang et al., Solving prior distribution mismatch in diffusion models via optimal transport: two versions that differ.
PRIOR_V1 = "arXiv:2410.13431v1 (abstract)"
PRIOR_V2 = "arXiv:2410.13431v2 (abstract)"
# Khrulkov et al., Understanding DDPM latent codes through optimal transport (ICLR 2023).
CODES = "arXiv:2202.07477 (abstract)"
# A sharper or opposite statement than the paper's, derived in docs/claims.md.
DERIVED = "docs/claims.md, after arXiv:2410.13431"
