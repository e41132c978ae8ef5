"""The engagement engine: events and the passing of time in; messages, decisions and new states out. Pure.

Event time decides everything. A timer due at d fires right after the first event whose watermark reaches d,
before the next event; several in the order in which they are due. Users are independent, so cutting the
stream into other batches changes nothing. What is decided then is decided at that watermark ("now"): caps
and quiet hours hold for the moment at which a message really leaves, also when time jumped past its due time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.core.campaigns import Campaign, Content, Window
from stream.core.choice import Known, Offers, Weighed, tasted
from stream.core.coupons import BACK, ERASE, GRANT, REDEEMED, REQUEST, Grant, Request, Word, key_of
from stream.core.coupons import WITHIN_MS as COUPON_WITHIN_MS
from stream.core.engaged import (
    NUDGED,
    REVOCABLE_MS,
    Choice,
    Nudged,
    Seen,
    Timer,
    UserState,
    digest_fields,
    observe,
    observe_view,
)
from stream.core.guards import (
    DAY_MS,
    WEEK_MS,
    Audience,
    Candidate,
    EngagementConfig,
    Stop,
    check,
    counters,
    stands,
)
from stream.core.loyalty import Program, after
from stream.core.messages import (
    Consents,
    CouponCode,
    Decision,
    Evidence,
    Message,
    NudgeItem,
    Revoke,
    Verdict,
    decision_hash,
    message_id,
)
from stream.core.notices import Notice
from stream.core.offers import OFFER, WITHIN_MS, Ask, Offer, What
from stream.core.rfm import ENDS, Judge, Ranks, Shift
from stream.core.triggers import Trigger, kinds_of, terms_of, triggers_of
from stream.core.triggers.loyal import Loyal
from stream.core.triggers.shape import Progress, Proposal, cart_of
from stream.core.watchers import KIND_OF, LEFT, Interest, Terms, watch
from stream.events import ENGAGEMENT_KINDS, Told

if TYPE_CHECKING:
    from stream.core.plan import Plan
    from stream.settings import Settings

__all__ = [
    "Clock",
    "Decision",
    "Engine",
    "Message",
    "Outcome",
    "Seen",
    "UserState",
    "decision_hash",
    "digest_fields",
    "message_id",
    "run",
]

I64 = NDArray[np.int64]
REDEEMING = frozenset({"purchase", "coupon_redeemed"})
CODES_HELD = 8
"""Codes of a campaign that a user's state keeps: those that he may still redeem."""


@dataclass(frozen=True, slots=True)
class Clock:
    """How time passes in a batch of E events: the watermark before it and after each event, in ms.

    ``after`` [E] never falls; ``received`` [E] is when each event was received.
    """

    before: int
    after: I64
    received: I64


