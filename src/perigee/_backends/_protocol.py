"""The whole contract between Perigee and a framework.

A backend differentiates, compiles and moves tensors. It iterates over no data that it was not
handed, opens no file but the traces that it is asked for, and logs nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from perigee._listening import Hear
from perigee._typing import Batch, Tensor, Tree

_F = TypeVar("_F", bound=Callable[..., Any])

Mode = Literal["eager", "graph", "xla"]
"""How a function runs: op by op, as a compiled graph, or as a graph compiled by XLA."""


MOST_STEPS_A_BLOCK = 256
"""Steps that one call runs at most."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a framework can do, so that nothing above the backends asks which one it is.

    Attributes:
        modes: Ways to run a function, the default first.
        plans: What is worth trying, the usual one first: a mode, and whether many steps go into
            one call. A step that `rehearse` says does badly in loops has the first one without
            them as its usual one.
        fuses: Whether many steps can go into one call.
        fuses_ragged: Modes in which a last batch with fewer rows can be among them, whatever the
            number of rows.
        fuses_ragged_end: Modes in which the one at the end of arrays can be, behind full ones,
            where they lie on one device.
        streams: Whether compiled code draws from an iterator of the framework itself.
        compiles_operations: Whether single operations are compiled each by itself, so that a
            function runs sooner compiled as a whole even if it runs once.
    """

    modes: tuple[Mode, ...]
    plans: tuple[tuple[Mode, bool], ...]
    fuses: bool
    fuses_ragged: tuple[Mode, ...]
    fuses_ragged_end: tuple[Mode, ...]
    streams: bool
    compiles_operations: bool


class Pending(Protocol):
    """What was begun on the device."""

    def done(self) -> bool:
        """Tell whether it is ready."""
        ...

    def result(self) -> Tree:
        """Wait for it and return it."""
        ...


class Compiled(Protocol):
    """A function made ready to run many times."""

    traces: int
    """How often the function's Python code has been run to compile it."""

    def __call__(self, *arguments: Tree) -> Tree:
        """Run it on trees of arrays or tensors, which the function gets as tensors."""
        ...

    def begin(self, *arguments: Tree) -> Pending:
        """Begin to run it, and return while the device works where the framework can do that.

        The arguments must not change before the result is there.
        """
        ...

    def obstacles(self, *arguments: Tree) -> Sequence[str]:
        """Compile it for these arguments, without running it, and return what ties it to this way.

        That is what shows outside, such as a print, and what XLA would leave out without a word,
        such as an assertion.
        """
        ...

    def draws(self) -> bool:
        """Tell whether the function draws random numbers that XLA would draw differently."""
        ...

    def hidden_state(self) -> Sequence[str]:
        """Return the kinds of operations that keep a state which cannot be saved, once it has run.

        Such as TensorFlow's own random operations, whose state lies in their kernels.
        """
        ...

    def operations(self, *arguments: Tree) -> float:
        """Count the floating-point operations of a call, of matrix products and convolutions.

        A multiplication and an addition are two. The function is compiled or run once more for
        it: the caller puts back what that writes.

        Returns:
            How many; NaN where it cannot be told, as in a loop that has no known end.
        """
        ...


class Watch(Protocol):
    """What a rehearsal saw of the framework's own variables."""

    made: list[tuple[Any, np.ndarray | None]]
    """Variables that were created, of Keras or of the framework, with their initial values;
    `None` where what is assigned in a rehearsal does not stay."""


class Peers(Protocol):
    """Several processes that run the same program, on the same data, in the same order.

    Attributes:
        processes: How many there are.
        process: Which of them this one is; 0 is the chief, which alone writes files.
    """

    processes: int
    process: int

    def gathered(self, values: Sequence[int]) -> np.ndarray:
        """Return what each process passes, shape `(processes, len(values))`, int64.

        It waits for all of them. Values are exact below 2**53.
        """
        ...

    def is_loss_of_process(self, error: Exception) -> bool:
        """Tell whether an error comes from another process that is not there any more."""
        ...


