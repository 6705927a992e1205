"""Iterables and generator functions: batches as they come."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from perigee._errors import DataEndedError, DataTypeError
from perigee._protocols import Position
from perigee._typing import Batch
from perigee.data._passes import END, PassFeed
from perigee.data._spec import batch_converter, is_array_like


class IterableFeed(PassFeed):
    """What an iterable yields, taken to be batches.

    Structures are kept. Floating NumPy arrays are cast to Keras's `floatx`; tensors of the
    framework that runs stay as they are, those of another (of a torch `DataLoader`, say) become
    NumPy arrays. A position in a list is reached at once; elsewhere by drawing, which is exact for
    data that depends on seeds alone, and as costly as the batches passed over.

    Args:
        data: A list, an iterable object, an iterator, or a function without required arguments
            that returns one of them; it is called at the start of each pass. An iterator serves
            one pass, unless its `__iter__` rewinds it.

    Attributes:
        data: What was given.
    """

    def __init__(self, data: Iterable[Batch] | Callable[[], Iterable[Batch]]) -> None:
        is_function = not isinstance(data, Iterable)
        super().__init__("generator function" if is_function else type(data).__name__)
        self.data: Any = data
        self.seeks_directly = isinstance(data, list)
        self._convert = batch_converter()
        self._iterator: Iterator[Batch] = iter(())

    @property
    def length(self) -> int | None:
        """Batches a pass; `None` where the data has no length."""
        try:
            return len(self.data)
        except TypeError:  # also of a DataLoader whose data set has no length
            return None

    @property
    def is_infinite(self) -> bool:
        """Whether a pass is known never to end."""
        return isinstance(self.data, (itertools.count, itertools.cycle))

    def seek(self, position: Position) -> None:
        """Stand at `position`: at once in a list, elsewhere by drawing the batches in between.

        Raises:
            PositionError: If the data has no such position, or is an iterator that is past it.
        """
        here = self.position
        goes_back = (position.passes, position.batches) < (here.passes, here.batches)
        if goes_back and isinstance(self.data, Iterator):
            raise self._position_error(position, "an iterator does not go back")
        super().seek(position)

    def _open(self, position: Position) -> None:
        if position.batches > 0 and isinstance(self.data, Iterator):
            # It has raised. A generator is finished by that, which would look like the end.
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
                "yield batches in it, or pass what it returns instead of the function.",
            )
        return iter(made)
