"""The list of jobs, in SQLite: written when a job changes its state, so that it survives whatever happens."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

State = Literal["queued", "running", "done", "failed", "cancelled", "expired"]
ENDED: tuple[State, ...] = ("done", "failed", "cancelled", "expired")

_metadata = sa.MetaData()
_jobs = sa.Table(
    "jobs",
    _metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False, unique=True),
    sa.Column("owner", sa.String, nullable=False, index=True),
    sa.Column("state", sa.String, nullable=False, index=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("started", sa.Float),
    sa.Column("ended", sa.Float),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("job", sa.Text, nullable=False),
    sa.Column("asked", sa.Text, nullable=False),
    sa.Column("idempotency", sa.String),
    sa.Column("error", sa.Text),
    sa.Column("summary", sa.Text),
    sa.UniqueConstraint("owner", "idempotency"),
)


@dataclass(frozen=True)
class Entry:
    """One job."""

    id: str
    number: int
    """In the order in which they came."""
    owner: str
    """Name of the key with which it was posted."""
    state: State
    created: float
    """Seconds since the epoch, as all times here."""
    started: float | None
    ended: float | None
    attempts: int
    """How often it was begun."""
    job: dict[str, Any]
    """All settings, as the worker takes them."""
    asked: dict[str, Any]
    """What the client chose, and what its files were."""
    idempotency: str | None
    """The client's own name for the request."""
    error: str | None
    """One line, of one that failed."""
    summary: dict[str, Any] | None
    """Of one that is done."""


class Store:
    """All jobs of a server.

    Args:
        file: of the database; made if it is missing.
    """

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._engine = sa.create_engine(f"sqlite:///{file}", connect_args={"timeout": 30})
        sa.event.listen(self._engine, "connect", _prepare)
        _metadata.create_all(self._engine)

    def close(self) -> None:
        """Let the file go."""
        self._engine.dispose()

    def add(
        self, id: str, owner: str, job: Mapping[str, Any], asked: Mapping[str, Any], idempotency: str | None
    ) -> Entry:
        """Queue a job; one that was posted under the same name before is returned in its place."""
        with self._writing() as connection:
            if idempotency is not None and (known := self._known(connection, owner, idempotency)) is not None:
                return known
            last = connection.execute(sa.select(sa.func.max(_jobs.c.number))).scalar() or 0
            values = {
                "id": id,
                "number": last + 1,
                "owner": owner,
                "state": "queued",
                "created": time.time(),
                "job": json.dumps(dict(job)),
                "asked": json.dumps(dict(asked)),
                "idempotency": idempotency,
            }
            connection.execute(_jobs.insert().values(**values))
        return self[id]

    def posted_before(self, owner: str, idempotency: str) -> Entry | None:
        """The job that an owner posted under this name."""
        with self._engine.connect() as connection:
            return self._known(connection, owner, idempotency)

    def __getitem__(self, id: str) -> Entry:
        """The job of that name.

        Raises:
            KeyError: there is none.
        """
        with self._engine.connect() as connection:
            row = connection.execute(_jobs.select().where(_jobs.c.id == id)).first()
        if row is None:
            raise KeyError(id)
        return _entry(row)

    def of_owner(self, owner: str, limit: int, before: int | None = None) -> list[Entry]:
        """Jobs of an owner, the last first; ``before`` is a number to go on from."""
        chosen = _jobs.select().where(_jobs.c.owner == owner)
        if before is not None:
            chosen = chosen.where(_jobs.c.number < before)
        with self._engine.connect() as connection:
            return [_entry(row) for row in connection.execute(chosen.order_by(_jobs.c.number.desc()).limit(limit))]

    def in_state(self, *states: State) -> list[Entry]:
        """Jobs in these states, the first to come first."""
        with self._engine.connect() as connection:
            chosen = _jobs.select().where(_jobs.c.state.in_(states)).order_by(_jobs.c.number)
            return [_entry(row) for row in connection.execute(chosen)]

    def count(self, *states: State, owner: str | None = None, since: float | None = None) -> int:
        """How many jobs are in these states (in any, if none is named), of one owner, from a time on."""
        chosen = sa.select(sa.func.count()).select_from(_jobs)
        if states:
            chosen = chosen.where(_jobs.c.state.in_(states))
        if owner is not None:
            chosen = chosen.where(_jobs.c.owner == owner)
        if since is not None:
            chosen = chosen.where(_jobs.c.created >= since)
        with self._engine.connect() as connection:
            return connection.execute(chosen).scalar_one()

    def place(self, entry: Entry) -> int:
        """How many jobs wait before this one."""
        chosen = sa.select(sa.func.count()).where(_jobs.c.state == "queued", _jobs.c.number < entry.number)
        with self._engine.connect() as connection:
            return connection.execute(chosen).scalar_one()

    def take(self) -> Entry | None:
        """The job that has waited longest, which runs from now on; None if none waits. No job is ever taken twice."""
        with self._writing() as connection:
            waiting = _jobs.select().where(_jobs.c.state == "queued").order_by(_jobs.c.number).limit(1)
            row = connection.execute(waiting).first()
            if row is None:
                return None
            values = {"state": "running", "attempts": row.attempts + 1, "started": row.started or time.time()}
            connection.execute(_jobs.update().where(_jobs.c.id == row.id).values(**values))
        return self[row.id]

    def put_back(self, id: str, *, again: bool = False) -> None:
        """Let a job that runs wait again; ``again`` if that isn't its own doing, so that the attempt isn't counted."""
        with self._writing() as connection:
            values: dict[str, Any] = {"state": "queued"}
            if again:
                values["attempts"] = sa.case((_jobs.c.attempts > 0, _jobs.c.attempts - 1), else_=0)
            connection.execute(_jobs.update().where(_jobs.c.id == id, _jobs.c.state == "running").values(**values))

    def end(self, id: str, state: State, error: str | None = None, summary: Mapping[str, Any] | None = None) -> bool:
        """Note how a job ended; False if it had ended already."""
        values = {"state": state, "ended": time.time(), "error": error}
        if summary is not None:
            values["summary"] = json.dumps(dict(summary))
        with self._writing() as connection:
            unended = (_jobs.c.id == id) & _jobs.c.state.in_(("queued", "running"))
            return connection.execute(_jobs.update().where(unended).values(**values)).rowcount == 1

    def expire(self, id: str) -> None:
        """Note that a job's files are gone."""
        with self._writing() as connection:
            connection.execute(_jobs.update().where(_jobs.c.id == id).values(state="expired"))

    def remove(self, id: str) -> None:
        """Forget a job."""
        with self._writing() as connection:
            connection.execute(_jobs.delete().where(_jobs.c.id == id))

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """One at a time: the lock is taken before anything is read, so that what was read still holds when written."""
        with self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise
            connection.exec_driver_sql("COMMIT")

    @staticmethod
    def _known(connection: sa.Connection, owner: str, idempotency: str) -> Entry | None:
        same = (_jobs.c.owner == owner) & (_jobs.c.idempotency == idempotency)
        row = connection.execute(_jobs.select().where(same)).first()
        return _entry(row) if row is not None else None


def _prepare(connection: Any, _: Any) -> None:
    """Every connection: readers don't wait for writers, and transactions are begun by us alone."""
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _entry(row: sa.Row[Any]) -> Entry:
    values: dict[str, Any] = dict(row._mapping)
    for name in ("job", "asked", "summary"):
        values[name] = json.loads(values[name]) if values[name] is not None else None
    return Entry(**values)
