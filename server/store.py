"""Answers kept for later, in a SQLite file: bounded for each key, durable once `add` has returned."""

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

# Of each owner, the newest chats up to these limits; older ones give way.
MAX_CHATS = 10_000
MAX_BYTES = 256 * 2**20
# A writer waits so long for another process that holds the file.
BUSY_TIMEOUT_S = 10

_SCHEMA = """
CREATE TABLE IF NOT EXISTS chats (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,
    id TEXT NOT NULL,
    model TEXT NOT NULL,
    metadata TEXT NOT NULL,
    completion BLOB NOT NULL,
    messages BLOB NOT NULL,
    num_bytes INTEGER NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS chats_by_id ON chats (owner, id);
CREATE INDEX IF NOT EXISTS chats_by_age ON chats (owner, number, num_bytes);
"""
_FIELDS = "id, model, metadata, completion, messages"
_TOO_OLD = """
SELECT number FROM (
    SELECT number, COUNT(*) OVER newer AS place, SUM(num_bytes) OVER newer AS bytes
    FROM chats WHERE owner = ? WINDOW newer AS (ORDER BY number DESC)
) WHERE place > ? OR bytes > ? ORDER BY number DESC LIMIT 1
"""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredChat:
    """One answered conversation."""

    id: str
    model: str
    metadata: dict[str, str]
    completion: bytes
    """The answer as JSON."""
    messages: bytes
    """What was asked, as a JSON list."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which chats to list."""

    limit: int
    after: str | None = None
    """Go on behind the chat of this id."""
    is_newest_first: bool = False
    model: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Pairs that a chat must have."""


class ChatStore:
    """Chats by owner and id. Nobody finds another owner's."""

    def __init__(self, path: Path) -> None:
        """Raises OSError or sqlite3.Error where no database can be kept at `path`, whose folder must exist."""
        self._path = path
        # Conversations are for nobody else on this machine; SQLite gives its further files the same rights.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with self._transaction() as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(_SCHEMA)

    async def add(self, owner: str, chat: StoredChat) -> None:
        """Keep a chat, for as long as there is room."""
        num_bytes = len(chat.completion) + len(chat.messages)
        row = (owner, chat.id, chat.model, json.dumps(chat.metadata), chat.completion, chat.messages, num_bytes)

        def work(db: sqlite3.Connection) -> None:
            db.execute(f"INSERT INTO chats (owner, {_FIELDS}, num_bytes) VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            too_old = db.execute(_TOO_OLD, (owner, MAX_CHATS, MAX_BYTES)).fetchone()
            if too_old is not None:
                db.execute("DELETE FROM chats WHERE owner = ? AND number <= ?", (owner, *too_old))

        await self._do(work)

    async def find(self, owner: str, chat_id: str) -> StoredChat | None:
        """The chat of this id."""
        sql = f"SELECT {_FIELDS} FROM chats WHERE owner = ? AND id = ?"
        row = await self._do(lambda db: db.execute(sql, (owner, chat_id)).fetchone())
        return None if row is None else _chat(*row)

    async def list(self, owner: str, query: Query) -> list[StoredChat] | None:
        """The chats that the query asks for, in the order of their making. None if it goes on behind an unknown one."""
        return await self._do(lambda db: _list(db, owner, query))

    async def set_metadata(self, owner: str, chat_id: str, metadata: Mapping[str, str]) -> bool:
        """Put this in the place of the chat's metadata. False if there is no such chat."""
        sql = "UPDATE chats SET metadata = ? WHERE owner = ? AND id = ?"
        values = (json.dumps(metadata), owner, chat_id)
        return await self._do(lambda db: db.execute(sql, values).rowcount > 0)

    async def delete(self, owner: str, chat_id: str) -> bool:
        """Forget a chat. False if there is no such chat."""
        sql = "DELETE FROM chats WHERE owner = ? AND id = ?"
        return await self._do(lambda db: db.execute(sql, (owner, chat_id)).rowcount > 0)

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The work's result, done in a thread within one transaction."""

        def in_transaction() -> T:
            with self._transaction() as db:
                return work(db)

        return await asyncio.to_thread(in_transaction)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        # Opening takes a fraction of a millisecond, and leaves nothing to share between threads or to close at the end.
        with closing(sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S)) as db, db:
            yield db


def _list(db: sqlite3.Connection, owner: str, query: Query) -> list[StoredChat] | None:
    conditions: list[tuple[str, tuple[str | int, ...]]] = [("owner = ?", (owner,))]
    if query.after is not None:
        after = db.execute("SELECT number FROM chats WHERE owner = ? AND id = ?", (owner, query.after)).fetchone()
        if after is None:
            return None
        conditions.append(("number < ?" if query.is_newest_first else "number > ?", after))
    if query.model is not None:
        conditions.append(("model = ?", (query.model,)))
    has_pair = "EXISTS (SELECT 1 FROM json_each(metadata) WHERE key = ? AND value = ?)"
    conditions += [(has_pair, pair) for pair in query.metadata.items()]
    where = " AND ".join(condition for condition, _ in conditions)
    order = "DESC" if query.is_newest_first else "ASC"
    values = [value for _, values in conditions for value in values]
    sql = f"SELECT {_FIELDS} FROM chats WHERE {where} ORDER BY number {order} LIMIT ?"
    return [_chat(*row) for row in db.execute(sql, (*values, query.limit))]


def _chat(chat_id: str, model: str, metadata: str, completion: bytes, messages: bytes) -> StoredChat:
    return StoredChat(chat_id, model, json.loads(metadata), completion, messages)
