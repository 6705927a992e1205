"""PG448, HookOfKeras: a `pg.Hook` with methods of Keras's callbacks, which are never called.

A `pg.Hook` has five methods: `on_start`, `on_steps`, `on_record`, `on_finding` and `on_end`. A
`keras.callbacks.Callback` can be passed to `fit` as it is.

How sure: a warning, read from the names of the methods.
"""

from __future__ import annotations

from perigee._events.events import Hook
from perigee.diagnostics._finding import Finding

_INSTEAD = {
    "on_train_begin": "on_start(self, event)",
    "on_train_end": "on_end(self, event)",
    "on_epoch_begin": "on_record(self, event)",
    "on_epoch_end": "on_record(self, event)",
    "on_batch_begin": "on_steps(self, event)",
    "on_batch_end": "on_steps(self, event)",
    "on_train_batch_begin": "on_steps(self, event)",
    "on_train_batch_end": "on_steps(self, event)",
    "on_test_begin": "on_record(self, event)",
    "on_test_end": "on_record(self, event)",
}
"""Methods of Keras's callbacks, and the method of a hook for it."""


def check(hook: Hook) -> list[Finding]:
    """Look for methods of a hook that have names of Keras's."""
    kind = type(hook)
    found = {name: instead for name, instead in _INSTEAD.items() if _is_users(kind, name)}
    if not found:
        return []
    name, instead = next(iter(found.items()))
    return [
        Finding(
            code="PG448",
            name="HookOfKeras",
            severity="warning",
            happened=f"`{kind.__name__}` is a `pg.Hook`, and has methods that are called only on "
            "Keras's callbacks:",
            items=tuple(found),
            expected="the methods of `pg.Hook`.",
            fix=f"write `def {instead}:` instead of `{name}`, or subclass "
            "`keras.callbacks.Callback`.",
        )
    ]


def _is_users(kind: type, name: str) -> bool:
    """Return whether the method of that name is neither Keras's nor Perigee's."""
    for each in kind.__mro__:
        if name in vars(each):
            return each.__module__.partition(".")[0] not in ("keras", "perigee")
    return False
