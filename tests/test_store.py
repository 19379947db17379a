"""The store of chats: each owner's own, bounded, and still there when the process is not."""

import asyncio
import stat
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import store as store_module
from server.store import ChatStore, Query, StoredChat

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def chat(name: str, *, model: str = "m", metadata: dict[str, str] | None = None, size: int = 2) -> StoredChat:
    return StoredChat(name, model, metadata or {}, b"{}", b" " * size)


async def ids(store: ChatStore, owner: str, query: Query) -> list[str]:
    found = await store.list(owner, query)
    assert found is not None
    return [chat.id for chat in found]


def test_what_was_added_is_found_by_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "chats.sqlite"
    run(ChatStore(path).add("me", chat("a", metadata={"ü": "世"})))
    assert run(ChatStore(path).find("me", "a")) == chat("a", metadata={"ü": "世"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nobody_finds_changes_or_deletes_anothers(tmp_path: Path) -> None:
    async def body() -> None:
        store = ChatStore(tmp_path / "chats.sqlite")
        await store.add("me", chat("a"))
        assert await store.find("you", "a") is None
        assert not await store.set_metadata("you", "a", {"x": "y"})
        assert not await store.delete("you", "a")
        assert await ids(store, "you", Query(10)) == []
        assert await store.list("you", Query(10, after="a")) is None
        assert await store.find("me", "a") == chat("a")

    run(body())


@pytest.mark.parametrize("name", ["../x", "/x", "a\0b", "x" * 5000, "CON", "'; DROP TABLE chats; --", "%", ""])
def test_nw10_no_id_reaches_the_file_system_or_the_sql(tmp_path: Path, name: str) -> None:
    async def body() -> None:
        store = ChatStore(tmp_path / "chats.sqlite")
        await store.add("me", chat("kept"))
        assert await store.find("me", name) is None
        assert not await store.delete("me", name)
        pairs = {} if "\0" in name else {name: name}
        await store.add("me", chat(name, model=name, metadata=pairs))
        assert await ids(store, "me", Query(10, model=name, metadata=pairs)) == [name]
        assert await ids(store, "me", Query(10)) == ["kept", name]

    run(body())
    assert {path.name for path in tmp_path.iterdir()} <= {f"chats.sqlite{end}" for end in ("", "-wal", "-shm")}


def test_the_oldest_of_an_owner_give_way_by_count_and_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        store = ChatStore(tmp_path / "chats.sqlite")
        monkeypatch.setattr(store_module, "MAX_CHATS", 3)
        await store.add("you", chat("yours"))
        for name in "abcde":
            await store.add("me", chat(name))
        assert await ids(store, "me", Query(10)) == ["c", "d", "e"]
        monkeypatch.setattr(store_module, "MAX_BYTES", 1000)
        await store.add("me", chat("f", size=900))
        assert await ids(store, "me", Query(10)) == ["d", "e", "f"]
        await store.add("me", chat("g", size=900))
        assert await ids(store, "me", Query(10)) == ["g"]
        assert await ids(store, "you", Query(10)) == ["yours"]

    run(body())


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("mn"), st.dictionaries(st.sampled_from("xy"), st.sampled_from("12")))),
    st.integers(1, 4),
    st.booleans(),
    st.none() | st.sampled_from("mn"),
    st.dictionaries(st.sampled_from("xy"), st.sampled_from("12")),
)
def test_pages_together_list_what_fits_the_query_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    added: list[tuple[str, dict[str, str]]],
    limit: int,
    is_newest_first: bool,
    model: str | None,
    metadata: dict[str, str],
) -> None:
    async def body() -> None:
        store = ChatStore(tmp_path_factory.mktemp("store") / "chats.sqlite")
        for number, (of_model, pairs) in enumerate(added):
            await store.add("me", chat(str(number), model=of_model, metadata=pairs))
        wanted = [
            str(number)
            for number, (of_model, pairs) in enumerate(added)
            if model in (None, of_model) and metadata.items() <= pairs.items()
        ]
        listed: list[str] = []
        while True:
            after = listed[-1] if listed else None
            page = await ids(store, "me", Query(limit, after, is_newest_first, model, metadata))
            listed += page
            if len(page) < limit:
                break
        assert listed == (wanted[::-1] if is_newest_first else wanted)

    run(body())


def test_several_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        stores = [ChatStore(tmp_path / "chats.sqlite") for _ in range(2)]
        await asyncio.gather(*(stores[number % 2].add("me", chat(str(number))) for number in range(20)))
        assert sorted(await ids(stores[0], "me", Query(100)), key=int) == [str(number) for number in range(20)]

    run(body())
