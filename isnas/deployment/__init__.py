"""Use of a trained network: predictions of what is on images, and exports for other programs."""
