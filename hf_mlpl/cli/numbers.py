"""Reads numbers of the command line."""

from __future__ import annotations

import argparse
import math


def finite(text: str) -> float:
    """Returns a number for argparse's `type`; Python's own `float` takes nan and inf, with which nothing is right."""
    try:
        if math.isfinite(number := float(text)):
            return number
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is no finite number, such as 0.5")
