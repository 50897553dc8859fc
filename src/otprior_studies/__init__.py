"""Studies made with otprior: comparisons, reproductions of papers, claims, codes. Nothing in otprior imports it."""
