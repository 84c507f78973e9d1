"""What scenarios can ask for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.arena import Arena, opened


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    """Without faults until a plan is set."""
    with opened(tmp_path, seed=1) as arena:
        yield arena
