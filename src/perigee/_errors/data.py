"""Errors about data and feeds (PG3xx)."""

from collections.abc import Sequence

from perigee._errors._tree import PerigeeError


class EmptyDataError(PerigeeError, ValueError):
    """The data holds no batch."""

    code = "PG301"
    shown_by = "a pass over the data"

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__(
            f"The data ({kind}) holds no batch.",
            expected="at least one batch a pass.",
            fix="check filters and paths; with `drop_remainder=True` the data must hold at least "
            "one full batch; an exhausted iterator must be created again (pass the generator "
            "function instead).",
        )


class DataEndedError(PerigeeError, ValueError):
    """The data ended before the requested epochs or steps, and cannot be restarted."""

    code = "PG302"
    shown_by = "a pass over the data"

    def __init__(self, kind: str, drawn: int, wanted: str) -> None:
        self.kind, self.drawn, self.wanted = kind, drawn, wanted
        super().__init__(
            f"The data ({kind}) ended after {drawn} batches, and {wanted} is needed.",
            expected="data that can be iterated over as often as needed.",
            fix="pass the generator function instead of a generator object, or request no more "
            "than the data holds.",
        )


class BatchChangedError(PerigeeError, ValueError):
    """A batch has another structure, dtype or rank than the batches before it."""

    code = "PG303"
    shown_by = "two batches"

    def __init__(self, batch: int, first: str, now: str) -> None:
        self.batch, self.first, self.now = batch, first, now
        super().__init__(
            f"Batch {batch} differs in structure, dtype or rank:",
            items=[f"first batch: {first}", f"this batch: {now}"],
            expected="batches of one structure, dtype and rank; only sizes may differ.",
            fix="make the data yield the same structure each time (cast and reshape there).",
        )


class InfiniteDataError(PerigeeError, ValueError):
    """A whole pass over infinite data was requested."""

    code = "PG304"
    shown_by = "the arguments, for data that declares itself infinite"

    def __init__(self, kind: str, missing: str = "steps_per_epoch") -> None:
        self.kind, self.missing = kind, missing
        super().__init__(
            f"The data ({kind}) is infinite, so a pass over it never ends.",
            expected=f"`{missing}`, the number of batches to draw"
            + (", or `steps` instead of `epochs`." if missing == "steps_per_epoch" else "."),
            fix=f"pass `{missing}=...`, or data that ends: without `while True` or `.repeat()`.",
        )


class DataTypeError(PerigeeError, TypeError):
    """Data of a type that Perigee does not support."""

    code = "PG305"
    shown_by = "the data itself"

    def __init__(self, kind: str, fix: str) -> None:
        self.kind = kind
        super().__init__(
            f"Data of type {kind} is not supported.",
            expected="NumPy arrays (alone, or in a tuple or dict), a `tf.data.Dataset`, a "
            "`keras.utils.PyDataset`, or an iterable of batches.",
            fix=fix,
        )


class ArrayLengthError(PerigeeError, ValueError):
    """Arrays of one data set have different numbers of rows."""

    code = "PG306"
    shown_by = "the lengths of the arrays"

    def __init__(self, lengths: Sequence[str]) -> None:
        self.lengths = tuple(lengths)
        super().__init__(
            "The arrays differ in length:",
            items=self.lengths,
            expected="the same number of rows in each.",
            fix="a tuple or dict of arrays is one data set; pass a list for a sequence of batches.",
        )


class PositionError(PerigeeError, ValueError):
    """The data cannot be moved to the requested position."""

    code = "PG307"
    shown_by = "the data itself, at the position"

    def __init__(self, kind: str, passes: int, batches: int, why: str) -> None:
        self.kind, self.passes, self.batches, self.why = kind, passes, batches, why
        super().__init__(
            f"The data ({kind}) cannot be moved to batch {batches} of pass {passes}: {why}.",
            expected="a position that this data has had, or can reach.",
            fix="use the same data, batch size and filters as when the position was saved, and a "
            "generator function instead of a generator that it made.",
        )


class DataChangedError(PerigeeError, ValueError):
    """The data is not the one whose position was saved."""

    code = "PG308"
    shown_by = "the saved description of the data, and the data"

    def __init__(self, kind: str, differences: Sequence[str]) -> None:
        self.kind, self.differences = kind, tuple(differences)
        super().__init__(
            f"The data ({kind}) is not the one whose position was saved:",
            items=self.differences,
            expected="the data, batch size and order of the run that is resumed.",
            fix="pass the same data in the same way, or start a new run.",
        )


class NotResumableError(PerigeeError, ValueError):
    """The data cannot be restored to any saved position."""

    code = "PG309"
    shown_by = "the data itself"

    def __init__(self, kind: str, why: str) -> None:
        self.kind, self.why = kind, why
        super().__init__(
            f"The data ({kind}) cannot be restored to its saved position: {why}.",
            expected="data that can be restarted: arrays, a `tf.data.Dataset`, a "
            "`keras.utils.PyDataset`, a list of batches, or a generator function.",
            fix="pass the generator function instead of a generator that it made.",
        )


class DataStateError(PerigeeError, ValueError):
    """The saved value is not a position of data of this type.

    No program is shown: it takes a checkpoint of another TensorFlow release.
    """

    code = "PG310"
    shown_by = "the saved value"

    def __init__(self, kind: str, why: str) -> None:
        self.kind, self.why = kind, why
        super().__init__(
            f"The saved position of the data ({kind}) cannot be read: {why}.",
            expected="what `state` returned, unchanged.",
            fix="resume from another checkpoint, with the TensorFlow release that wrote it where "
            "the data is a `tf.data.Dataset`.",
        )