class Replicas(Peers, Protocol):
    """Several copies of every variable, each with a share of each batch.

    Between two steps all copies are equal, but for variables that hold sums (`Backend.is_sum`):
    of those the first replica holds the whole, and the others hold 0. So what is read, saved and
    restored depends neither on the number of replicas nor on when that happens.

    Attributes:
        name: Of what the framework calls it.
        count: How many there are.
        splits: Whether batches are split; false where there is one, which runs as without.
    """

    name: str
    count: int
    splits: bool

    def check(self) -> None:
        """Refuse what is known not to be exact, or was never tried.

        Raises:
            StrategyError: If it is such a one.
        """
        ...

    def holds(self, variable: Any) -> bool:
        """Tell whether a Keras variable has a copy on each of these replicas."""
        ...

    def scope(self) -> AbstractContextManager[None]:
        """Let code run once for all replicas, and make variables with a copy on each."""
        ...

    def run(
        self, function: Callable[[Batch, Tensor], Tree], batch: Batch, *, joins: bool = False
    ) -> Tree:
        """Run a function once on each replica, with its share of a batch.

        Shares are consecutive rows, and differ by one row at most. Where there are fewer rows than
        replicas, each of them runs the whole batch, all alike, and sums over the replicas are those
        of the first one. Loss objects of Keras do not divide by the number of replicas inside, and
        seed generators draw other numbers for each share.

        Args:
            function: From a share and the rows of the whole batch, shape `()` (`None` where
                batches are not split), to a tree of tensors.
            batch: Tensors with one common first axis, or nothing at all.
            joins: Whether to put the results together on axis 0; else they are those of one
                replica.
        """
        ...


