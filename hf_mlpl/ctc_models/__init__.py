"""Lets the recipe use CTC models of any architecture of transformers, by one interface."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__, {"choice": "ctc_interface", "interface": "CtcInterface CtcOutput DecodedText"}
)
