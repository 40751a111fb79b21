"""Keeps the model libraries' own chatter out of a program's output."""

from __future__ import annotations

import os

from baton.common.errors import Incompatible


def quiet_libraries() -> None:
    """Call before diffusers or transformers are imported; what goes wrong is raised anyway.

    Raises Incompatible where they are not installed.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "critical")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

    try:
        from transformers.utils import logging
    except ImportError as error:
        raise without_models(error) from error

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def without_models(error: ImportError) -> Incompatible:
    """What is said where a model library is missing."""
    return Incompatible(
        f"nothing can be drawn here without {error.name}: `pip install 'baton-diffusion[device]'`,"
        " or let edges draw: --members '' --arm edge"
    )
