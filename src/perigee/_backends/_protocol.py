"""The whole contract between Perigee and a framework.

A backend differentiates, compiles and moves tensors. It iterates only over data that is passed to
it, opens no files except requested traces, and logs nothing.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
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
"""The most steps in one call."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The capabilities of a framework, so that nothing above the backends depends on its name.

    Attributes:
        modes: Execution modes of a function, the default first.
        plans: Plans worth trying, the usual one first: a mode, and whether many steps go into one
            call. A step that is slow in loops according to `rehearse` has the first plan without
            them as its usual one.
        fuses: Whether many steps can go into one call.
        fuses_ragged: Modes in which these may include a last batch with any smaller number of rows.
        fuses_ragged_end: Modes in which these may include the smaller last batch of arrays, after
            full ones, if the arrays are on one device.
        streams: Whether compiled code can read from an iterator of the framework.
        compiles_operations: Whether each operation is compiled separately, so that even a function
            that runs once is faster if compiled as a whole.
        passes_state: Whether hand-written steps are usually functions that take the state of a
            training and return the next one.
        shares_memory: Whether, on a CPU, the host reads tensors without a copy.
        keeps_values: Whether a function that the user compiles keeps the values of the variables
            that it reads without getting them as arguments.
        has_zero_gradients: Whether user code gets zeros, and not `None`, as gradients of what a
            loss does not depend on.
    """

    modes: tuple[Mode, ...]
    plans: tuple[tuple[Mode, bool], ...]
    fuses: bool
    fuses_ragged: tuple[Mode, ...]
    fuses_ragged_end: tuple[Mode, ...]
    streams: bool
    compiles_operations: bool
    passes_state: bool
    shares_memory: bool
    keeps_values: bool = False
    has_zero_gradients: bool = False


@dataclass(frozen=True, slots=True)
class Differentiated:
    """What user code asked a gradient tape for, or torch.

    Attributes:
        target: What was differentiated.
        sources: What for, flat.
        gradients: A gradient for each of them, or `None`.
        read: The framework's own trainable variables that the tape recorded.
        is_kept: Whether the gradients are added to those that the variables themselves hold.
    """

    target: Any
    sources: Sequence[Any]
    gradients: Sequence[Any]
    read: Sequence[Any]
    is_kept: bool = False


class Pending(Protocol):
    """Work that was begun on the device."""

    def done(self) -> bool:
        """Return whether it is ready."""
        ...

    def result(self) -> Tree:
        """Wait for it and return it."""
        ...


class Compiled(Protocol):
    """A function prepared to run many times."""

    traces: int
    """How often the function's Python code has been run to compile it."""

    def __call__(self, *arguments: Tree) -> Tree:
        """Run it on trees of arrays or tensors, which the function receives as tensors."""
        ...

    def begin(self, *arguments: Tree) -> Pending:
        """Begin to run it; return while the device works, if the framework can do that.

        The arguments must not change before the result is ready.
        """
        ...

    def obstacles(self, *arguments: Tree) -> Sequence[str]:
        """Compile it for these arguments without running it; return what rules out other modes.

        That is what has an external effect, such as a print, and what XLA would silently drop, such
        as an assertion.
        """
        ...

    def draws(self) -> bool:
        """Return whether the function draws random numbers that XLA would draw differently."""
        ...

    def hidden_state(self) -> Sequence[str]:
        """Return the kinds of operations run so far whose state cannot be saved.

        An example are TensorFlow's own random operations, whose state is in their kernels.
        """
        ...

    def program(self, *arguments: Tree) -> Any:
        """Trace it again, without compiling it; return what is equal for equal programs only.

        `None` if it is not compiled.
        """
        ...

    def operations(self, *arguments: Tree) -> float:
        """Count the floating-point operations of a call, of matrix products and convolutions.

        A multiplication and an addition are two. The function is compiled or run again for it: the
        caller restores what that writes.

        Returns:
            The number; NaN if unknown, as in a loop without a known length.
        """
        ...


