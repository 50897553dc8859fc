"""Images in and out, and the bundled network, images and classifier."""

from otprior.data.images import ImageSet, check_images, to_uint8
from otprior.data.latents import encode_images
from otprior.data.samples import SampleSet, read_samples
from otprior.data.streams import ImageStream, load_images, open_images

__all__ = [
    "ImageSet",
    "ImageStream",
    "SampleSet",
    "check_images",
    "encode_images",
    "load_images",
    "open_images",
    "read_samples",
    "to_uint8",
]
