"""Which one change of a program lets it learn what it does not learn as it is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from perigee.diagnostics._trials import Trials, Variation

Kind = Literal["rate", "scale", "weights", "updates"]

_LEAST_GAIN = 0.15
"""What can be learned at least, as a part of the loss of a model that learns nothing."""
_LITTLE, _MOST = 0.5, 0.75
"""Parts of what can be learned: a program learns less than the first, its cause brings more."""
_CLOSE = 0.1
"""By how much less another cause may bring that is known from the values themselves."""
_UP, _DOWN = (1.0, 2.0, 3.0, 4.0), (-1.0, -2.0, -3.0)
"""Powers of ten of the rates."""
_WORSE = 1.02
"""A rate after which no farther one is tried has a loss that is so much higher."""
_FEW_UPDATES, _LONGER = 150, 10
_TWICE = (0, 1)
"""The starts from which a cause must help."""


@dataclass(frozen=True, slots=True)
class Cause:
    """The one change that lets a program learn, and what it gave.

    Attributes:
        kind: What is changed.
        variation: The change.
        own: The held-out loss without it.
        loss: The held-out loss with it.
        blind: The held-out loss if there is nothing to learn but the frequencies of labels.
        is_held_out: Whether rows could be held out; else `blind` is the loss at the beginning.
    """

    kind: Kind
    variation: Variation
    own: float
    loss: float
    blind: float
    is_held_out: bool


class Comparison(Trials):
    """Trials of a program and of variations of it."""

    @cached_property
    def cause(self) -> Cause | None:
        """What keeps the program from learning; see `cause_of`."""
        return cause_of(self)

    @property
    def severity(self) -> Literal["error", "warning"]:
        """How certain it is that something is wrong: without the change, values are not finite."""
        return "warning" if self.cause is None or math.isfinite(self.cause.own) else "error"


def cause_of(trials: Trials) -> Cause | None:
    """Compare a program with variations of itself, from the same start.

    Returns:
        The smallest change that brings most of what can be learned, if the program itself learns
        less than half of it, from each start; else `None`.
    """
    if trials.optimizer is None or not trials.is_blindable:
        return None
    if not trials.held_out and trials.updates is None:
        return None  # what is learned by heart in the end says nothing
    if _has_learned(trials):
        return None
    own = _own(trials, 0)
    tried = _tried(trials)
    if not tried:
        return None
    best = min(tried.values())
    if best >= own - _LEAST_GAIN / 2 * abs(best) or not math.isfinite(best):
        return None
    blind = _blind(trials, tried, best)
    if not math.isfinite(blind) or blind - best < _LEAST_GAIN * abs(blind):
        return None

    def learned(loss: float) -> float:
        return (blind - loss) / (blind - best)

    if learned(own) >= _LITTLE:
        return None
    chosen = _chosen(trials, {v: learned(loss) for v, loss in tried.items()})
    if chosen is None:
        return None
    kind, variation = chosen
    for start in _TWICE[1:]:
        again, same = trials.of(replace(variation, start=start)).loss, _own(trials, start)
        if learned(same) >= _LITTLE or learned(again) < (_LITTLE + _MOST) / 2:
            return None
    return Cause(kind, variation, own, tried[variation], blind, trials.held_out)


def _has_learned(trials: Trials) -> bool:
    """Return whether a program learns half of what there is even if no loss at all can be reached.

    Nothing else need be tried then.
    """
    blind = trials.of(replace(trials.unchanged, is_blind=True)).loss
    return 0 <= trials.own.loss <= (1 - _LITTLE) * min(blind, trials.first_loss)


def _blind(trials: Trials, tried: dict[Variation, float], best: float) -> float:
    """Return the loss of what has learned nothing about single rows.

    That is the loss with the labels of other rows; where none can be held out, at the beginning.
    """
    if not trials.held_out:
        return trials.first_loss
    usual = [v for v in tried if v.is_fresh or v.is_scaled]  # others learn slowly at huge losses
    chosen = min(usual, key=lambda v: tried[v], default=None)
    if chosen is None or tried[chosen] > (1 + _LEAST_GAIN) * best + _LEAST_GAIN:
        chosen = min(tried, key=lambda v: tried[v])
    return trials.of(replace(chosen, is_blind=True)).loss


def _own(trials: Trials, start: int) -> float:
    """Return the loss of the program itself; if it trains for longer than trials, an estimate.

    A higher rate then stands for more updates.
    """
    unchanged = replace(trials.unchanged, start=start)
    losses = [trials.of(unchanged).loss]
    longer = trials.horizon / unchanged.steps
    if longer > 1.5:
        factor = longer
        losses.append(trials.of(replace(unchanged, factor=factor)).loss)
        if factor > 10:
            losses.append(trials.of(replace(unchanged, factor=math.sqrt(factor))).loss)
    return min(losses)


def _tried(trials: Trials) -> dict[Variation, float]:
    """Return the loss of each variation, from the first start."""
    unchanged = trials.unchanged
    tried: dict[Variation, float] = {}

    def loss(variation: Variation) -> float:
        tried[variation] = trials.of(variation).loss
        return tried[variation]

    constant = replace(unchanged, is_constant=True) if trials.has_schedule else unchanged
    if trials.has_schedule:
        loss(constant)
    for powers in (_UP, _DOWN):
        last = trials.of(unchanged).loss
        for power in powers:
            now = loss(replace(constant, factor=10.0**power))
            if now > _WORSE * last and (math.isfinite(last) or power > 0):
                break
            last = min(last, now)
    if trials.unscaled is not None:
        loss(replace(unchanged, is_scaled=True))
    if trials.odd:
        loss(replace(unchanged, is_fresh=True))
        if trials.unscaled is not None:
            loss(replace(unchanged, is_fresh=True, is_scaled=True))
    if trials.updates is not None and trials.updates <= _FEW_UPDATES:
        steps = min(trials.most_steps, _LONGER * trials.updates)
        if steps >= 3 * trials.updates:
            loss(replace(unchanged, steps=steps))
    return tried


def _chosen(trials: Trials, learned: dict[Variation, float]) -> tuple[Kind, Variation] | None:
    """Return the smallest change that brings most of what can be learned.

    Inputs or weights that are seen to be unusual explain why another rate does better, too.
    """
    unchanged = trials.unchanged
    known: dict[Kind, Variation] = {
        "scale": replace(unchanged, is_scaled=True),
        "weights": replace(unchanged, is_fresh=True),
    }
    rates = {
        v: share
        for v, share in learned.items()
        if v.steps == unchanged.steps and not v.is_scaled and not v.is_fresh
    }
    best_rate = max(rates.values(), default=-math.inf)
    candidates: list[tuple[float, Kind]] = [
        (learned[variation], kind)
        for kind, variation in known.items()
        if variation in learned and learned[variation] >= max(_MOST, best_rate - _CLOSE)
    ]
    if candidates:
        kind = max(candidates)[1]
        return kind, known[kind]
    longer = [v for v in learned if v.steps > unchanged.steps]
    if longer and learned[longer[0]] >= max(_MOST, best_rate - 2 * _CLOSE):
        return "updates", longer[0]
    enough = [v for v, share in rates.items() if share >= max(_MOST, best_rate - _CLOSE)]
    if not enough:
        return None
    return "rate", min(enough, key=lambda v: abs(math.log10(v.factor)))


def told(change: str, cause: Cause) -> str:
    """Return what a change gave, as a sentence that begins with it."""
    own = f"not {cause.own:.3g}" if math.isfinite(cause.own) else "and infinite without that"
    what, blind = "the loss", f"it begins at {cause.blind:.3g}"
    if cause.is_held_out:
        what = "the loss on other rows"
        blind = f"with labels of other rows, which nothing can be learned from, {cause.blind:.3g}"
    steps = cause.variation.steps
    return f"{change}, {what} after {steps} steps is {cause.loss:.3g}, {own}; {blind}."
