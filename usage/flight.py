"""Flight: one call from admission to the ledger. Whatever ends a call ends here, once, without awaiting.

    with flight.open(key, action="generateContent", model=model.name, limiter=limiter) as call:
        call.admitted(hold)
        ...
        call.reaching(deployment)          # before each try: the first one is written down before anything is sent
        call.delivered(len(text))          # before each piece leaves
        call.saw(tokens)                   # after `delivered` of the same piece
        call.finish(200, "OK", finish_reason="STOP")     # before the last bytes leave

Leaving the block without `finish` is an end too: the client left, or something broke.
"""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from types import TracebackType
from typing import Any, Protocol, Self

from keys.context import KeyContext
from keys.limits.base import Ask, Hold, Standing, Used
from lib import json
from lib.ids import uuid7_text
from routing.catalog import DeploymentEntry
from usage import bodies, prices, spool
from usage.bodies import Kept
from usage.event import Tokens, UsageEvent

Record = dict[str, Any]  # the fields of UsageEvent

NO_TOKENS = Tokens()
BYTES_PER_TOKEN = 4
MAX_ERROR = 2_000  # characters of an error text that are kept


class Settler(Protocol):
    """What a flight needs of a limiter: all are synchronous and idempotent by call id."""

    def settle(self, hold: Hold, used: Used) -> None: ...
    def release(self, hold: Hold) -> None: ...
    def reached(self, hold: Hold) -> None: ...


_flights: dict[str, Flight] = {}


def open(
    key: KeyContext,
    *,
    action: str,
    model: str,
    call_id: str = "",
    requested_model: str = "",
    stream: bool = False,
    limiter: Settler | None = None,
    notes: Sequence[Any] = (),
    client: str = "",
    address: str = "",
    label: str = "",
    flags: tuple[str, ...] = (),
) -> Flight:
    """Begin a call. `notes` is the router's list of attempts (routing.note); it is read at the end."""
    return Flight(key, action, model, call_id, requested_model, stream, limiter, notes, client, address, label, flags)


def in_flight() -> int:
    return len(_flights)


def finish_all() -> int:
    """End every call that still runs: the process must stop now. Returns how many."""
    running = list(_flights.values())
    for flight in running:
        flight.finish(503, "UNAVAILABLE", error="The gateway was stopped.", flags=("cut",))
        flight.hand_over()
    return len(running)


