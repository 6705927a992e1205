"""Protocols between the rooms: what the loop needs from feeds, guards and callbacks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perigee._events.clock import Clock
from perigee._typing import Batch

if TYPE_CHECKING:  # it imports a framework, which processes that load data do without
    from perigee._events.callbacks import KerasCallbacks

Resumes: TypeAlias = Literal["exactly", "by replay", "not exactly"]
"""Whether data that is moved to a saved position continues like uninterrupted data.

`"by replay"`: by drawing and dropping the batches before it, exact if they depend on seeds alone.
"""


@dataclass(frozen=True, slots=True)
class Position:
    """The position of a feed.

    Attributes:
        passes: Finished passes over the data.
        batches: Batches drawn in the current pass.
    """

    passes: int = 0
    batches: int = 0


@dataclass(frozen=True, slots=True)
class Resident:
    """A pass over arrays in memory, for code that slices the batches itself.

    Attributes:
        arrays: A tree of arrays with one common first axis.
        order: Row indices in the order of the pass, shape `(rows,)`; `None` for their own order.
        rows: The number of rows.
        batch_size: Rows per batch; the last one may have fewer.
    """

    arrays: Batch
    order: NDArray[np.int64] | None
    rows: int
    batch_size: int

    @property
    def batches(self) -> int:
        """Batches of the pass, including a smaller last one."""
        return -(-self.rows // self.batch_size)

    @property
    def full_batches(self) -> int:
        """Batches with exactly `batch_size` rows."""
        return self.rows // self.batch_size


class Stacked(Protocol):
    """Consecutive batches with as many rows, which wait to be trained in one call.

    Attributes:
        rows: Rows per batch.
        number: How many other numbers of rows came before in the data; `None` for a mere example.
        first: The first of them that is left.
        steps: How many are left.
        room: For how many batches of as many rows every stack has room.
    """

    room: int
    rows: int
    number: int | None
    first: int
    steps: int

    def arrays(self, fills_room: bool) -> Batch:
        """Return all in one tree of tensors, joined on the first axis; zeros may fill the room."""
        ...

    def batch(self) -> Batch:
        """Return the first of them that is left."""
        ...


class Stacks(Protocol):
    """Gives the next batches of a feed in one piece; see `perigee.data.TFDatasetFeed`."""

    def stack(self, count: int) -> Stacked | None: ...

    def stack_ahead(self, count: int) -> None: ...

    def skip_stacked(self, count: int) -> None: ...

    def stack_of_next(self, count: int) -> Stacked: ...


class Source(Protocol):
    """What a run needs from the source of batches; `perigee.data.PassFeed` says more of each."""

    @property
    def kind(self) -> str: ...

    @property
    def resumes(self) -> Resumes: ...

    def peek(self) -> Batch: ...

    @property
    def host_random(self) -> Any: ...

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: Mapping[str, Any]) -> None: ...


class Begun(Protocol):
    """What a run needs from the validation data, for the order of the next one."""

    @property
    def begun(self) -> int: ...


class Feed(Source, Begun, Protocol):
    """Batches for the loop, one pass over the data after another; see `perigee.data.PassFeed`.

    A feed draws in order and knows its position. After the last batch of a pass `draw` returns
    `None` once, and the draw after that begins the next pass.
    """

    @property
    def length(self) -> int | None: ...

    @property
    def is_infinite(self) -> bool: ...

    @property
    def is_over(self) -> bool: ...

    @property
    def position(self) -> Position: ...

    def draw(self) -> Batch | None: ...

    def resident(self) -> Resident | None: ...

    def prepare_pass(self) -> None: ...

    def skip(self, count: int) -> None: ...

    @property
    def is_stream(self) -> bool: ...

    def stream(self) -> tuple[Any, Any] | None: ...

    def advance(self, count: int, is_over: bool) -> None: ...

    @property
    def stacks(self) -> Stacks | None: ...

    def ends(self) -> bool: ...

    def push_back(self, batch: Batch | None) -> None: ...

    def look_ahead(self, most: int) -> bool: ...

    def rewind(self) -> None: ...

    @property
    def resumes_because(self) -> str: ...

    def begin_after(self, begun: int) -> None: ...

    def facts(self) -> dict[str, Any]: ...

    def advice(self, batch: Batch) -> str | None: ...

    def close(self) -> None: ...


class Saving(Protocol):
    """Saves what a training needs to be resumed; see `perigee._runs.keeping.KeptRun`."""

    @property
    def origin(self) -> str | None: ...

    def begin(self) -> None: ...

    def is_due(self, clock: Clock) -> bool: ...

    def steps_until_due(self, clock: Clock) -> int | None: ...

    def save(
        self,
        clock: Clock,
        state: Callable[[], Mapping[str, Any]],
        finished: str | None,
        is_last: bool = False,
    ) -> None: ...

    def measuring(self, clock: Clock | None) -> None: ...


class Guards(Protocol):
    """Watches a training, using values that the host reads anyway; reports a finding once.

    See `perigee.diagnostics.Guards`.
    """

    def before(self, feed: Feed, clock: Clock) -> None: ...

    def rows(self, columns: Sequence[Any], rows: NDArray[Any], clock: Clock) -> Sequence[Any]: ...

    def epoch(
        self, program: Any, values: Mapping[str, float], spent: Mapping[str, float], clock: Clock
    ) -> Sequence[Any]: ...

    def origin(
        self, program: Any, name: str, value: float, step: int, within: range | None
    ) -> Any: ...

    def state(self) -> Mapping[str, Any]: ...

    def load_state(self, state: Mapping[str, Any]) -> None: ...


Callbacks: TypeAlias = "KerasCallbacks"
"""Keras's callbacks, as the loop calls them."""