@dataclass(frozen=True, slots=True)
class Engine:
    """The triggers that run, by id, the settings, and the campaigns behind them, by id.

    ``numbers`` are the versions of those that were published, ``off`` those that are switched off. With a
    ``plan`` another engine holds at other times; of what this one has then only the settings count.
    ``kinds`` are the event types that its triggers and campaigns look at, ``terms`` the changes of items that
    they want to hear of, None: none. Without ``asking`` (`stream.core.offers`) nudges go out without what
    they would have asked for. ``program`` is the loyalty program, ``earning`` the event types it looks at.
    ``choices`` are the campaigns that give one of several coupons.
    """

    config: EngagementConfig
    triggers: Mapping[str, Trigger[Any]]
    campaigns: Mapping[str, Campaign] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    off: frozenset[str] = frozenset()
    plan: Plan | None = None
    asking: bool = True
    program: Program | None = None
    kinds: frozenset[str] = field(init=False)
    earning: frozenset[str] = field(init=False)
    terms: Terms | None = field(init=False)
    choices: Mapping[str, Offers] = field(init=False)

    def __post_init__(self) -> None:
        kinds = [trigger.kinds for trigger in self.triggers.values()]
        kinds += [kinds_of(campaign) for campaign in self.campaigns.values()]
        earning = frozenset[str]() if self.program is None else self.program.kinds()
        object.__setattr__(self, "kinds", earning.union(*kinds))
        object.__setattr__(self, "earning", earning)
        object.__setattr__(self, "terms", terms_of(self.triggers.values()))
        several = {name: Offers.of_campaign(each) for name, each in self.campaigns.items() if each.enabled}
        object.__setattr__(
            self, "choices", {name: each for name, each in several.items() if each is not None}
        )

    @classmethod
    def of(
        cls,
        settings: Settings,
        campaigns: Sequence[Campaign] = (),
        asking: bool = True,
        program: Program | None = None,
    ) -> Engine:
        """From the settings and campaigns. Raises ValueError when the settings make no sense."""
        config = EngagementConfig.of(settings)
        triggers = {trigger.id: trigger for trigger in triggers_of(config, campaigns)}
        off = frozenset(campaign.id for campaign in campaigns if not campaign.enabled)
        known = {campaign.id: campaign for campaign in campaigns}
        return cls(config, triggers, known, off=off, asking=asking, program=program)

    def config_of(self, rule: str) -> EngagementConfig:
        """What holds for a rule's messages."""
        return self.config.of_campaign(self.campaigns.get(rule))

    def watched(self) -> frozenset[str]:
        """The event types that it looks at, at any time that may come."""
        return self.kinds if self.plan is None else self.plan.kinds() | self.earning

    def content(self, rule: str) -> Content | None:
        """What a rule's campaign says of its messages."""
        campaign = self.campaigns.get(rule)
        return None if campaign is None else campaign.message

    def asks(self, trigger: Trigger[Any]) -> What:
        """What must be asked for before a trigger's nudge can show anything."""
        if not self.asking:
            return ""
        content = self.content(trigger.id)
        listed = content is not None and content.items == "recommended"
        return trigger.asks or ("list" if listed else "")

    def running(self, rule: str, time: int) -> bool:
        """Whether a rule's campaign runs at a moment of event time."""
        campaign = self.campaigns.get(rule)
        window = Window() if campaign is None else campaign.window
        return (window.from_ or 0) <= time and (window.until is None or time < window.until)


@dataclass(slots=True)
class Outcome:
    """What a batch changed and what it says.

    ``states`` are the users whose state changed, as new objects (one may be empty: it packs to nothing),
    ``alarms`` the users whose next timer changed, with its new time or None. Messages, decisions,
    notices and interests are in the order (event, user, as decided). ``shifts`` are the customers whose RFM
    values changed.
    """

    states: dict[str, UserState] = field(default_factory=dict)
    alarms: dict[str, int | None] = field(default_factory=dict)
    messages: list[Message | Revoke] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    asks: list[Ask] = field(default_factory=list)
    interests: list[Interest] = field(default_factory=list)
    shifts: list[Shift] = field(default_factory=list)


def run(
    engine: Engine,
    states: Mapping[str, UserState],
    seen: Mapping[str, Sequence[Seen]],
    clock: Clock,
    ranks: Ranks | None = None,
) -> Outcome:
    """Let a batch of events pass.

    ``states`` must hold the users in ``seen`` (none: an unknown user) and those with a timer due by the last
    watermark; others in it are left alone. ``seen`` has each user's events in order, ``ranks`` all customers
    before the batch. Cost: tens of microseconds a user.
    """
    outcome, judge = Outcome(), Judge(ranks or Ranks(), states, seen)
    end = int(clock.after[-1]) if len(clock.after) else clock.before
    plan = engine.plan
    if plan is not None and len(clock.after):
        engine = plan.at(int(clock.after[0]))
        plan = None if plan.steady(int(clock.after[0]), end) else plan
    for user in sorted(states.keys() | seen.keys()):
        old = states.get(user) or UserState()
        due = old.next_due()
        if user in seen or (due is not None and due <= end):
            passage = _Passage(engine, clock, user, old.copy(), outcome, judge, plan=plan)
            new = passage.through(seen.get(user, ()))
            if new != old:
                outcome.states[user] = new
            if new.rfm is not old.rfm:
                outcome.shifts.append((old.rfm.values(), new.rfm.values()))
            if new.next_due() != due:
                outcome.alarms[user] = new.next_due()
    outcome.messages.sort(key=lambda message: message.at)
    outcome.decisions.sort(key=lambda decision: decision.at)
    outcome.notices.sort(key=lambda notice: notice.at)
    outcome.asks.sort(key=lambda ask: ask.at)
    outcome.interests.sort(key=lambda interest: interest.source)
    return outcome


