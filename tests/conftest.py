"""Fixtures that several test files share."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with golden data of the original program and recordings of people; it lies beside a checkout, not in it."""
    if not SHARED.is_dir():
        pytest.skip("the folder ../shared (golden data of the original program, recordings) is not there")
    return SHARED


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    return shared / "golden"
