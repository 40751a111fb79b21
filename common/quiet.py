"""Keeps the model libraries' own chatter out of a program's output."""

from __future__ import annotations

import os


def quiet_libraries() -> None:
    """Call before diffusers or transformers are imported; what goes wrong is raised anyway."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "critical")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
