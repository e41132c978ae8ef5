"""The laws of a store, for memory and Redis alike; then what only a server has: connections, memory, time."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from state.keys import Keys
from state.memory import MemoryStore
from state.model import (
    Delete,
    DeleteField,
    Epoch,
    Head,
    Position,
    Put,
    PutField,
    View,
    Write,
    version,
)
from state.redis import RedisStore
from state.store import Doubt, Fenced, Session, Store, StoreError, StoreFull
from stream.embedded import EmbeddedStore

PART = "u0"


@pytest.fixture
def keys() -> Keys:
    return Keys(f"s{secrets.token_hex(5)}")


@pytest.fixture
async def server(store_url: str, keys: Keys) -> AsyncIterator[RedisStore]:
    store = await RedisStore.open(store_url, keys, 5.0)
    yield store
    await store.close()


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, keys: Keys) -> Store:
    if request.param == "memory":
        return MemoryStore(keys)
    server: RedisStore = request.getfixturevalue("server")
    return server


@pytest.fixture
async def client(store_url: str) -> AsyncIterator[Redis]:
    """Another program's connection."""
    async with Redis.from_url(store_url) as client:
        yield client


async def claimed(store: Store, random: int = 1, now_ms: int = 1000) -> tuple[Session, Head]:
    session = store.session(PART)
    head, _ = await session.claim(random, now_ms)
    return session, head


def view(key: str, term: int, n: int, expires_s: int = 0) -> View:
    return View(key, b'{"version":"%b","items":[%d,%d]}' % (version(term, n).encode(), term, n), expires_s)


async def every(store: Store, pattern: str) -> set[str]:
    return {key async for key in store.scan(pattern)}


# The head


async def test_the_first_claim_makes_the_head(store: Store) -> None:
    session = store.session(PART)
    assert await session.head() is None
    assert await session.claim(7, 1000) == (Head(Epoch(1000, 7)), False)
    assert await session.head() == Head(Epoch(1000, 7))


@pytest.mark.parametrize(("now_ms", "term"), [(500, 1001), (1001, 1001), (5000, 5000)])
async def test_a_claim_raises_the_term_and_keeps_the_rest(store: Store, now_ms: int, term: int) -> None:
    session, head = await claimed(store)
    done = head.next({"events": Position(5, 6, 7)})
    await session.commit(head, done, [])
    taken, existed = await store.session(PART).claim(2, now_ms)
    assert existed
    assert taken == Head(Epoch(term, 2), done.n, done.positions)


async def test_claims_at_once_give_different_terms(store: Store) -> None:
    taken = await asyncio.gather(*(store.session(PART).claim(random, 1000) for random in range(4)))
    assert sorted(head.epoch.term for head, _ in taken) == [1000, 1001, 1002, 1003]
    assert sum(not existed for _, existed in taken) == 1
    newest = max((head for head, _ in taken), key=lambda head: head.epoch)
    assert await store.session(PART).head() == newest


async def test_a_commit_sets_the_head_and_writes(store: Store, keys: Keys) -> None:
    session, head = await claimed(store)
    a, b = keys.user(PART, "a"), keys.user(PART, "b")
    for n in range(1, 4):
        new = head.next({"events": Position(n)})
        await session.commit(head, new, [Put(a, b"%d" % n), Put(b, b"")])
        assert await session.get([b, a, keys.user(PART, "c")]) == [b"", b"%d" % n, None]
        assert await session.head() == new
        head = new


@pytest.mark.parametrize("change", ["term", "random", "n", "offset", "time", "crc", "topic"])
async def test_a_commit_needs_the_head_to_the_byte(store: Store, keys: Keys, change: str) -> None:
    session, head = await claimed(store)
    held = head.next({"events": Position(5, 6, 7)})
    await session.commit(head, held, [])
    other = {
        "term": Head(Epoch(held.epoch.term + 1, held.epoch.random), held.n, held.positions),
        "random": Head(Epoch(held.epoch.term, held.epoch.random + 1), held.n, held.positions),
        "n": Head(held.epoch, held.n + 1, held.positions),
        "offset": Head(held.epoch, held.n, {"events": Position(6, 6, 7)}),
        "time": Head(held.epoch, held.n, {"events": Position(5, 7, 7)}),
        "crc": Head(held.epoch, held.n, {"events": Position(5, 6, 8)}),
        "topic": Head(held.epoch, held.n, {"catalog": Position(5, 6, 7)}),
    }[change]
    with pytest.raises(Fenced):
        await session.commit(other, other.next({}), [Put(keys.meta(PART), b"lost")])
    assert await session.head() == held
    assert await session.get([keys.meta(PART)]) == [None]


