"""What is done with a trained network: it tells what is on images, and it is exported for other programs."""