class Flight:
    """One call under way. Not shared between tasks."""

    __slots__ = (
        "_action", "_address", "_ask", "_call_id", "_client", "_deployment", "_dropped", "_flags", "_hold", "_key", "_label",
        "_limiter", "_model", "_notes", "_notes_before", "_prompt", "_refused", "_requested", "_saw", "_since", "_started_ms", "_stream", "_text",
        "_tick", "_ttft_ms", "kept", "record",
    )  # fmt: skip

    def __init__(
        self,
        key: KeyContext,
        action: str,
        model: str,
        call_id: str,
        requested_model: str,
        stream: bool,
        limiter: Settler | None,
        notes: Sequence[Any],
        client: str,
        address: str,
        label: str,
        flags: tuple[str, ...],
    ) -> None:
        self._call_id = call_id or uuid7_text()
        self._started_ms = time.time_ns() // 1_000_000
        self._tick = time.monotonic()
        self._key = key
        self._action = action
        self._model = model
        self._requested = requested_model
        self._stream = stream
        self._limiter = limiter
        self._notes = notes
        self._client = client
        self._address = address
        self._label = label
        self._flags = flags
        self._hold: Hold | None = None
        self._refused: Standing | None = None
        self._ask: Ask | None = None
        self._prompt = 0
        self._dropped: tuple[str, ...] = ()
        self._deployment: DeploymentEntry | None = None
        self._notes_before = 0
        self._saw: Tokens | None = None
        self._text = 0
        self._since = 0
        self._ttft_ms: int | None = None
        self.record: Record | None = None  # the fields of UsageEvent, set by finish
        self.kept: Kept | None = None  # request and answer, where they are kept
        _flights[self._call_id] = self

    @property
    def call_id(self) -> str:
        return self._call_id

    @property
    def event(self) -> UsageEvent | None:
        """The event of an ended call, None while it runs."""
        if self.record is None:
            return None
        return UsageEvent(**self.record | {"attempts": tuple([replace(note) for note in self._notes])})

    def follow(self, notes: Sequence[Any]) -> None:
        """The router's list of attempts for this call, read at the end."""
        self._notes = notes

    @property
    def standing(self) -> Standing | None:
        """The tightest limit after admission, or the one that refused; None when no limit applied."""
        return self._hold.standing if self._hold is not None else self._refused

    @property
    def dropped(self) -> tuple[str, ...]:
        return self._dropped

    @property
    def heard(self) -> bool:
        """Whether something of the answer has left."""
        return self._ttft_ms is not None

    def left(self) -> None:
        """The client left (or is done): harmless when the call has ended already."""
        self.finish(499, "CANCELLED", error="The client left.", flags=("cancelled",))

    def asked(self, ask: Ask, prompt_tokens: int) -> None:
        """The worst case of this call and our count of its prompt: what an estimated charge goes by.

        Called for every call that may reach an upstream, whether limits apply or not.
        """
        self._ask = ask
        self._prompt = prompt_tokens

    def admitted(self, hold: Hold | None) -> None:
        """What admission took. The flight settles or releases it."""
        self._hold = hold
        if hold is not None and self._ask is None:
            self._ask = hold.ask

    def refused(self, standing: Standing) -> None:
        """The limit that had no room."""
        self._refused = standing

    def reaching(self, deployment: DeploymentEntry, dropped: tuple[str, ...] = ()) -> None:
        """A deployment is about to be tried. The first time this is written down; raises spool.SpoolFull.

        dropped: what the letter to this deployment had to leave out.
        """
        first = self._deployment is None
        self._deployment = deployment
        self._dropped = dropped
        self._notes_before = len(self._notes)
        self._saw, self._text, self._since, self._ttft_ms = None, 0, 0, None  # an earlier try said nothing that counts
        if first:
            record = self._orphan()
            try:
                spool.current().append(spool.STARTED, encode(record))
            except spool.SpoolFull:
                self._deployment = None  # nothing was sent, and nothing is known of it
                raise
            if self._hold is not None and self._limiter is not None:
                self._limiter.reached(self._hold)

    def _orphan(self) -> Record:
        """The call as it will be recorded and charged if nobody ever finishes it."""
        tokens, cost = self._as_held()
        flags = ("estimated", "orphaned") if cost is not None else ("estimated", "orphaned", "unpriced")
        return self._record(500, "INTERNAL", "The gateway stopped before this call ended.", "", tokens, cost, flags)

    def delivered(self, size: int) -> None:
        """A piece of the answer leaves now. size: UTF-8 bytes of its text, thoughts and function calls; before `saw`."""
        if self._stream and self._ttft_ms is None:
            self._ttft_ms = self._elapsed()
        self._text += size
        self._since += size

    def saw(self, tokens: Tokens) -> None:
        """The upstream reported its count so far, everything delivered so far included. The last word holds.

        A count without output says nothing of what was delivered.
        """
        self._saw = tokens
        if tokens.candidates or tokens.thoughts:
            self._since = 0

    def finish(
        self,
        http_status: int,
        status: str = "OK",
        *,
        error: str = "",
        finish_reason: str = "",
        flags: tuple[str, ...] = (),
        unanswered: bool = False,
    ) -> None:
        """The call has ended. The first end counts; more are harmless. Never awaits, never raises for a full disk.

        flags: "cancelled" when the client left, "cut" when the answer broke off.
        unanswered: the upstream may still be answering, and billing, what nobody waits for: charged like a
        call whose client left.
        """
        if self.record is not None:
            return
        tokens, cost, more = self._charge(status, flags, unanswered)
        self.record = self._record(http_status, status, error, finish_reason, tokens, cost, (*flags, *more))
        _flights.pop(self._call_id, None)
        try:
            spool.current().keep(spool.FINISHED, encode(self.record))
        finally:
            self._settle(status, tokens, cost)

    def _settle(self, status: str, tokens: Tokens, cost: int | None) -> None:
        if self._hold is None or self._limiter is None:
            return
        if self._deployment is None and status != "OK":
            self._limiter.release(self._hold)
        else:
            self._limiter.settle(self._hold, Used(tokens.total, cost or 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.record is None:
            if kind is not None and issubclass(kind, (CancelledError, GeneratorExit)):
                self.left()
            else:
                said = f"{kind.__name__}: {error}" if kind else "The call was left without an answer."
                self.finish(500, "INTERNAL", error=said)
        if self.kept is not None:
            self.hand_over()

    def hand_over(self) -> None:
        """Request and answer to whoever keeps them, once: of calls that a deployment got, and of those nobody could
        read (400). What policy or a limit refused is not worth a place."""
        kept, self.kept = self.kept, None
        if kept is None or self.record is None:
            return
        if self._deployment is not None or self.record["http_status"] == 400:
            bodies.hand_over(kept, self._call_id, self._key, self._started_ms)

    # What it costs

    def _charge(
        self, status: str, flags: tuple[str, ...], unanswered: bool
    ) -> tuple[Tokens, int | None, tuple[str, ...]]:
        """(tokens, nano-dollars or None, flags) of an ended call."""
        if self._deployment is None:
            return NO_TOKENS, 0, ()
        if status == "OK":
            if self._saw is not None and self._saw.prompt and not self._since:
                return self._priced(self._saw, ())
            return self._priced(self._estimate(), ("estimated",))
        if self._text or self._saw is not None:
            return self._interrupted()
        if unanswered or (("cancelled" in flags or "cut" in flags) and self._under_way()):
            if self._stream:
                return self._interrupted()  # the prompt in full, nothing of an answer
            tokens, cost = self._as_held()
            return tokens, cost, ("estimated",) if cost is not None else ("estimated", "unpriced")
        return NO_TOKENS, 0, ()

    def _interrupted(self) -> tuple[Tokens, int | None, tuple[str, ...]]:
        """What the upstream reported, or what was delivered if that is more; never more than held when estimated."""
        if self._saw is not None and self._saw.prompt and not self._since:
            return self._priced(self._saw, ())
        tokens, ask = self._estimate(), self._bound()
        if ask is not None and ask.tokens and tokens.total > ask.tokens:
            tokens = replace(tokens, candidates=max(tokens.candidates - (tokens.total - ask.tokens), 0))
        tokens, cost, flags = self._priced(tokens, ("estimated",))
        if cost is not None and ask is not None and ask.spend:
            cost = min(cost, ask.spend)
        return tokens, cost, flags

    def _bound(self) -> Ask | None:
        """The ask, where admission held tokens or money for it; None: nothing was held, and nothing bounds an estimate."""
        if self._hold is None or not any(rule.metric in ("tokens", "spend") for rule in self._hold.rules):
            return None
        return self._ask

    def _estimate(self) -> Tokens:
        """What was reported, with what was delivered since then on top."""
        seen = self._saw or NO_TOKENS
        return replace(
            seen,
            prompt=seen.prompt or self._prompt,
            candidates=seen.candidates + -(-self._since // BYTES_PER_TOKEN),
        )

    def _as_held(self) -> tuple[Tokens, int | None]:
        """The worst case that admission held: for calls of which nothing else is known."""
        ask = self._ask
        output = max((ask.tokens if ask else 0) - self._prompt, 0)
        tokens = Tokens(prompt=self._prompt, candidates=output)
        card = self._card()
        if card is None:
            return tokens, None
        return tokens, ask.spend if ask and ask.spend else card.worst(self._prompt, output)

    def _under_way(self) -> bool:
        """Whether the last try may still be answered: it has not been noted as failed."""
        return not any(note.outcome not in ("cancelled", "ok", "skipped") for note in self._notes[self._notes_before :])

    def _priced(self, tokens: Tokens, flags: tuple[str, ...]) -> tuple[Tokens, int | None, tuple[str, ...]]:
        card = self._card()
        return (tokens, None, (*flags, "unpriced")) if card is None else (tokens, card.cost(tokens), flags)

    def _card(self) -> prices.RateCard | None:
        return None if self._deployment is None else prices.card(self._deployment)

    # The record

    def _elapsed(self) -> int:
        return round((time.monotonic() - self._tick) * 1000)

    def _record(
        self,
        http_status: int,
        status: str,
        error: str,
        finish_reason: str,
        tokens: Tokens,
        cost: int | None,
        flags: tuple[str, ...],
    ) -> Record:
        """The fields of UsageEvent. A plain dict: building the frozen dataclass would cost three times as much."""
        key, deployment, hold, ask = self._key, self._deployment, self._hold, self._ask
        if hold is not None and hold.degraded:
            flags = (*flags, "degraded")
        record: Record = {
            "call_id": self._call_id,  # first: the ledger finds it there without parsing
            "started_ms": self._started_ms,
            "organization_id": key.organization_id,
            "organization": key.organization,
            "key_id": key.key_id,
            "key": key.key_name,
            "action": self._action,
            "model": self._model,
            "team_id": key.team_id or "",
            "team": key.team or "",
            "owner": key.owner or "",
            "requested_model": self._requested,
            "stream": self._stream,
            "http_status": http_status,
            "status": status,
            "error": error[:MAX_ERROR],
            "finish_reason": finish_reason,
            "tokens": tokens,
            "cost_nano": cost,
            "ttft_ms": self._ttft_ms,
            "total_ms": self._elapsed(),
            "attempts": tuple(self._notes),
            "client": self._client,
            "address": self._address,
            "label": self._label,
            "tags": key.tags,
            "flags": tuple(dict.fromkeys((*self._flags, *flags))),
            "held_nano": ask.spend if ask else 0,
            "held_tokens": ask.tokens if ask else 0,
            "time_zone": key.time_zone,
            "limit_ids": tuple([rule.id for rule in hold.rules]) if hold else (),
        }
        if deployment is not None:
            card = prices.card(deployment)
            record["deployment_id"] = deployment.id
            record["deployment"] = deployment.name
            record["connection"] = deployment.connection
            record["backend"] = deployment.kind
            record["upstream_model"] = deployment.upstream_model
            record["dropped"] = self._dropped
            record["price_version"] = card.version if card else ""
        return record


def encode(event: Record | UsageEvent) -> bytes:
    """The payload of a spool line; `call_id` comes first. Never raises: text that is not proper Unicode is mended."""
    try:
        return json.dumps(event)
    except TypeError:
        return json.dumps(_mended(event))


def _mended(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case dict():
            return {_mended(name): _mended(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_mended(inner) for inner in value]
        case int() if not -(2**63) <= value < 2**64:
            return 2**63 - 1
        case None | bool() | int() | float():
            return value
        case _ if is_dataclass(value):
            return {each.name: _mended(getattr(value, each.name)) for each in fields(value)}
        case _:
            return str(value)