async def test_a_claim_fences_the_owner_before(store: Store, keys: Keys) -> None:
    old, held = await claimed(store, 1)
    new, taken = await claimed(store, 2)
    for _ in range(2):  # for good, not once
        with pytest.raises(Fenced):
            await old.commit(held, held.next({}), [Put(keys.meta(PART), b"old")])
    await new.commit(taken, taken.next({}), [Put(keys.meta(PART), b"new")])
    with pytest.raises(Fenced):
        await old.commit(held, held.next({}), [Put(keys.meta(PART), b"old")])
    assert await old.get([keys.meta(PART)]) == [b"new"]


async def test_a_stalled_session_is_fenced_by_its_own_head(store: Store, keys: Keys) -> None:
    stalled, held = await claimed(store)
    other, done = store.session(PART), held.next({})
    await other.commit(held, done, [Put(keys.meta(PART), b"other")])
    with pytest.raises(Fenced):
        await stalled.commit(held, held.next({}), [Put(keys.meta(PART), b"stalled")])
    assert await stalled.get([keys.meta(PART)]) == [b"other"]
    assert await stalled.head() == done


async def test_reading_the_head_again_makes_a_session_current(store: Store) -> None:
    session, held = await claimed(store)
    assert await session.head() == held
    other, _ = await claimed(store, 2)
    now = await session.head()
    assert now is not None
    await session.commit(now, done := now.next({}), [])
    assert await other.head() == done


async def test_partitions_are_apart(store: Store) -> None:
    _, held = await claimed(store)
    other = store.session("u1")
    head, existed = await other.claim(2, 1000)
    assert not existed
    await other.commit(head, head.next({}), [])
    assert await store.session(PART).head() == held


