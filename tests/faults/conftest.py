"""What the tests of faults share."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def _uncounted() -> Iterator[None]:
    """Let the workers that are harmed run at their own speed: nobody counts which of their lines were reached."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield
