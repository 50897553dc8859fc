"""Images in and out, and the bundled network, images and classifier."""