@dataclass(slots=True)
class _Passage:
    """One user's way through a batch. ``at`` is the event that time has come to; with a ``plan`` another
    engine may hold from there on."""

    engine: Engine
    clock: Clock
    user: str
    state: UserState
    outcome: Outcome
    judge: Judge
    at: int = 0
    plan: Plan | None = None

    def through(self, events: Sequence[Seen]) -> UserState:
        for seen in events:
            self._pass_time(seen.at)
            self._come_to(seen.at)
            self._event(seen)
        self._pass_time(len(self.clock.after))
        return self.state

    def _come_to(self, at: int) -> None:
        self.at = at
        if self.plan is not None:
            self.engine = self.plan.at(self._now)

    @property
    def _now(self) -> int:
        return int(self.clock.after[self.at])

    # Time

    def _pass_time(self, end: int) -> None:
        """Fire what is due after an event before number ``end``."""
        pending = self.state.pending
        while pending and self.at < end:
            at, rule = min((timer.at, rule) for rule, timer in pending.items())
            if at > self.clock.after[end - 1]:
                return
            self._come_to(max(self.at, int(np.searchsorted(self.clock.after, at))))
            self._fire(rule, pending.pop(rule))

    def _fire(self, rule: str, timer: Timer) -> None:
        trigger = self.engine.triggers.get(rule)
        if trigger is None:
            self.state.pending[rule] = timer
            self._switch_off(rule)
            return
        own = self._own(trigger)
        if trigger.next_timer(own) == timer.due:
            own = self._propose(trigger, own, timer)
        if rule not in self.state.pending:
            self._arm(trigger, own)

    def _propose(
        self,
        trigger: Trigger[Any],
        own: Progress,
        timer: Timer,
        offer: Offer | None = None,
        grant: Grant | None = None,
    ) -> Progress:
        """Through the guards. A held nudge leaves the trigger where it was, and its timer for later."""
        now, step = self._now, own.step + 1
        proposal = _with(trigger, trigger.on_timer(own, self.state, now), timer, offer)
        candidate = self._candidate(trigger, proposal, timer, grant)
        candidate = replace(candidate, outranked=self._outranked(trigger))
        config = self.engine.config_of(trigger.id)
        stop, counted = check(candidate, config), counters(candidate, config)
        asked, requested = 0 if offer is None else offer.number, 0
        if stop is None and offer is None and self._ask(trigger.id, timer.due, 1):
            stop, asked = Stop("content", now + WITHIN_MS), 1
        elif stop is None and grant is None and self._gives(trigger.id):
            requested = self._request(trigger.id, step, timer.due, proposal, offer)
            stop = Stop("coupon", now + COUPON_WITHIN_MS)
        verdict, reason = _verdict(stop)
        if stop is not None and stop.until is not None:
            counted["held_until"] = stop.until
            asked = asked if stop.reason in ("content", "coupon") else 0
            self.state.pending[trigger.id] = Timer(stop.until, timer.due, True, asked, requested)
        weighed = () if grant is None else grant.weighed
        consent, about = _consents(trigger, self.state), (counted, proposal.evidence, weighed)
        self._decide(trigger.id, step, timer.due, now, verdict, reason, *about, consent)
        if verdict != "sent" and grant is not None:
            self._give_back(grant)
        self._withdraw(trigger.id, timer)
        if verdict == "held":
            return own
        if verdict == "sent":
            self._send(candidate, trigger, proposal, step, offer, grant)
        return self._keep(trigger, proposal.if_sent if verdict == "sent" else proposal.if_not)

    def _ask(self, rule: str, due: int, number: int) -> bool:
        """Ask for what a nudge is to show, if that has to be asked for."""
        trigger = self.engine.triggers.get(rule)
        what = "" if trigger is None else self.engine.asks(trigger)
        if what:
            self.outcome.asks.append(Ask(self.at, self.user, rule, due, number, self._now, what))
        return bool(what)

    def _gives(self, rule: str) -> bool:
        campaign = self.engine.campaigns.get(rule)
        return campaign is not None and campaign.coupon is not None

    def _request(self, rule: str, step: int, due: int, proposal: Proposal[Any], offer: Offer | None) -> int:
        """Ask the campaign's ledger for a coupon; the request's number."""
        self.state.requests += 1
        prices = [line.price for line in proposal.items]
        paid = [line.price * line.quantity for line in proposal.items if line.price is not None]
        told = None if offer is None else msgspec.to_builtins(offer)
        worth = sum(paid) if paid and len(paid) == len(prices) else None
        number, known = self.state.requests, self._known(rule)
        asked = Request(rule, self.user, rule, step, due, self._now, worth, told, number, known)
        self._notify(rule, REQUEST, asked)
        return asked.number

    def _known(self, rule: str) -> Known | None:
        """By what one of several coupons is chosen; None: there are not several."""
        offers, taste = self.engine.choices.get(rule), self.state.taste
        return None if offers is None else Known(offers.own(taste, self._now), taste.used, taste.hoped)

    def _coupon(self, rule: str, grant: Grant | None) -> CouponCode | None:
        """What a message says of what was granted."""
        campaign = self.engine.campaigns.get(rule)
        if grant is None or campaign is None or campaign.coupon is None:
            return None
        return CouponCode(grant.code, grant.kind or campaign.coupon.name, grant.value, grant.expires)

    def _withdraw(self, rule: str, timer: Timer) -> None:
        """Give back what a request may bring that nothing waits for any more, before another is made."""
        if timer.coupon:
            key = key_of(rule, timer.due, timer.coupon)
            self._notify(rule, BACK, Word(rule, self.user, self._now, key))

    def _give_back(self, grant: Grant) -> None:
        asked = grant.request
        if grant.code:
            self._notify(asked.campaign, BACK, Word(asked.campaign, self.user, self._now, asked.key))

    def _notify(self, campaign: str, type_: str, body: Request | Word) -> None:
        """Tell a campaign's ledger."""
        self.outcome.notices.append(Notice(self.at, campaign, type_, self._now, msgspec.to_builtins(body)))

    def _candidate(
        self, trigger: Trigger[Any], proposal: Proposal[Any], timer: Timer, grant: Grant | None = None
    ) -> Candidate:
        due, waited = timer.due, timer.coupon > 0
        granted = (name for name in trigger.channels if self.state.granted(name, trigger.purpose))
        return Candidate(
            user=self.user,
            state=self.state,
            channel=next(granted, trigger.channels[0]),
            purpose=trigger.purpose,
            untrue=proposal.untrue if self.engine.running(trigger.id, due) else "window",
            due=due,
            now=self._now,
            received=int(self.clock.received[self.at]),
            audience=self._audience(trigger.id),
            refused=("unanswered" if waited else "") if grant is None else grant.refused,
        )

    def _audience(self, rule: str) -> Audience | None:
        """Whom a rule is for, and where the user stands now; None: it is for everybody."""
        campaign = self.engine.campaigns.get(rule)
        if campaign is None or campaign.audience is None:
            return None
        values = self.state.rfm.values()
        scores = None if values is None else self.judge.scores(values, self.at)
        return Audience(campaign.audience, scores)

    def _outranked(self, trigger: Trigger[Any]) -> str:
        """A rule of higher priority that is due within the window and would come as far; "": none."""
        until = self._now + self.engine.config.priority_window_ms
        for rule, timer in sorted(self.state.pending.items()):
            other = self.engine.triggers.get(rule)
            if other is None or other.priority <= trigger.priority or timer.at > until:
                continue
            proposal = other.on_timer(self._own(other), self.state, max(self._now, timer.at))
            if stands(self._candidate(other, proposal, timer), self.engine.config_of(rule)):
                return rule
        return ""

    def _send(
        self,
        sent: Candidate,
        trigger: Trigger[Any],
        proposal: Proposal[Any],
        step: int,
        offer: Offer | None,
        grant: Grant | None,
    ) -> None:
        content = self.engine.content(trigger.id)
        self.outcome.messages.append(
            Message(
                at=self.at,
                user=self.user,
                channel=sent.channel,
                campaign=trigger.id,
                rule=trigger.id,
                items=_shown(content, proposal, self.state, offer),
                due=sent.due,
                time=sent.now,
                expires=sent.due + self.engine.config_of(trigger.id).expiry_ms,
                step=step,
                version=self._number(trigger.id),
                template="" if content is None else content.template,
                data={} if content is None else content.data,
                coupon=self._coupon(trigger.id, grant),
            )
        )
        if grant is not None:
            held = self.state.coupons.get(trigger.id, ())
            self.state.coupons[trigger.id] = (*held, grant.code)[-CODES_HELD:]
            self._hope(grant.chance)
        earlier = self.state.sent.get(sent.channel, ())
        self.state.sent[sent.channel] = (*(time for time in earlier if time > sent.now - WEEK_MS), sent.now)
        self.state.campaigns[trigger.id] = sent.now
        self._tidy()
        self._note_revocable(trigger, sent, proposal, step)

    def _tidy(self) -> None:
        """With every message end what no campaign asks for any more, so that states stay small however many
        campaigns come and go: when those sent that rest no longer, and the states of those that are gone."""
        state, triggers = self.state, self.engine.triggers
        state.campaigns = {
            rule: time for rule, time in state.campaigns.items() if self._now < time + self._counts_for(rule)
        }
        for rule in [each for each in state.triggers if each not in triggers and each not in state.pending]:
            del state.triggers[rule]

    def _counts_for(self, rule: str) -> int:
        """How long (ms) it counts when a rule last sent a message: while it rests, and as long as an event
        that comes late may lead to another (`Birthday`). 0: its campaign is gone."""
        campaign, config = self.engine.campaigns.get(rule), self.engine.config_of(rule)
        if campaign is None and rule not in self.engine.triggers:
            return 0
        rest = config.cart_rest_ms if campaign is None else int(campaign.rest)
        return max(rest, DAY_MS + config.expiry_ms)

    def _note_revocable(
        self, trigger: Trigger[Any], sent: Candidate, proposal: Proposal[Any], step: int
    ) -> None:
        """Keep what a late order may take back, also when its campaign is switched off by then."""
        told = [each for each in self.state.nudged if each.time > sent.now - REVOCABLE_MS]
        by = trigger.revoked_by
        items = tuple(line.item for line in proposal.items) if by == "items" else ()
        if by == "order" or items:
            told.append(Nudged(trigger.id, sent.channel, step, sent.due, sent.now, items, proposal.since))
        self.state.nudged = tuple(told[-NUDGED:])

    def _hope(self, chance: int) -> None:
        if chance:
            taste = self.state.taste
            self.state.taste = msgspec.structs.replace(taste, hoped=taste.hoped + chance)

    # Events

    def _event(self, seen: Seen) -> None:
        if seen.type in ENDS:
            self._forget(seen)
            return
        if isinstance(seen.event, Told) and seen.type == OFFER:
            self._answered(msgspec.convert(seen.event.body, Offer))
        if isinstance(seen.event, Told) and seen.type == GRANT:
            self._granted(msgspec.convert(seen.event.body, Grant))
        if not self._concerns(seen):
            return
        bought, points = self.state.rfm, self.state.loyalty
        observe(self.state, seen)
        if self.engine.program is not None and seen.type in self.engine.earning:
            self.state.loyalty = after(self.engine.program, points, seen, bought, self.state.rfm)
        if self.engine.choices:
            self.state.taste = tasted(self.state.taste, seen)
        if seen.type == "view_item":
            observe_view(self.state, seen)
        if self.engine.terms is not None:
            self._watch(seen)
        if self.engine.off:
            for rule in sorted(self.engine.off & (self.state.triggers.keys() | self.state.pending.keys())):
                self._switch_off(rule)
        if seen.type == "purchase" and self.state.nudged:
            self._revoke(seen)
        if seen.event.coupon is not None and self.state.coupons and seen.type in REDEEMING:
            self._redeem(seen, seen.event.coupon)
        for trigger in self.engine.triggers.values():
            if seen.type in trigger.kinds or (isinstance(trigger, Loyal) and self.state.loyalty != points):
                self._tell(trigger, seen)
        if seen.type == "purchase":
            self._ask_again()

    def _concerns(self, seen: Seen) -> bool:
        """Whether an event says anything here: it may be shown because another engine will want it, or did.

        Of visitors, whom nobody can write to, no views are kept: there are many of both.
        """
        if seen.type in ENGAGEMENT_KINDS:
            return True
        return seen.type in self.engine.kinds and (seen.type != "view_item" or self.state.identified)

    def _answered(self, offer: Offer) -> None:
        """What was asked for has come; if nothing waits for it any more, it is too late."""
        trigger, timer = self.engine.triggers.get(offer.rule), self.state.pending.get(offer.rule)
        if trigger is None or timer is None or (timer.due, timer.asked) != (offer.due, offer.number):
            return
        del self.state.pending[offer.rule]
        own = self._propose(trigger, self._own(trigger), Timer(timer.at, timer.due), offer)
        if offer.rule not in self.state.pending:
            self._arm(trigger, own)

    def _granted(self, grant: Grant) -> None:
        """The ledger's answer has come; a coupon that nothing waits for any more goes back."""
        asked = grant.request
        trigger, timer = self.engine.triggers.get(asked.rule), self.state.pending.get(asked.rule)
        own = None if trigger is None else self._own(trigger)
        waits = timer is not None and (timer.due, timer.coupon) == (asked.due, asked.number)
        if trigger is None or own is None or timer is None or not waits or own.step + 1 != asked.step:
            return self._give_back(grant)
        offer = None if asked.offer is None else msgspec.convert(asked.offer, Offer)
        del self.state.pending[asked.rule]
        gives = self._gives(asked.rule)  # a version since may give none
        if not gives:
            self._give_back(grant)
        own = self._propose(trigger, own, Timer(timer.at, timer.due), offer, grant if gives else None)
        if asked.rule not in self.state.pending:
            self._arm(trigger, own)
        return None

    def _redeem(self, seen: Seen, code: str) -> None:
        """Tell the campaign that sent this user a code that he used it."""
        for campaign, codes in sorted(self.state.coupons.items()):
            if code in codes:
                self._notify(campaign, REDEEMED, Word(campaign, self.user, seen.time, code=code))
                if campaign in self.engine.choices:
                    taste = self.state.taste
                    self.state.taste = msgspec.structs.replace(taste, used=taste.used + 1)

    def _ask_again(self) -> None:
        """What was ordered may be in an answer that is on its way: another one takes its place."""
        for rule, timer in sorted(self.state.pending.items()):
            if timer.asked and self._ask(rule, timer.due, timer.asked + 1):
                self._withdraw(rule, timer)
                self.state.pending[rule] = Timer(timer.at, timer.due, timer.held, timer.asked + 1)

    def _watch(self, seen: Seen) -> None:
        """Tell items who is interested in them; of users whom nobody could write to they need not know."""
        kind = KIND_OF.get(seen.type)
        if kind is None or not (self.state.identified or seen.event.user is not None):
            return
        for line in seen.event.lines():
            left = watch(self.state.watching, line.item, kind, seen.time)
            self._interest(line.item, kind, seen.time, line.price)
            for item in left:
                self._interest(item, LEFT, seen.time)

    def _interest(self, item: str, kind: int, time: int, price: float | None = None) -> None:
        self.outcome.interests.append(Interest(self.at, item, self.user, kind, time, price))

    def _tell(self, trigger: Trigger[Any], seen: Seen) -> None:
        """Show an event to a trigger. One already due waits one lateness, for what else comes late."""
        own = self._own(trigger)
        old = self.state.pending.get(trigger.id)
        due = self._arm(
            trigger,
            self._keep(trigger, trigger.on_event(own, self.state, seen)),
            late_at=self._now + self.engine.config.lateness_ms,
        )
        if old is not None and (due is None or (old.held and due != old.due)):
            self._cancel(trigger.id, own.step + 1, old, seen)

    def _revoke(self, seen: Seen) -> None:
        """An order from before a nudge that would have kept it back takes it back, once."""
        bought, kept = {line.item for line in seen.event.lines()}, []
        for nudge in self.state.nudged:
            recent = nudge.since <= seen.time <= nudge.time and nudge.time > self._now - REVOCABLE_MS
            if not recent or (nudge.items and not bought & set(nudge.items)):
                kept.append(nudge)
                continue
            rule, step, due = nudge.rule, nudge.step, nudge.due
            said = (self.user, nudge.channel, rule, rule, due, seen.time, step, self._number(rule))
            self.outcome.messages.append(Revoke(self.at, *said))
            evidence = (Evidence(seen.type, seen.time),)
            self._decide(rule, step, due, seen.time, "revoked", seen.type, evidence=evidence)
        self.state.nudged = tuple(kept)

    def _forget(self, seen: Seen) -> None:
        for rule, timer in sorted(self.state.pending.items()):
            trigger = self.engine.triggers.get(rule)
            self._cancel(rule, 0 if trigger is None else self._own(trigger).step + 1, timer, seen)
        for item in sorted(self.state.watching):
            self._interest(item, LEFT, seen.time)
        for campaign in sorted(self.state.coupons):
            self._notify(campaign, ERASE, Word(campaign, self.user, seen.time))
        self.state = UserState()

    def _switch_off(self, rule: str) -> None:
        """What is known of a user ends with an event that the campaign's trigger is not shown."""
        self.state.triggers.pop(rule, None)
        timer = self.state.pending.pop(rule, None)
        if timer is not None:
            self._decide(rule, 0, timer.due, self._now, "cancelled", "switched-off")
            self._withdraw(rule, timer)

    def _cancel(self, rule: str, step: int, timer: Timer, seen: Seen) -> None:
        evidence = (Evidence(seen.type, seen.time),)
        self._decide(rule, step, timer.due, seen.time, "cancelled", seen.type, evidence=evidence)
        self._withdraw(rule, timer)

    # Both

    def _number(self, rule: str) -> int | None:
        return self.engine.numbers.get(rule)

    def _own(self, trigger: Trigger[Any]) -> Progress:
        packed = self.state.triggers.get(trigger.id)
        new: Progress = trigger.state()
        try:
            return new if packed is None else msgspec.msgpack.decode(packed, type=type(new))
        except msgspec.ValidationError:  # of another type of trigger, which had this id before
            return new

    def _keep(self, trigger: Trigger[Any], own: Progress) -> Progress:
        if own == trigger.state():
            self.state.triggers.pop(trigger.id, None)
        else:
            self.state.triggers[trigger.id] = msgspec.msgpack.encode(own)
        return own

    def _arm(self, trigger: Trigger[Any], own: Progress, late_at: int | None = None) -> int | None:
        """Set the timer that a trigger wants and return its due time; one that it has already stays."""
        due = trigger.next_timer(own)
        old = self.state.pending.get(trigger.id)
        if due is None:
            self.state.pending.pop(trigger.id, None)
        elif old is None or old.due != due:
            at = due if late_at is None or due > self._now else late_at
            self.state.pending[trigger.id] = Timer(at, due)
        return due

    def _decide(
        self,
        rule: str,
        step: int,
        due: int,
        time: int,
        verdict: Verdict,
        reason: str = "",
        counted: dict[str, int] | None = None,
        evidence: tuple[Evidence, ...] = (),
        weighed: tuple[Weighed, ...] = (),
        consent: Consents | None = None,
    ) -> None:
        self.outcome.decisions.append(
            Decision(
                at=self.at,
                time=time,
                user=self.user,
                campaign=rule,
                rule=rule,
                step=step,
                due=due,
                outcome=verdict,
                reason=reason,
                counters=counted or {},
                evidence=evidence,
                version=self._number(rule),
                offers=weighed,
                consent=consent,
            )
        )


