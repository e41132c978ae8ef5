"""The key space, in one file. Public views are keyed by user or item alone; private state by its partition.

A hash tag (``{…}``) keeps all private keys of one partition in one Redis Cluster slot, so that a partition's
head, state and outbox change in one transaction. ``docs/keyspace.md`` documents every key; a test pins the
exact strings and fails when one is missing there.

Partitions: ``u<p>`` is the shopper side (topic events, partition p), ``i<p>`` the item side (topics
increments and catalog, partition p).
"""

from __future__ import annotations

from dataclasses import dataclass

STORE_FORMAT = b"1"
"""The field `format` of the deployment; it grows when old keys or packed values become unreadable."""


@dataclass(frozen=True)
class Keys:
    """All keys under one prefix."""

    prefix: str = "tidewise"

    # Public views: JSON, one GET.
    def recs(self, user: str) -> str:
        """Personal list of a user or anonymous id."""
        return f"{self.prefix}:recs:{user}"

    def cart(self, user: str) -> str:
        """What goes with a user's cart."""
        return f"{self.prefix}:cart:{user}"

    def loyalty(self, user: str) -> str:
        """A user's points, tier and milestones."""
        return f"{self.prefix}:loyalty:{user}"

    def neighbors(self, item: str) -> str:
        """Similar items."""
        return f"{self.prefix}:neighbors:{item}"

    def trending(self, segment: str = "") -> str:
        """What is popular now, also the list of a user nobody knows; or one ``segment`` of it."""
        return f"{self.prefix}:trending:{segment}" if segment else f"{self.prefix}:trending"

    def metrics(self) -> str:
        """What lists bring about, by strategy and arm."""
        return f"{self.prefix}:metrics"

    def item(self, item: str) -> str:
        """What the catalogue says of an item."""
        return f"{self.prefix}:item:{item}"

    # The deployment.
    def deployment(self) -> str:
        """Hash: `partitions`, `signing_key`, `format`."""
        return f"{self.prefix}:deployment"

    # Private state of a partition.
    def head(self, part: str) -> str:
        """Epoch, transaction number and positions."""
        return f"{self.prefix}:{{{part}}}:head"

    def outbox(self, part: str) -> str:
        """What the newest transaction publishes."""
        return f"{self.prefix}:{{{part}}}:outbox"

    def meta(self, part: str) -> str:
        """Watermark, counters, decision hash, last source position of each sender."""
        return f"{self.prefix}:{{{part}}}:meta"

    def mixture(self, part: str) -> str:
        """What the mixture of components has learned: soft state."""
        return f"{self.prefix}:{{{part}}}:mixture"

    def user(self, part: str, user: str) -> str:
        """History, interest vector, last ids."""
        return f"{self.prefix}:{{{part}}}:user:{user}"

    def vector(self, part: str, user: str) -> str:
        """The user folded into the factorisations in use: soft state."""
        return f"{self.prefix}:{{{part}}}:vector:{user}"

    def engagement(self, part: str, user: str) -> str:
        """Cart, consent, timers, counters: only users who have any."""
        return f"{self.prefix}:{{{part}}}:engagement:{user}"

    def attribution(self, part: str, user: str) -> str:
        """Lists shown, clicks and attributed purchases: only users to whom any was shown."""
        return f"{self.prefix}:{{{part}}}:attribution:{user}"

    def counts(self, part: str) -> str:
        """Hash: day → what lists brought about on it."""
        return f"{self.prefix}:{{{part}}}:counts"

    def timers(self, part: str) -> str:
        """Hash: user → when his next timer is due."""
        return f"{self.prefix}:{{{part}}}:timers"

    def rfm(self, part: str) -> str:
        """Hash: bucket of recency, frequency or monetary → how many customers are in it."""
        return f"{self.prefix}:{{{part}}}:rfm"

    def row(self, part: str, item: str) -> str:
        """Co-occurrence row, sums and popularity of an item."""
        return f"{self.prefix}:{{{part}}}:row:{item}"

    def catalog(self, part: str, item: str) -> str:
        """The newest catalogue event of an item."""
        return f"{self.prefix}:{{{part}}}:catalog:{item}"

    def coupons(self, part: str, campaign: str) -> str:
        """The sums of a campaign's ledger of coupons, in the partition that owns the campaign."""
        return f"{self.prefix}:{{{part}}}:coupons:{campaign}"

    def wallet(self, part: str, campaign: str, user: str) -> str:
        """The coupons of a campaign that a user holds, beside the campaign's ledger."""
        return f"{self.prefix}:{{{part}}}:wallet:{campaign}:{user}"

    def watchers(self, part: str, item: str) -> str:
        """Who is interested in an item: only while somebody is."""
        return f"{self.prefix}:{{{part}}}:watchers:{item}"
