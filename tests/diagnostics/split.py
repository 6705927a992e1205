"""Which programs and mutants are held out.

A fifth of each corpus is not looked at while rules are written: no held-out mutant is run, and
held-out programs only to see that they train. Rules are tuned on the rest; when they are finished,
the held-out fifth is scored once, apart, and both scores are told. A rule that is changed because
of a held-out score has no such score any more.

A held-out program has no mutants but held-out ones: it is not seen through them.
"""

import hashlib

SHARE = 5
"""One in so many is held out."""


def digest(name: str) -> int:
    """Return a number that is for ever the same for the same name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def is_held_out(name: str) -> bool:
    """Tell whether the program or mutant of this name is held out."""
    return digest(name) % SHARE == 0
