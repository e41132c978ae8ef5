"""A shopper partition's ledgers of coupons: those of the campaigns that it owns (`stream.core.coupons`)."""

from __future__ import annotations

from collections.abc import Iterator

from state.keys import Keys
from state.model import Delete, Put, Write
from state.store import Session
from stream.codec import Columns
from stream.core.coupons import TO_LEDGER, Pool, Wallet, pack, parties, unpack_pool, unpack_wallet
from stream.core.step import Result
from stream.events import Told


class Vault:
    """Ledgers and wallets in memory, as of the newest transaction."""

    def __init__(self, part: str, keys: Keys) -> None:
        self.part, self.keys = part, keys
        self.pools: dict[str, Pool] = {}
        self.wallets: dict[tuple[str, str], Wallet] = {}

    async def load(self, session: Session, columns: Columns) -> None:
        """Bring those that a batch has to do with, in one MGET; mostly there are none."""
        told = [one for one in columns.details.values() if one.type in TO_LEDGER and isinstance(one, Told)]
        named = dict.fromkeys(parties(one.type, one.body) for one in told)
        wallets = [at for at in named if at not in self.wallets]
        pools = [name for name in dict.fromkeys(name for name, _ in named) if name not in self.pools]
        wanted = [self.keys.coupons(self.part, name) for name in pools]
        wanted += [self.keys.wallet(self.part, *at) for at in wallets]
        found = await session.get(wanted) if wanted else []
        self.pools.update(zip(pools, map(unpack_pool, found[: len(pools)]), strict=True))
        self.wallets.update(zip(wallets, map(unpack_wallet, found[len(pools) :]), strict=True))

    def writes(self, result: Result) -> Iterator[Write]:
        """What of a batch goes into the store."""
        for name, pool in result.pools.items():
            yield Put(self.keys.coupons(self.part, name), pack(pool))
        for at, wallet in result.wallets.items():
            key, packed = self.keys.wallet(self.part, *at), pack(wallet)
            yield Put(key, packed) if packed else Delete(key)

    def keep(self, result: Result, most: int) -> None:
        """After the transaction; wallets are forgotten at once where there are too many in memory."""
        self.pools.update(result.pools)
        self.wallets.update(result.wallets)
        if len(self.wallets) > most:
            self.wallets.clear()
