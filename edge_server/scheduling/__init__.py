"""How an edge shares its model between denoising and decoding."""
