"""Codes of images: is the encoder the optimal map, and what do codes carry?

A study encodes images, decodes seeds, swaps codes between classes or networks, and puts every map between images and
noise on one scale. It is done in a work folder, piece by piece, so that an interrupted study goes on where it stopped.

`study` says what a study is; `pieces` is the network's work, batch by batch, and `network_stages` runs it; `maps` pairs
points with exact optimal transport, `swaps` swaps codes, `layout` measures what swaps keep; `run` puts it together. The
statistics themselves are those of `otprior.transport.assignment` and of the claims `codes-images-…`.
"""