def _with(trigger: Trigger[Any], proposal: Proposal[Any], timer: Timer, offer: Offer | None) -> Proposal[Any]:
    """A proposal with what was asked for, if it has come."""
    if offer is None:
        return replace(proposal, untrue=proposal.untrue or "unanswered") if timer.asked else proposal
    if not offer.items:
        return replace(proposal, untrue=proposal.untrue or "nothing")
    made = trigger.offered(proposal, offer.items)
    evidence = tuple(Evidence(OFFER, offer.time, line.item) for line in made.items) if trigger.asks else ()
    return replace(made, evidence=(*made.evidence, *evidence))


def _consents(trigger: Trigger[Any], user: UserState) -> Consents:
    """What a user answered of what a trigger's messages need."""
    channels = {name: _answer(user.channels.get(name)) for name in trigger.channels}
    return Consents(channels, {trigger.purpose: _answer(user.purposes.get(trigger.purpose))})


def _answer(choice: Choice | None) -> bool | None:
    return None if choice is None else choice.granted


def _shown(
    content: Content | None, proposal: Proposal[Any], user: UserState, offer: Offer | None
) -> tuple[NudgeItem, ...]:
    """The items that a message shows: those that its campaign wants, at most so many."""
    if content is None:
        return proposal.items
    items = proposal.items
    if content.items == "cart":
        items, _ = cart_of(user)
    elif content.items == "viewed":
        items = tuple(NudgeItem(each.item, each.price, 1) for each in user.viewed)
    elif content.items == "recommended" and offer is not None:
        items = tuple(NudgeItem(each.item, each.price, 1) for each in offer.items)
    return items[: content.most]


def _verdict(stop: Stop | None) -> tuple[Verdict, str]:
    if stop is None:
        return "sent", ""
    return ("suppressed" if stop.until is None else "held"), stop.reason
