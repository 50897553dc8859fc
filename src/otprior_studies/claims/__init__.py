"""The claims of papers as tests, one file each; `claim` defines verdicts, `registry` finds the claims."""
