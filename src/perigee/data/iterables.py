"""Iterables and generator functions of batches."""

import dis
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import GeneratorType
from typing import Any

from perigee._errors import (
    DataEndedError,
    DataStateError,
    DataTypeError,
    EmptyDataError,
    NotResumableError,
)
from perigee._events.protocols import Position, Resumes
from perigee._events.stored_shapes import loading
from perigee._typing import Batch
from perigee.data._batches import batch_converter
from perigee.data._passes import END, PassFeed
from perigee.data._spec import describe, has_rows, is_array_like

_ONE_SHOT = "an iterator yields its batches once"


class IterableFeed(PassFeed):
    """The items of an iterable, as batches.

    Structures are kept. Floating NumPy arrays are cast to Keras's `floatx`; tensors of the current
    framework are unchanged, those of another (of a torch `DataLoader`, say) become NumPy arrays. A
    position in a list is reached at once; otherwise by drawing, which is exact for data that
    depends on seeds alone, and as costly as the skipped batches. The state of a data loader that
    has one (torchdata's `StatefulDataLoader`) is saved and restored, if it consists of plain
    numbers and strings and no batch was prefetched.

    Args:
        data: A list, an iterable object, an iterator, or a function without required arguments
            that returns one of them; it is called at the start of each pass. An iterator serves
            one pass, unless its `__iter__` rewinds it.

    Attributes:
        data: The given data.
    """

    def __init__(self, data: Iterable[Batch] | Callable[[], Iterable[Batch]]) -> None:
        is_function = not isinstance(data, Iterable)
        super().__init__("generator function" if is_function else type(data).__name__)
        self.data: Any = data
        self.seeks_directly: bool = isinstance(data, list)
        self._convert = batch_converter()
        self._iterator: Iterator[Batch] = iter(())
        self._resumed: Position | None = None  # position of the data itself before it is opened

    @property
    def length(self) -> int | None:
        """Batches per pass; `None` if the data has no length."""
        try:
            return len(self.data)
        except TypeError:  # includes a DataLoader whose data set has no length
            return None

    @property
    def is_infinite(self) -> bool:
        """Whether a pass is known to be infinite, of a function once it was called."""
        given = self.data if isinstance(self.data, Iterable) else self._iterator
        if isinstance(given, (itertools.count, itertools.cycle)):
            return True
        return isinstance(given, GeneratorType) and _never_returns(given)

    @property
    def is_over(self) -> bool:
        """Whether it is an iterator that has no more; it looks at the next batch."""
        if not isinstance(self.data, Iterator):
            return False
        try:
            self.peek()
        except (DataEndedError, EmptyDataError):
            return True
        return False

    def rewind(self) -> None:
        """Move to the beginning; an iterator stays where it is, or begins its next pass."""
        if not isinstance(self.data, Iterator):
            super().rewind()
            return
        self.peek()
        if self._ahead[0] is END:
            self.draw()

    def seek(self, position: Position) -> None:
        """Move to `position`: at once in a list, otherwise by drawing the batches in between.

        Args:
            position: Finished passes and batches.

        Raises:
            PositionError: If the data has no such position, or is an iterator that is past it.
        """
        here = self.position
        goes_back = (position.passes, position.batches) < (here.passes, here.batches)
        if goes_back and isinstance(self.data, Iterator):
            raise self._position_error(position, "an iterator cannot move backward")
        super().seek(position)

    def look_ahead(self, most: int) -> bool:
        """Prefetch one more batch, except from a data loader with a state, which would advance.

        Args:
            most: The most batches that may wait to be drawn.

        Returns:
            Whether a batch was taken.
        """
        return not self._tells_its_state() and super().look_ahead(most)

    def advice(self, batch: Batch) -> str | None:
        """Return the line for arrays in a list, or for single examples, if it looks like that.

        Args:
            batch: The first item.
        """
        if all(hasattr(self.data, name) for name in ("column_names", "with_format")):
            return (
                "Each item of the data set is one batch. If it is a row, pass all rows as arrays, "
                '`dataset.with_format("numpy")[:]`, or batches of them, '
                "`dataset.to_tf_dataset(batch_size=32)`."
            )
        first = f"Each item of the data is one batch; the first is {describe(batch)}."
        if isinstance(self.data, list) and len(self.data) > 1 and has_rows(self.data):
            return f"{first} If the list holds the arrays of one data set, pass a tuple: `(x, y)`."
        if has_rows(batch) or not isinstance(batch, tuple | Mapping):
            return None
        if isinstance(batch, Mapping):
            line = "{name: np.stack([row[name] for row in data]) for name in data[0]}"
        else:
            line = "tuple(np.stack(column) for column in zip(*data))"
        return f"{first} If it is a single example, pass all of them as one data set: `{line}`."

    def state(self) -> dict[str, Any]:
        """Return the position, and the state of a data loader that has one."""
        state = super().state()
        if (
            self._tells_its_state()
            and self._cursor == self._position
            and self._position != Position()
        ):
            own = self.data.state_dict()
            if _is_plain(own):
                state["loader"] = own
        return state

    def _load(self, position: Position, state: Mapping[str, Any]) -> None:
        if isinstance(self.data, Iterator):
            raise NotResumableError(self.kind, _ONE_SHOT)
        if "loader" not in state:
            self.seek(position)
            return
        if not self._tells_its_state():
            raise DataStateError(self.kind, "it holds a data loader's state; this data has none")
        with loading(f"{type(self.data).__name__}.load_state_dict"):
            self.data.load_state_dict(state["loader"])
        self._jump(position)
        self._resumed = position

    def _resumption(self) -> tuple[Resumes, str]:
        if isinstance(self.data, list):
            return "exactly", "a list is read by index"
        if isinstance(self.data, Iterator):
            return "not exactly", _ONE_SHOT
        if self._tells_its_state():
            return "by replay", "the state of a data loader is saved only where it is plain values"
        return "by replay", "it has no position: batches are drawn again and dropped"

    def _tells_its_state(self) -> bool:
        names = ("state_dict", "load_state_dict", "batch_sampler")
        return all(hasattr(self.data, name) for name in names)

    def _facts(self) -> dict[str, Any]:
        return {"length": self.length}

    def _open(self, position: Position) -> None:
        resumed, self._resumed = self._resumed, None
        if position == resumed:
            self._iterator = self._start()
            return
        if position.batches > 0 and isinstance(self.data, Iterator):
            # It has raised, which finishes a generator and would look like the end.
            raise DataEndedError(self.kind, position.batches, "more")
        self._iterator = self._start()
        for _ in range(position.batches):
            if self._take_raw() is END:
                raise self._position_error(position, "its pass is shorter")

    def _take(self, position: Position) -> Batch:
        batch = self._take_raw()
        return batch if batch is END else self._convert(batch)

    def _take_raw(self) -> Batch:
        try:
            return next(self._iterator)
        except StopIteration:
            return END

    def _let_go(self) -> None:
        self._iterator = iter(())

    def _start(self) -> Iterator[Batch]:
        if isinstance(self.data, Iterable):
            return iter(self.data)
        made = self.data()
        if not isinstance(made, Iterable) or isinstance(made, (tuple, dict)) or is_array_like(made):
            raise DataTypeError(
                f"function that returns {type(made).__name__}",
                "yield batches in it, or pass its result instead of the function.",
            )
        return iter(made)


def _never_returns(generator: Any) -> bool:
    """Return whether its code has no way to end, as with `while True`.

    Python drops code that cannot be reached, so what returns or raises is there only if it can run.
    """
    kinds = {instruction.opname for instruction in dis.get_instructions(generator.gi_code)}
    return not kinds & {"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS"}


def _is_plain(state: Any) -> bool:
    try:
        return json.loads(json.dumps(state)) == state
    except (TypeError, ValueError):
        return False