class Backend(Protocol):
    """One framework."""

    name: str
    capabilities: Capabilities

    def tensors(self, batch: Batch) -> Batch:
        """Return `batch` with its arrays as tensors of this framework; other leaves stay."""
        ...

    def to_host(self, tree: Tree) -> Tree:
        """Return `tree` with its tensors as NumPy arrays. It waits for the device."""
        ...

    def is_tensor(self, value: Any) -> bool:
        """Tell whether `value` is a tensor (not a variable) of this framework."""
        ...

    def differentiate(
        self, function: Callable[[], tuple[Tensor, Tree]], variables: Sequence[Any]
    ) -> tuple[Tree, list[Tensor | None], list[Any]]:
        """Differentiate the scalar that `function` returns first with respect to variables.

        Args:
            function: Returns a scalar and anything else.
            variables: Keras variables.

        Returns:
            What `function` returned besides the scalar; one gradient for each variable, `None`
            where the scalar does not depend on it; and trainable variables of the framework that
            were read although they are no Keras variable.
        """
        ...

    def differentiate_inputs(
        self, function: Callable[..., Tensor], tensors: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """Differentiate the scalar `function(*tensors)` with respect to its arguments."""
        ...

    def update_if(
        self, condition: Tensor, update: Callable[[], None], variables: Sequence[Any]
    ) -> None:
        """Run `update` if the boolean scalar `condition` is true; else nothing changes at all.

        Args:
            condition: Boolean scalar tensor; nothing waits for its value.
            update: Assigns to Keras variables, to none besides `variables`.
            variables: All that `update` may write.
        """
        ...

    def switch(
        self, index: Tensor, branches: Sequence[Callable[[], Sequence[Tensor]]]
    ) -> list[Tensor]:
        """Run one of several functions, and none of the others.

        Args:
            index: Which one, an integer scalar tensor; nothing waits for its value, unless it is
                known without waiting.
            branches: Each returns tensors, all of them as many, of the same shapes and dtypes.
                They may assign to Keras variables.

        Returns:
            What the one that ran returned.
        """
        ...

    def all_finite(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return whether no value is NaN or infinite, a boolean scalar tensor."""
        ...

    def dense(self, gradient: Tensor) -> Tensor:
        """Return a gradient as an ordinary tensor, also where the framework has it sparse."""
        ...

    def plain(self, function: _F) -> _F:
        """Mark a function of Perigee's own that user code calls while it is compiled.

        A framework that rewrites the Python code of compiled functions leaves it alone.
        """
        ...

    def user_code(self, function: _F) -> _F:
        """Return user code ready to be called from a function marked as `plain`.

        A framework that rewrites the Python code of compiled functions rewrites this.
        """
        ...

    def inlined(self, value: Any) -> Any:
        """Return a function that is compiled by itself as the function that it was made of.

        Whatever else it is stays as it is. A step is compiled as a whole.
        """
        ...

    def rehearse(
        self, function: Callable[[], Any], variables: Sequence[Any], computes: bool = True
    ) -> bool:
        """Run `function` once, for what can be learned from it.

        Returns:
            Whether it may do well in a compiled loop: false where it holds an operation that is
            known to be much slower there.

        Args:
            function: Returns anything; reads and writes `variables`. What it writes may
                stay or not: the caller puts it back.
            variables: Every Keras variable that it may touch, but for those that it makes.
            computes: Whether values are wanted; without, nothing is observed where code can be
                traced alone.
        """
        ...

    def device_names(self) -> list[str]:
        """Return what the framework computes on, for people: `"NVIDIA H200"`, `"cpu"`."""
        ...

    def random_state(self) -> Any:
        """Return the state of the framework's global generator, `None` where it has none.

        What Keras draws from its own seed generators is state of variables and not meant here.
        """
        ...

    def set_random_state(self, state: Any) -> None:
        """Take back what `random_state` returned."""
        ...

    def rewind_random_state(self) -> None:
        """Set the framework's global generator to a fixed state."""
        ...

    def observe(self, tensors: Sequence[Tensor], look: Callable[..., None]) -> None:
        """Call `look` with the values of tensors as NumPy arrays, during a rehearsal.

        It is called at once, or when the rehearsal has run where values are known only then; not
        at all where tensors only stand for values, in code that the user compiles by itself.
        """
        ...

    def trace(self, directory: str) -> AbstractContextManager[None]:
        """Write what runs while the context is open, on the host and the devices, as a trace.

        Args:
            directory: Where TensorBoard's profiler, or Perfetto, finds it; made if it is missing.
        """
        ...

    def watch(self, hear: Hear, layers: Iterable[Any] = ()) -> AbstractContextManager[Watch]:
        """Record the variables that are created, for as long as the context is open.

        Args:
            hear: Listens to methods of Keras.
            layers: Those that may be built meanwhile. Where a step is traced, the values that
                they make variables of are computed at once.
        """
        ...

    def as_keras_variable(self, value: Any) -> Any | None:
        """Return a variable of the framework itself as one like Keras's: each time the same one.

        It stands for the variable among those of a Step. `None` of everything else.
        """
        ...

    def check_devices(self, variables: Sequence[Any]) -> None:
        """Refuse devices and processes that are asked for and would not train together.

        Raises:
            DistributionChangedError: If variables lie elsewhere than the distribution says.
            DistributionUnsupportedError: If the framework does not carry it out.
        """
        ...

    def peers(self) -> Peers | None:
        """Return the processes that run one program together; `None`: there is one of them.

        Those of replicas are told by `replicas`.
        """
        ...

    def spread(self, arrays: Batch, order: np.ndarray | None, batch_size: int) -> Batch | None:
        """Lay the arrays of a pass over several devices, as `sliced` takes them.

        Args:
            arrays: NumPy arrays, a tree with one common first axis.
            order: Of their rows, shape `(rows,)`; `None` where it is their own.
            batch_size: Rows a batch; what is left over is left out.

        Returns:
            The arrays, each device with its share of every batch; `None` where one device trains.
        """
        ...

    def rows_in_order(self, arrays: Batch, order: np.ndarray) -> Batch:
        """Return rows of arrays that are on the device.

        Args:
            arrays: A tree of tensors with one common first axis.
            order: Which rows, shape `(rows,)`, each of them there.
        """
        ...

    def sliced(
        self,
        function: Callable[[Batch], Tree],
        batch_size: int,
        mode: Mode,
        most: int,
        dtypes: Tree,
        goes_on: Callable[[Tree], Tensor] | None,
    ) -> Callable[[Batch, Tensor, Tensor], Tree]:
        """Return a function, to be compiled, that runs `function` on many batches in turn.

        Args:
            function: From a batch to a tree of tensors, each of one shape.
            batch_size: Rows a batch.
            mode: How the function is going to be compiled.
            most: How many batches at most.
            dtypes: A tree like that of the results, of the names of their dtypes.
            goes_on: From a result to a boolean scalar: whether another batch follows. `None`
                runs them all.

        Returns:
            A function of arrays (a tree with one common first axis), the first batch and the
            number of batches (scalars, int32), all of which are full, except for the last one of
            the arrays where `Capabilities.fuses_ragged_end` has the mode and the results stay
            of one shape. It returns the results along a new first axis of length `most`; those
            beyond the number of batches mean nothing.
        """
        ...

    def streamed(
        self,
        function: Callable[[Batch], Tensor],
        goes_on: Callable[[Tensor], Tensor] | None,
    ) -> Callable[[Any, Any, Tensor], tuple[Tensor, Tensor]]:
        """Return a function, to be compiled, that runs `function` on what an iterator gives.

        Only where `Capabilities.streams`.

        Args:
            function: From a batch to a float32 tensor of one shape.
            goes_on: As in `sliced`.

        Returns:
            A function of an iterator, a batch that was taken from it already (as an optional of
            the framework, which may be empty) and the number of batches. It returns the results
            along a new first axis, and how many there are: fewer where the iterator has ended, or
            where `goes_on` ended it.
        """
        ...

    def is_compiler_error(self, error: Exception) -> bool:
        """Tell whether an error comes from the framework's compiler, or from running its code.

        Errors of Python code that was being traced, of the user or of Perigee, are none.
        """
        ...

    def replicas(self) -> Replicas | None:
        """Return the replicas on which variables are made now; `None`: there is one of each."""
        ...

    def sum_over_replicas(
        self, tensors: Sequence[Tensor], rows: Tensor | None = None
    ) -> list[Tensor]:
        """Add up tensors over the replicas; what runs on all of them at once stays as it is.

        Args:
            tensors: Floating, of the same shapes on each.
            rows: Where it is 0, the tensors of this replica count as zeros, whatever they are.
        """
        ...

    def once(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return what an optimizer is to be given of gradients that are the same on each replica.

        So that they count once where the optimizer adds up itself.
        """
        ...

    def settle(
        self, values: Tensor, sums: Sequence[Any], others: Sequence[Any], share: Tensor
    ) -> Tensor:
        """Make the copies of variables equal at the end of a step, and add up its values.

        Args:
            values: To be added up over the replicas.
            sums: Variables that hold sums: the first replica gets the whole.
            others: Variables that become the mean over the replicas, weighed by their shares.
            share: What part of the batch this replica had, shape `()`.

        Returns:
            The sums of `values`.
        """
        ...

    def copies(self, variable: Any) -> Sequence[Any]:
        """Return the framework's own variables that hold the value of a Keras variable."""
        ...

    def is_sum(self, variable: Any) -> bool:
        """Tell whether the value of a Keras variable is the sum of its copies."""
        ...

    def read(self, variable: Any) -> np.ndarray:
        """Return the value of a Keras variable, perhaps not copied. It waits for the device."""
        ...

    def write(self, variable: Any, value: np.ndarray) -> None:
        """Give a Keras variable a value that `read` returned."""
        ...

    def compile(
        self,
        function: Callable[..., Tree],
        variables: Sequence[Any],
        mode: Mode,
        is_probe: bool = False,
        states: Sequence[Any] | None = (),
    ) -> Compiled:
        """Make `function` ready to run many times.

        Args:
            function: From trees of tensors to a tree of tensors; reads and writes `variables`.
            variables: Every Keras variable that it may touch.
            mode: How it runs.
            is_probe: Whether it runs a few times only, for what it returns: it is compiled soon
                rather than well, and what it writes may be lost.
            states: Of the variables, those that it carries from batch to batch unknown to Keras,
                such as the states of recurrent layers. They may have a row for each example, so
                the function gets batches whose sizes it knows; and they may be overwritten while
                gradients still need what they were. `None`: there may be some.
        """
        ...
