"""A supervised process: any value is an order, and it lives until it is closed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flashportrait.workers import Supervised


class Echo:
    """Gives orders back."""

    def __init__(self, cancel: Any) -> None:
        self._count = 0

    def run(self, order: Any, tell: Callable[[Any], None]) -> tuple[int, Any]:
        """The order, and how many there have been."""
        self._count += 1
        tell("begun")
        return self._count, order


def test_any_value_is_an_order_for_the_same_process():
    process = Supervised(Echo)
    try:
        for count, order in enumerate([None, b"", 0, Path("a"), {"a": None}], start=1):
            process.start(order)
            told: list[Any] = []
            while process.busy:
                told += process.poll(60)
            assert told == ["begun", (count, order)]
    finally:
        process.close()
    assert process.pid is None


def test_one_order_at_a_time():
    process = Supervised(Echo)
    try:
        process.start(1)
        with pytest.raises(RuntimeError, match="order already"):
            process.start(2)
    finally:
        process.close()
    assert not process.busy