async def test_two_commits_at_once_apply_one_whole(store: Store, keys: Keys) -> None:
    """Atomic: of two racing transactions on one head, all of one is there and nothing of the other."""
    _, held = await claimed(store)
    sessions = [store.session(PART) for _ in range(4)]
    for session in sessions:
        assert await session.head() == held
    users = [keys.user(PART, f"{at}") for at in range(200)]

    def writes(who: int) -> list[Write]:
        own = PutField(keys.timers(PART), f"{who}", b"%d" % who)
        return [*(Put(user, b"%d" % who) for user in users), own]

    outcomes = await asyncio.gather(
        *(s.commit(held, held.next({}), writes(who)) for who, s in enumerate(sessions)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes].count(Fenced) == 3
    winner = outcomes.index(None)
    assert await sessions[0].get(users) == [b"%d" % winner] * 200
    assert await sessions[0].fields(keys.timers(PART)) == {f"{winner}": b"%d" % winner}


# Writes

NAMES = st.sampled_from(["a", "b"])
VALUES = st.binary(max_size=3)
STRINGS = st.one_of(st.builds(Put, NAMES, VALUES), st.builds(Delete, NAMES))
HASHES = st.one_of(
    st.builds(PutField, st.just("h"), NAMES, VALUES),
    st.builds(DeleteField, st.just("h"), NAMES),
    st.builds(Delete, st.just("h")),
)
WRITES = st.lists(st.one_of(STRINGS, HASHES), max_size=8)
SMALL = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def one_by_one(batches: list[list[Write]]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The oracle: strings, and the fields of the hash `h`."""
    strings: dict[str, bytes] = {}
    fields: dict[str, bytes] = {}
    for write in (write for batch in batches for write in batch):
        match write:
            case Put(key, value):
                strings[key] = value
            case Delete("h"):
                fields.clear()
            case Delete(key):
                strings.pop(key, None)
            case PutField(_, name, value):
                fields[name] = value
            case DeleteField(_, name):
                fields.pop(name, None)
    return strings, fields


@SMALL
@given(batches=st.lists(WRITES, min_size=1, max_size=3))
def test_writes_count_in_their_order(
    run: Callable[..., object], kind: str, batches: list[list[Write]]
) -> None:
    async def check(store: Store) -> None:
        keys = Keys(f"s{secrets.token_hex(5)}")
        session, held = await claimed_at(store)
        for batch in batches:
            await session.commit(held, held := held.next({}), [renamed(write, keys) for write in batch])
        strings, fields = one_by_one(batches)
        names = [keys.user(PART, name) for name in ("a", "b")]
        assert await session.get(names) == [strings.get(name) for name in ("a", "b")]
        assert await session.fields(keys.user(PART, "h")) == fields
        present = {*strings, *({"h"} if fields else ())}
        assert await every(store, keys.user(PART, "*")) == {keys.user(PART, name) for name in present}
        await session.close()

    run(kind, check)


async def claimed_at(store: Store) -> tuple[Session, Head]:
    session = store.session(PART)
    head, _ = await session.claim(secrets.randbits(63), 1000)
    return session, head


def renamed(write: Write, keys: Keys) -> Write:
    """The write under a prefix of its own."""
    key = keys.user(PART, write.key)
    match write:
        case Put(_, value):
            return Put(key, value)
        case Delete():
            return Delete(key)
        case PutField(_, name, value):
            return PutField(key, name, value)
        case DeleteField(_, name):
            return DeleteField(key, name)


@pytest.fixture(params=["memory", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def run(store_url: str, keys: Keys) -> Iterator[Callable[..., object]]:
    """Runs a check on an open store, from the plain functions that Hypothesis calls."""
    with asyncio.Runner() as runner:
        server = runner.run(RedisStore.open(store_url, keys, 5.0))

        def run(kind: str, check: Callable[[Store], Coroutine[Any, Any, None]]) -> None:
            runner.run(check(MemoryStore(keys) if kind == "memory" else server))

        yield run
        runner.run(server.close())


@pytest.mark.parametrize("name", ["Zoë 🛒", "a b\r\n*1", "{u9}", "x" * 256, "\x00\x7f", "\udcff\udc80"])
async def test_any_name_and_any_bytes(store: Store, keys: Keys, name: str) -> None:
    """Unicode, line ends, braces, NUL; bytes that are no UTF-8 stand as surrogate escapes."""
    session, held = await claimed(store)
    value = bytes(range(256)) * 300
    user, timers = keys.user(PART, name), keys.timers(PART)
    await session.commit(held, held.next({}), [Put(user, value), PutField(timers, name, value)])
    assert await session.get([user]) == [value]
    assert await session.fields(timers) == {name: value}
    assert user in await every(store, keys.user(PART, "*"))


async def test_a_hash_of_many_fields_comes_whole(store: Store, keys: Keys) -> None:
    session, held = await claimed(store)
    wanted = {f"user-{at}": b"%d" % at for at in range(5000)}
    key = keys.timers(PART)
    await session.commit(held, held.next({}), [PutField(key, name, value) for name, value in wanted.items()])
    assert await session.fields(key) == wanted
    assert await session.fields(keys.meta(PART)) == {}


async def test_get_keeps_order_and_takes_any_number(store: Store, keys: Keys) -> None:
    session, held = await claimed(store)
    names = [keys.user(PART, f"{at}") for at in range(3000)]
    await session.commit(held, held.next({}), [Put(name, name.encode()) for name in names[::2]])
    wanted = [name.encode() if at % 2 == 0 else None for at, name in enumerate(names)]
    assert await session.get(names) == wanted
    assert await store.get(names) == wanted
    assert await session.get([]) == await store.get([]) == []


# Views


async def test_a_view_replaces_only_an_older_one(store: Store, keys: Keys) -> None:
    key = keys.recs("u")
    assert await store.put_views([view(key, 5, 1)]) == 1
    for older in (view(key, 5, 1), view(key, 5, 0), view(key, 4, 10**11)):
        assert await store.put_views([older]) == 0
    assert await store.get([key]) == [view(key, 5, 1).value]
    assert await store.put_views([view(key, 5, 2), view(keys.trending(), 1, 1)]) == 2
    assert await store.get([key]) == [view(key, 5, 2).value]


VERSIONS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=6)


@SMALL
@given(versions=VERSIONS, data=st.data())
def test_the_greatest_version_stays_in_any_order(
    run: Callable[..., object], kind: str, versions: list[tuple[int, int]], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(versions))
    cut = data.draw(st.integers(0, len(order)))
    key = f"s{secrets.token_hex(5)}:recs:u"

    async def check(store: Store) -> None:
        newer = 0
        for batch in (order[:cut], order[cut:]):
            newer += await store.put_views([view(key, *at) for at in batch])
        assert await store.get([key]) == [view(key, *max(versions)).value]
        rising = [at for n, at in enumerate(order) if at > max(order[:n], default=(-1, -1))]
        assert newer == len(rising)

    run(kind, check)


async def test_many_views_go_in_one_call(store: Store, keys: Keys) -> None:
    views = [view(keys.recs(f"{at}"), 1, at) for at in range(2500)]
    assert await store.put_views(views) == 2500
    assert await store.get([each.key for each in views]) == [each.value for each in views]
    assert await store.put_views([]) == 0


# The rest of the store


async def test_the_first_worker_sets_what_all_agree_on(store: Store, keys: Keys) -> None:
    assert await store.deployment({"partitions": b"4", "format": b"1"}) == {
        "partitions": b"4",
        "format": b"1",
    }
    agreed = await store.deployment({"partitions": b"8", "signing_key": b"\x00\xff"})
    assert agreed == {"partitions": b"4", "format": b"1", "signing_key": b"\x00\xff"}
    assert await store.deployment({}) == agreed


@pytest.mark.parametrize("which", ["meta", "outbox", "timers"])
async def test_state_is_seen_without_a_head(store: Store, keys: Keys, which: str) -> None:
    session, held = await claimed(store)
    assert not await store.has_state(PART)
    key = getattr(keys, which)(PART)
    write: Write = PutField(key, "u", b"1") if which == "timers" else Put(key, b"1")
    await session.commit(held, held.next({}), [write])
    assert await store.has_state(PART)
    assert not await store.has_state("u1")


async def test_scan_finds_what_matches(store: Store, keys: Keys) -> None:
    session, held = await claimed(store)
    users = [keys.user(PART, f"{at}") for at in range(300)]
    await session.commit(
        held, held.next({}), [Put(user, b"") for user in users] + [Put(keys.meta(PART), b"")]
    )
    assert await every(store, f"{keys.prefix}:{{*}}:user:*") == set(users)
    assert await every(store, f"{keys.prefix}:{{u0}}:user:1?") == {
        keys.user(PART, f"1{at}") for at in range(10)
    }
    assert await every(store, f"{keys.prefix}:nothing*") == set()


# Connections


async def command(client: Any, *words: str | int) -> None:
    await client.execute_command(*words)


async def kill(client: Redis) -> None:
    """Cut every connection but this one: as a restart or a firewall would."""
    await command(client, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@pytest.fixture
def own_server() -> Iterator[str]:
    """A server whose connections and limits a test may change."""
    with EmbeddedStore() as store:
        yield store.url


async def test_a_lost_connection_is_doubt_until_the_head_is_read(own_server: str, keys: Keys) -> None:
    store = await RedisStore.open(own_server, keys, 5.0)
    session, held = await claimed(store)
    async with Redis.from_url(own_server) as client:
        await kill(client)
        with pytest.raises(Doubt):
            await session.commit(held, held.next({}), [Put(keys.meta(PART), b"1")])
        now = await session.head()
        assert now == held
        await session.commit(now, done := now.next({}), [Put(keys.meta(PART), b"2")])
        assert await session.head() == done
        await kill(client)
        with pytest.raises(Doubt):
            await session.get([keys.meta(PART)])
        assert await session.get([keys.meta(PART)]) == [b"2"]
    await session.close()
    await store.close()


class Cutter:
    """A way to the server that can lose answers: the next one ends the connection instead."""

    def __init__(self, url: str) -> None:
        self._port = int(url.rsplit(":", 1)[1].split("/")[0])
        self._tasks: set[asyncio.Task[None]] = set()
        self.cuts = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        pumps = [
            asyncio.create_task(self._pump(reader, back)),
            asyncio.create_task(self._answer(there, writer)),
        ]
        self._tasks.update(pumps)
        await asyncio.wait(pumps)
        back.close()
        writer.close()

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
        target.close()

    async def _answer(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while (data := await source.read(65536)) and not self.cuts:
            target.write(data)
        target.close()


async def test_a_commit_whose_answer_was_lost_is_not_made_twice(
    store_url: str, server: RedisStore, keys: Keys
) -> None:
    """It has happened, unknown to the caller: trying it again tells him so, and so does the head."""
    async with Cutter(store_url) as way:
        store = await RedisStore.open(way.url, keys, 5.0)
        session, held = await claimed(store)
        done = held.next({"events": Position(1)})
        way.cuts = True
        with pytest.raises(Doubt):
            await session.commit(held, done, [Put(keys.meta(PART), b"1")])
        way.cuts = False
        assert await server.get([keys.meta(PART)]) == [b"1"]
        with pytest.raises(Doubt):
            await session.commit(held, held.next({}), [Put(keys.meta(PART), b"again")])
        assert await session.head() == done
        await session.commit(done, done.next({}), [])
        assert await session.get([keys.meta(PART)]) == [b"1"]
        await store.close()


async def test_a_reconnected_session_is_fenced_like_any_other(own_server: str, keys: Keys) -> None:
    store = await RedisStore.open(own_server, keys, 5.0)
    session, held = await claimed(store)
    async with Redis.from_url(own_server) as client:
        await kill(client)
    with pytest.raises(Doubt):
        await session.get([keys.meta(PART)])
    other, taken = await claimed(store, 2)
    assert await session.get([keys.head(PART)]) == [taken.pack()]
    with pytest.raises((Doubt, Fenced)):
        await session.commit(held, held.next({}), [Put(keys.meta(PART), b"old")])
    assert await other.head() == taken
    for each in (session, other):
        await each.close()
    await store.close()


async def test_a_cancelled_trip_leaves_no_reply_behind(server: RedisStore, keys: Keys) -> None:
    session, held = await claimed(server)
    wanted = [keys.user(PART, f"{at}") for at in range(500)]
    reading = asyncio.create_task(session.get(wanted))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await session.get([keys.head(PART)]) == [held.pack()]
    await session.close()


async def test_silence_is_doubt_within_the_deadline(own_server: str, keys: Keys) -> None:
    store = await RedisStore.open(own_server, keys, 0.2)
    session, _ = await claimed(store)
    began = asyncio.get_running_loop().time()
    async with Redis.from_url(own_server) as client:
        await command(client, "CLIENT", "PAUSE", 2000, "ALL")
    for wait in (session.head(), store.get([keys.trending()]), store.put_views([view("v", 1, 1)])):
        with pytest.raises(Doubt):
            await wait
    with pytest.raises(Doubt):
        await every(store, "*")
    assert asyncio.get_running_loop().time() - began < 2.0
    await session.close()
    await store.close()


async def test_nobody_there_is_doubt(keys: Keys) -> None:
    with EmbeddedStore() as gone:
        url = gone.url
    with pytest.raises(Doubt):
        await RedisStore.open(url, keys, 1.0)


# What only a server has


async def test_a_tombstone_ends_unless_a_newer_list_replaces_it(
    server: RedisStore, keys: Keys, client: Redis
) -> None:
    gone, back = keys.recs("gone"), keys.recs("back")
    await server.put_views([view(gone, 1, 1), view(back, 1, 1)])
    assert await client.ttl(gone) == -1
    assert await server.put_views([view(gone, 1, 2, 86_400), view(back, 1, 2, 86_400)]) == 2
    assert 86_390 < await client.ttl(gone) <= 86_400
    assert await server.put_views([view(gone, 1, 1), view(back, 1, 3)]) == 1
    assert 86_390 < await client.ttl(gone) <= 86_400
    assert await client.ttl(back) == -1


async def test_a_full_store_writes_nothing_and_says_so(own_server: str, keys: Keys) -> None:
    store = await RedisStore.open(own_server, keys, 5.0)
    session, held = await claimed(store)
    async with Redis.from_url(own_server) as client:
        await client.config_set("maxmemory", 1)
        with pytest.raises(StoreFull):
            await session.commit(held, held.next({}), [Delete("x"), Put(keys.meta(PART), b"1" * 1000)])
        with pytest.raises(StoreFull):
            await store.put_views([view(keys.recs("u"), 1, 1)])
        with pytest.raises(StoreFull):
            await session.claim(2, 2000)
        await client.config_set("maxmemory", 0)
    assert await session.head() == held
    assert await session.get([keys.meta(PART)]) == [None]
    await session.commit(held, held.next({}), [Put(keys.meta(PART), b"2")])
    await session.close()
    await store.close()


async def test_a_replica_refuses_writes_and_says_so(own_server: str, keys: Keys) -> None:
    store = await RedisStore.open(own_server, keys, 5.0)
    session, held = await claimed(store)
    async with Redis.from_url(own_server) as client:
        await command(client, "REPLICAOF", "127.0.0.1", 1)
        for _ in range(2):
            with pytest.raises(StoreFull, match="replica"):
                await session.commit(held, held.next({}), [Put(keys.meta(PART), b"1")])
        with pytest.raises(StoreFull, match="replica"):
            await store.put_views([view(keys.recs("u"), 1, 1)])
        await command(client, "REPLICAOF", "NO", "ONE")
    now = await session.head()
    assert now == held
    await session.commit(held, held.next({}), [])
    await session.close()
    await store.close()


async def test_a_key_of_another_kind_is_an_error_that_waiting_does_not_heal(
    server: RedisStore, keys: Keys
) -> None:
    """Only a foreign program makes one under our prefix: it must not pass as a success."""
    session, held = await claimed(server)
    await session.commit(held, new := held.next({}), [Put(keys.timers(PART), b"a string")])
    with pytest.raises(StoreError) as caught:
        await session.commit(new, new.next({}), [PutField(keys.timers(PART), "u", b"1")])
    assert type(caught.value) is StoreError
    with pytest.raises(StoreError):
        await session.fields(keys.timers(PART))
    await session.close()


async def test_missing_rights_do_not_pass_as_a_full_store(own_server: str, keys: Keys) -> None:
    async with Redis.from_url(own_server) as client:
        await command(client, "ACL", "SETUSER", "w", "on", ">p", "~*", "+@all", "-hset")
    store = await RedisStore.open(own_server.replace("//", "//w:p@"), keys, 5.0)
    session, held = await claimed(store)
    with pytest.raises(StoreError, match="hset") as caught:
        await session.commit(held, held.next({}), [PutField(keys.timers(PART), "u", b"1")])
    assert type(caught.value) is StoreError
    assert await session.head() == held
    await session.close()
    await store.close()


async def test_the_script_is_loaded_again_when_the_server_forgot_it(own_server: str, keys: Keys) -> None:
    store = await RedisStore.open(own_server, keys, 5.0)
    key = keys.recs("u")
    assert await store.put_views([view(key, 1, 1)]) == 1
    async with Redis.from_url(own_server) as client:
        await client.script_flush()
    assert await store.put_views([view(key, 1, 2)]) == 1
    assert await store.put_views([view(key, 1, 3)]) == 1
    await store.close()


async def test_the_server_says_what_it_is(server: RedisStore, client: Redis) -> None:
    info = await server.server_info()
    seconds, _ = await client.time()
    assert abs(info.time_ms - seconds * 1000) < 5000
    assert info.version == (await client.info())["valkey_version"]
    assert info.maxmemory_policy == "noeviction"
    assert not info.append_only