class StateObject(Protocol):
    """State outside variables: `Backend.read` and `Backend.write` take it like a Keras variable.

    Attributes:
        owner: The object whose state it is.
        is_optional: Whether a checkpoint may lack it, as nothing had changed.
    """

    owner: Any
    is_optional: bool

    def saved(self, path: str, keys: Mapping[int, str], only_tensors: bool = False) -> Any:
        """Return the state as plain values and arrays, `None` if there is nothing to save.

        Args:
            path: The attribute path of the object, for errors.
            keys: By the `id` of a variable's tensor, what it is called in every process.
            only_tensors: Whether the user saves the Python values in attributes.

        Raises:
            CheckpointContentError: If it holds objects that no checkpoint can hold.
        """
        ...

    def of_tensors(self) -> Any:
        """Return it without the numbers and containers of Python in attributes, to be restored."""
        ...

    def load(self, said: Any, keys: Mapping[int, str]) -> None:
        """Restore what `saved` returned, here or in another process.

        Args:
            said: What was saved.
            keys: As for `saved`.

        Raises:
            ValueError: If it is no such state.
        """
        ...


class Watch(Protocol):
    """Variables of the framework that a rehearsal saw."""

    made: list[tuple[Any, np.ndarray | None]]
    """Created variables, of Keras or of the framework, with their initial values; `None` if a
    rehearsal's assignments do not persist."""

    loose: Callable[[Collection[int]], list[str]]
    """Returns the names of what else was changed, given the `id`s of what a Step holds: the objects
    with a state of their own, and the framework's variables."""


class Peers(Protocol):
    """Several processes that run the same program, on the same data, in the same order.

    Attributes:
        processes: The number of processes.
        process: The index of this process; 0 is the chief process, which alone writes files.
    """

    processes: int
    process: int

    def gathered(self, values: Sequence[int]) -> np.ndarray:
        """Return the values of each process, shape `(processes, len(values))`, int64.

        It waits for all processes. Values are exact below 2**53.
        """
        ...

    def is_loss_of_process(self, error: Exception) -> bool:
        """Return whether an error is due to another process that has ended."""
        ...


