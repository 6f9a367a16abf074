"""Damages the original program's checkpoint by chance, and reads it: a model, or an error of one line."""

import pytest

from ..interop.test_flashlight import fuzz

pytestmark = pytest.mark.slow


def test_ten_thousand_mutated_files(golden, tmp_path):
    assert fuzz(golden / "models" / "tiny40" / "model.bin", tmp_path, 10_000) >= 10_000
