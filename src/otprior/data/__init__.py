"""Images in and out, and the bundled network, images and classifier."""

from otprior.data.images import ImageSet, check_images, check_labels, load_images, to_pixels, to_uint8
from otprior.data.samples import SampleSet, read_samples

__all__ = [
    "ImageSet",
    "SampleSet",
    "check_images",
    "check_labels",
    "load_images",
    "read_samples",
    "to_pixels",
    "to_uint8",
]
