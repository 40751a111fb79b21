"""Where decisions and rewards are kept, so that what was acknowledged survives a crash."""
