"""The kit as pytest tests; nothing else of the kit needs pytest."""

from collections.abc import Callable, Iterable
from typing import Any

from gan_blocks.testing.case import Case
from gan_blocks.testing.checks import names_of_checks


def parametrize(cases: Iterable[Case]) -> Callable[[Any], Any]:
    """Run a test once for each case and each check that applies to it.

    Args:
        cases: The table.

    Raises:
        ValueError: If it is empty, so that nothing would be tested; or as `names_of_checks`.

    Example:
        ```python
        from gan_blocks.testing import Case, check, parametrize

        CASES = [
            Case(
                {"block": "WassersteinLoss"},
                inputs=lambda make: (make(8), make(5)),
                call=lambda loss, real, fake: loss.discriminator(real, fake),
                reference=lambda loss, real, fake: fake.sum() / 5 - real.sum() / 8,
            )
        ]

        @parametrize(CASES)
        def test_conformance(case, name):
            check(case, name)
        ```
    """
    import pytest

    pairs = [
        pytest.param(case, name, id=f"{case.name}-{name}")
        for case in cases
        for name in names_of_checks(case)
    ]
    if not pairs:
        raise ValueError("parametrize was given no case, so nothing would be tested")
    return pytest.mark.parametrize(("case", "name"), pairs)