class Replicas(Peers, Protocol):
    """Several copies of every variable, each with a share of each batch.

    Between two steps all copies are equal, except for variables that hold sums (`Backend.is_sum`):
    of those, the first replica holds the whole sum, and the others hold 0. So reading, saving and
    restoring depend neither on the number of replicas nor on the time.

    Attributes:
        name: The framework's name for it.
        count: The number of replicas.
        splits: Whether batches are split; false for a single replica.
    """

    name: str
    count: int
    splits: bool

    def check(self) -> None:
        """Raise if training is known to be inexact, or was never tested.

        Raises:
            StrategyError: If it is.
        """
        ...

    def is_current(self) -> bool:
        """Return whether the running code is in their scope."""
        ...

    def holds(self, variable: Any) -> bool:
        """Return whether a Keras variable has a copy on each of these replicas."""
        ...

    def scope(self) -> AbstractContextManager[None]:
        """Run code once for all replicas, creating variables with a copy on each."""
        ...

    def run(
        self, function: Callable[[Batch, Tensor], Tree], batch: Batch, *, joins: bool = False
    ) -> Tree:
        """Run a function once on each replica, with its share of a batch.

        Shares are consecutive rows, whose numbers differ by at most one. If there are fewer rows
        than replicas, each replica runs the whole batch identically, and sums over the replicas are
        those of the first one. Inside, Keras's loss objects do not divide by the number of
        replicas, and seed generators draw different numbers for each share.

        Args:
            function: Takes a share and the rows of the whole batch, shape `()` (`None` if batches
                are not split), and returns a tree of tensors.
            batch: Tensors with one common first axis, or nothing.
            joins: Whether to concatenate the results on axis 0; otherwise they are those of one
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
        """Return whether `value` is a tensor (not a variable) of this framework."""
        ...

    def differentiate(
        self, function: Callable[[], tuple[Tensor, Tree]], variables: Sequence[Any]
    ) -> tuple[Tree, list[Tensor | None], list[Any]]:
        """Differentiate the scalar that `function` returns first with respect to variables.

        Args:
            function: Returns a scalar and anything else.
            variables: Keras variables.

        Returns:
            What `function` returned besides the scalar; one gradient for each variable, `None` if
            the scalar does not depend on it; and trainable variables of the framework that were
            read although they are not Keras variables.
        """
        ...

    def differentiate_inputs(
        self, function: Callable[..., Tensor], tensors: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """Differentiate the scalar `function(*tensors)` with respect to its arguments."""
        ...

    def recorded(self, function: Callable[..., Tree], *arguments: Any) -> Tree:
        """Call user code that takes gradients itself, and return its result without a graph.

        Only torch must record for it; tapes and transformations record on their own.
        """
        ...

    def unfrozen(self, variables: Sequence[Any]) -> list[Any]:
        """Return the Keras variables that the framework itself does not freeze."""
        ...

    def modules(self, held: Iterable[Any]) -> list[Any]:
        """Return the framework's own modules that act differently in training.

        Args:
            held: Keras layers and anything else; those inside layers are found, too.
        """
        ...

    def in_inference(self, hear: Hear, modules: Sequence[Any]) -> AbstractContextManager[None]:
        """Put modules into inference mode; when the context closes, each is as it was.

        Args:
            hear: Listens to methods of Keras.
            modules: What `modules` returned.
        """
        ...

    def steps(
        self, look: Callable[[Any, Sequence[tuple[Any, Any]]], None]
    ) -> AbstractContextManager[None]:
        """Observe the framework's own optimizers, for as long as the context is open.

        Args:
            look: Called with an optimizer before it makes an update, and with the framework's
                variables that it has, each with its gradient or `None`.
        """
        ...

    def update_if(
        self, condition: Tensor, update: Callable[[], None], variables: Sequence[Any]
    ) -> None:
        """Run `update` if the boolean scalar `condition` is true; otherwise nothing changes.

        Args:
            condition: Boolean scalar tensor; nothing waits for its value.
            update: Assigns only to Keras variables in `variables`.
            variables: All variables that `update` may write.
        """
        ...

    def switch(
        self, index: Tensor, branches: Sequence[Callable[[], Sequence[Tensor]]]
    ) -> list[Tensor]:
        """Run one of several functions, and none of the others.

        Args:
            index: The index of the function, an integer scalar tensor; nothing waits for its value.
            branches: Functions that return the same number of tensors, of the same shapes and
                dtypes. They may assign to Keras variables.

        Returns:
            The result of the function that ran.
        """
        ...

    def all_finite(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return whether no value is NaN or infinite, a boolean scalar tensor."""
        ...

    def dense(self, gradient: Tensor) -> Tensor:
        """Return a gradient as a dense tensor, even if the framework has it sparse."""
        ...

    def compiler(self) -> str | None:
        """Return what compiles the code that is calling, such as `"tf.function"`, if anything."""
        ...

    def plain(self, function: _F) -> _F:
        """Mark a function of Perigee that user code calls while it is compiled.

        A framework that rewrites the Python code of compiled functions does not rewrite it.
        """
        ...

    def user_code(self, function: _F) -> _F:
        """Return user code that can be called from a function marked as `plain`.

        A framework that rewrites the Python code of compiled functions rewrites this.
        """
        ...

    def inlined(self, value: Any) -> Any:
        """Return the plain function of a compiled function.

        Any other value is returned unchanged. A step is compiled as a whole.
        """
        ...

    def is_compiled_apart(self, value: Any) -> bool:
        """Return whether the user compiled a function, which keeps the values of variables."""
        ...

    def retrace(self, function: Any) -> None:
        """Let a function that `is_compiled_apart` be retraced at its next call."""
        ...

    def is_leak(self, error: Exception) -> bool:
        """Return whether an error is due to a value that left the trace to which it belongs."""
        ...

    def naming_layers(self, hear: Hear) -> AbstractContextManager[None]:
        """Note on the errors of the framework's own debugging in which layer they arose.

        Args:
            hear: Listens to methods of Keras.
        """
        ...

    def is_for_xla(self, value: Any) -> bool:
        """Return whether the user had a function compiled by XLA."""
        ...

    def rehearse(
        self,
        function: Callable[[], Any],
        variables: Sequence[Any],
        computes: bool = True,
        overwrites: bool = True,
    ) -> bool:
        """Run `function` once, to observe it.

        Returns:
            Whether it may be fast in a compiled loop: false if it contains an operation that is
            known to be much slower there.

        Args:
            function: Returns anything; reads and writes `variables`. Its writes may persist or not:
                the caller restores them.
            variables: Every Keras variable that it may use, except those that it creates.
            computes: Whether to compute values; if false, a framework that can trace observes
                nothing.
            overwrites: Whether it may assign what gradients need, as recurrent layers do.
        """
        ...

    def eagerly(self) -> AbstractContextManager[None]:
        """Rehearse, and run probes, op by op with all values at hand, while the context is open.

        For steps that are to run eagerly, on a framework that would trace them.
        """
        ...

    def needs_values(self, error: Exception) -> bool:
        """Return whether an error says that code needs values, which it has not while traced."""
        ...

    def gradients_restored(self, variables: Sequence[Any]) -> AbstractContextManager[None]:
        """Restore the gradients that variables themselves hold, when the context closes."""
        ...

    def waiting_gradients(self, variables: Sequence[Any]) -> list[Any]:
        """Return the gradients that variables themselves hold, as plain values and arrays.

        A later step may add to them, or apply them. `None` for a variable that holds none.
        """
        ...

    def set_waiting_gradients(self, variables: Sequence[Any], gradients: Sequence[Any]) -> None:
        """Let variables hold the gradients that `waiting_gradients` returned.

        Raises:
            ValueError: If they are no gradients of these variables.
        """
        ...

    def device_names(self) -> list[str]:
        """Return readable names of the framework's devices: `"NVIDIA H200"`, `"cpu"`."""
        ...

    def random_state(self) -> Any:
        """Return the state of the framework's global generator, `None` if it has none.

        Keras's own seed generators are not included: their state is in variables.
        """
        ...

    def set_random_state(self, state: Any) -> None:
        """Restore what `random_state` returned."""
        ...

    def rewind_random_state(self, seed: int = 0) -> None:
        """Set the framework's global generator to a fixed state, another one for each seed."""
        ...

    def observe(self, tensors: Sequence[Tensor], look: Callable[..., None]) -> None:
        """Call `look` with the values of tensors as NumPy arrays, during a rehearsal.

        It is called at once, or after the rehearsal if values are known only then; not at all for
        symbolic tensors in code that the user compiles separately.
        """
        ...

    def trace(self, directory: str) -> AbstractContextManager[None]:
        """Write a trace of what runs on the host and the devices while the context is open.

        Args:
            directory: The directory for TensorBoard's profiler, or Perfetto; created if missing.
        """
        ...

    def watch(self, hear: Hear, layers: Iterable[Any] = ()) -> AbstractContextManager[Watch]:
        """Record the variables that are created, for as long as the context is open.

        Args:
            hear: Listens to methods of Keras.
            layers: Layers that may be built meanwhile. If a step is traced, the initial values of
                their variables are computed at once.
        """
        ...

    def tapes(
        self, hear: Hear, look: Callable[[Differentiated], None]
    ) -> AbstractContextManager[None]:
        """Observe the gradient tapes of user code, for as long as the context is open.

        Args:
            hear: Listens to methods.
            look: Called each time that a tape has returned gradients.
        """
        ...

    def drawing(
        self, hear: Hear, look: Callable[[str, Sequence[Any]], None]
    ) -> AbstractContextManager[None]:
        """Observe draws that depend on no variable, for as long as the context is open.

        Args:
            hear: Listens to methods.
            look: Called with what is drawn, such as `"normal"`, and the arrays on which the key
                depends; none if it is made of a number.
        """
        ...

    def as_keras_variable(self, value: Any) -> Any | None:
        """Return a framework variable wrapped like a Keras variable: the same wrapper each time.

        It represents the variable among those of a Step, and has its `kind` there. `None` for
        everything else.
        """
        ...

    def tensors_in(self, value: Any) -> Mapping[str, Tensor]:
        """Return the tensors in an object of a class that the framework takes apart, by path."""
        ...

    def holds_keys(self, value: Any) -> bool:
        """Return whether a tensor holds keys of random numbers, in a type of their own."""
        ...

    def tensors_to_store(
        self, variables: Sequence[Any]
    ) -> Callable[[Any], tuple[np.ndarray, str] | None]:
        """Return a function that returns the values of a tensor, copied, and its device.

        It returns `None` for everything else, for what has no such values, and for a tensor that
        lies in the memory of one of the variables, and changes with it.
        """
        ...

    def stored_tensor(self, array: np.ndarray, device: str) -> Tensor:
        """Return a tensor like one that was stored, on its device where that is here.

        Raises:
            ValueError: If the framework has no such tensors.
        """
        ...

    def is_container(self, kind: type) -> bool:
        """Return whether objects of a class of the framework hold variables as attributes."""
        ...

    def content(self, value: Any) -> Mapping[str, Any]:
        """Return what an object of such a class holds, by name."""
        ...

    def state_object(self, value: Any) -> StateObject | None:
        """Return the state of an object that says itself what it is, such as an optimizer of torch.

        The same each time; `None` for everything else.
        """
        ...

    def attributes(
        self, owner: Any, names: Callable[[Any], MutableMapping[str, Any]]
    ) -> StateObject:
        """Return the attributes of an object that steps may change: the same each time.

        Args:
            owner: The object.
            names: Returns, given the object, the mapping in which its attributes are stored.
        """
        ...

    def is_found(self, value: Any) -> bool:
        """Return whether an object of the framework is state that a Step itself holds."""
        ...

    def as_plain(self, value: Any) -> Any:
        """Return a tensor, or another value of the framework, as plain values and arrays.

        `None` for everything else, and for tensors whose values are not known.
        """
        ...

    def from_plain(self, plain: Mapping[str, Any], like: Any) -> Any:
        """Return what `as_plain` was given; `like` is what is in its place now."""
        ...

    def mark(self, tensor: Tensor) -> Any:
        """Return what tells whether a tensor has changed, without copying it."""
        ...

    def put(self, known: Any, value: Tensor) -> Tensor:
        """Return a tensor that was in some place with another value, or that value as it is."""
        ...

    def objects_in(self, value: Any) -> Mapping[str, Any]:
        """Return what else an object with a `state_object` changes, by name."""
        ...

    def settings(self, value: Any) -> Mapping[str, Any] | None:
        """Return what a program has set in an object of the framework, before training changes it.

        Args:
            value: An optimizer, a scheduler, a gradient scaler or a module of the framework itself.

        Returns:
            Values by name, such as `param_groups[0].lr`; `None` for everything else.
        """
        ...

    def set_settings(self, value: Any, given: Mapping[str, Any]) -> None:
        """Set some of the `settings` of an object whose state is that of a checkpoint.

        Args:
            value: The object.
            given: Values by name.
        """
        ...

    def copied(self, batch: Batch) -> Batch:
        """Return a batch whose tensors a step may change in place, while `batch` stays as it is."""
        ...

    def writers(self) -> Sequence[tuple[Any, str]]:
        """Return the classes and methods that change the framework's variables past Keras's."""
        ...

    def check_devices(self, variables: Sequence[Any]) -> None:
        """Raise if requested devices and processes would not train together.

        Raises:
            DistributionChangedError: If variables are not on the devices of the distribution.
            DistributionUnsupportedError: If the framework does not implement it.
        """
        ...

    def peers(self) -> Peers | None:
        """Return the processes that run one program together; `None` for a single process.

        Processes of replicas are returned by `replicas`.
        """
        ...

    def spread(self, arrays: Batch, order: np.ndarray | None, batch_size: int) -> Batch | None:
        """Distribute the arrays of a pass over several devices, as `sliced` takes them.

        Args:
            arrays: NumPy arrays, a tree with one common first axis.
            order: Row indices, shape `(rows,)`; `None` for their own order.
            batch_size: Rows per batch; remaining rows are dropped.

        Returns:
            The arrays, each device with its share of every batch; `None` if one device trains.
        """
        ...

    def rows_in_order(self, arrays: Batch, order: np.ndarray) -> Batch:
        """Return rows of arrays that are on the device.

        Args:
            arrays: A tree of tensors with one common first axis.
            order: Indices of the rows, shape `(rows,)`, all in range.
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
        end: Callable[[], Tree],
    ) -> Callable[[Batch, Tensor, Tensor], tuple[Tree, Tree]]:
        """Return a function, to be compiled, that runs `function` on many batches in turn.

        Args:
            function: Takes a batch and returns a tree of tensors, each of one shape.
            batch_size: Rows per batch.
            mode: The mode in which the function will be compiled.
            most: The most batches.
            dtypes: A tree like that of the results, with the names of their dtypes.
            goes_on: Takes a result and returns a boolean scalar: whether another batch follows.
                `None` runs them all.
            end: Called once, after the last batch.

        Returns:
            A function of arrays (a tree with one common first axis), the first batch and the
            number of batches (scalars, int32). All batches are full, except the last one of the
            arrays if `Capabilities.fuses_ragged_end` has the mode and the results keep one shape.
            It returns the results along a new first axis of length `most`, of which those beyond
            the number of batches are undefined, and the result of `end`.
        """
        ...

    def streamed(
        self,
        function: Callable[[Batch], Tensor],
        goes_on: Callable[[Tensor], Tensor] | None,
        end: Callable[[], Tree],
    ) -> Callable[[Any, Any, Tensor], tuple[Tensor, Tensor, Tree]]:
        """Return a function, to be compiled, that runs `function` on the batches of an iterator.

        Only if `Capabilities.streams`.

        Args:
            function: Takes a batch and returns a float32 tensor of one shape.
            goes_on: As in `sliced`.
            end: As in `sliced`.

        Returns:
            A function of an iterator, a batch that was already taken from it (as an optional of the
            framework, which may be empty) and the number of batches. It returns the results along a
            new first axis, their number (fewer if the iterator ended, or if `goes_on` ended the
            loop), and the result of `end`.
        """
        ...

    def is_compiler_error(self, error: Exception) -> bool:
        """Return whether an error comes from the framework's compiler, or from running its code.

        Errors of Python code that was being traced, of the user or of Perigee, do not count.
        """
        ...

    def replicas(self) -> Replicas | None:
        """Return the replicas on which variables are now created; `None` if there is one copy."""
        ...

    def as_one_device(self, variables: Sequence[Any] = ()) -> AbstractContextManager[None]:
        """Run code that a strategy of one device surrounds as it runs without a strategy.

        On several replicas, and if there is no strategy, nothing changes.

        Args:
            variables: Keras variables; they may be in such a strategy, too.
        """
        ...

    def sum_over_replicas(
        self, tensors: Sequence[Tensor], rows: Tensor | None = None
    ) -> list[Tensor]:
        """Sum tensors over the replicas; in code that runs once for all, return them unchanged.

        Args:
            tensors: Floating, of the same shapes on each.
            rows: If it is 0, the tensors of this replica count as zeros.
        """
        ...

    def once(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return gradients for an optimizer, given gradients that are equal on each replica.

        They then count once if the optimizer itself sums over replicas.
        """
        ...

    def settle(
        self, values: Tensor, sums: Sequence[Any], others: Sequence[Any], share: Tensor
    ) -> Tensor:
        """Make the copies of variables equal at the end of a step, and sum its values.

        Args:
            values: Values to be summed over the replicas.
            sums: Variables that hold sums: the first replica gets the whole sum.
            others: Variables that become the mean over the replicas, weighted by their shares.
            share: The share of the batch of this replica, shape `()`.

        Returns:
            The sums of `values`.
        """
        ...

    def copies(self, variable: Any) -> Sequence[Any]:
        """Return the framework's own variables that hold the value of a Keras variable."""
        ...

    def is_sum(self, variable: Any) -> bool:
        """Return whether the value of a Keras variable is the sum of its copies."""
        ...

    def read(self, variable: Any) -> np.ndarray:
        """Return the value of a Keras variable, possibly shared. It waits for the device."""
        ...

    def hold(self, variable: Any) -> Tensor | None:
        """Return the value of a Keras variable, which stays as it is when that is assigned.

        It takes no memory until then. Compiled code that reuses the memory of variables must not
        run meanwhile. `None` if the framework cannot do so, or not with this variable.
        """
        ...

    def write(self, variable: Any, value: np.ndarray | Tensor) -> None:
        """Assign a value that `read` or `hold` returned to a Keras variable."""
        ...

    def compile(
        self,
        function: Callable[..., Tree],
        variables: Sequence[Any],
        mode: Mode,
        is_probe: bool = False,
        states: Sequence[Any] | None = (),
    ) -> Compiled:
        """Prepare `function` to run many times.

        Args:
            function: Takes trees of tensors and returns one; reads and writes `variables`.
            variables: Every Keras variable that it may use.
            mode: The execution mode.
            is_probe: Whether it runs only a few times, for its result: it is compiled quickly
                rather than well, and its writes may be lost.
            states: The variables that it carries from batch to batch but Keras does not list, such
                as the states of recurrent layers. They may have a row for each example, so the
                function gets batches of known size; and they may be overwritten while gradients
                still need their old values. `None` if there may be some.
        """
        ...
