"""The papers' claims as tests, a file each; `claim` says what a verdict means, `registry` finds them."""
