"""What scenarios can ask for."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.arena import Arena, opened


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    """Without faults until a plan is set. SCENARIO_SEED=N makes another run."""
    with opened(tmp_path, seed=int(os.environ.get("SCENARIO_SEED") or 1)) as arena:
        yield arena
