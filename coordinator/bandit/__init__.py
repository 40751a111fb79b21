"""Contextual bandit over relay arms: LinUCB, its context, its reward and its exploration floor."""
