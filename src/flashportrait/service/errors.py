"""What a client is told when a request can't be served."""

from __future__ import annotations

from typing import Any


class Refused(Exception):
    """A request that is answered with an error: 4xx, and a line that says what was found and what is needed.

    Args:
        status: of HTTP.
        line: for the client.
        problems: line by setting, where several are wrong.
        retry_after: seconds after which it may do to ask again.
    """

    def __init__(
        self, status: int, line: str, *, problems: dict[str, str] | None = None, retry_after: int | None = None
    ) -> None:
        self.status, self.line, self.problems, self.retry_after = status, line, problems, retry_after
        super().__init__(line)

    def body(self) -> dict[str, Any]:
        """Of the answer."""
        return {"error": self.line, **({"problems": self.problems} if self.problems else {})}
