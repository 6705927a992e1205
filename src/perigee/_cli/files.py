"""Runs a user's file until it would train, and finds what it would train on which data."""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.util
import inspect
import linecache
import os
import sys
import types
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from perigee._cli.frames import as_script, definition, is_of_perigee, is_step_in
from perigee._errors import did_you_mean

if TYPE_CHECKING:
    from perigee._cli.loops import Again, Called  # it imports Keras; the file chooses when


class FileError(Exception):
    """A file cannot be used as requested; the message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """The training that a file would start.

    Attributes:
        step: A Step, or a compiled `keras.Model`.
        data: The training data.
        batch_size: Rows per batch, or `None`.
        validation: The validation data, or `None`.
        line: The line of the file that would train it, or that defines the function that does; 1
            if the file only names it.
        name: Its name, if the Step is made of a function of the file.
        length: What `check` is told about how long it trains: `epochs`, `steps`,
            `steps_per_epoch`, where known.
    """

    step: Any
    data: Any
    batch_size: int | None = None
    validation: Any = None
    line: int = 1
    name: str | None = None
    length: Mapping[str, int] = field(default_factory=dict[str, int])


class _TakesBatchError(Exception):
    """A name is that of a function which needs arguments: a batch, it seems."""

    def __init__(self, function: str) -> None:
        super().__init__(function)
        self.function = function


class _Reached(BaseException):
    """Ends the user's file where it would train; its `except Exception` does not catch this."""


Use = Callable[[Target], None]


def split(file: str) -> tuple[Path, str | None]:
    """Split a file and the name after it; the path itself may contain a colon."""
    path, colon, name = file.rpartition(":")
    if colon and name.isidentifier() and not Path(file).exists():
        return Path(path), name
    return Path(file), None


def compiled(path: Path) -> types.CodeType:
    """Return the code of a Python file.

    Raises:
        FileError: If there is no such file, or it is not a Python file.
    """
    if not path.is_file():
        kind = "a directory, not a Python file" if path.is_dir() else "missing"
        raise FileError(f"{path} is {kind}.")
    try:
        return compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise FileError(f"{path}:{error.lineno}: {error.msg}.") from error
    except (OSError, ValueError) as error:
        raise FileError(f"{path} is not a Python file: {error}.") from error


def run_until_fit(path: Path, name: str | None, arguments: Sequence[str], use: Use) -> None:
    """Run a file, and call `use` with what it would train, instead of training it.

    The file runs as `python FILE` does, up to the first call of `pg.fit`, `pg.keras_fit`,
    `keras.Model.fit` or `train_on_batch`; `use` is called from within that call, so that the file's
    context managers are still open. A loop of the file's own ends where it would apply an optimizer
    for the first time; then `use` gets the function that the loop calls with each batch. The rest
    of the file does not run. What the file prints goes to standard error.

    With the name of a function that takes a batch, the file runs up to its first call. With any
    other name the file is imported, so that code guarded by `__name__` does not run. The name is
    that of one of these:

    - a function without arguments: it is called, and trains, or returns one of the following;
    - a pair of a Step or compiled model and its data, or anything with attributes `step` and
      `data`;
    - a Step or a model: its data is that of the first call that trains it.

    Other calls that would train while the file is imported are skipped.

    Args:
        path: The file.
        name: A name in the file, or `None`.
        arguments: The rest of `sys.argv` for the file, after its own name.
        use: The function to call.

    Raises:
        FileError: If there is no such file or name, or nothing would be trained.
    """
    code = compiled(path)
    # Where a script changes its directory, its source is still found.
    linecache.checkcache(str(path))
    source = "".join(linecache.getlines(str(path)))
    if name is None or is_step_in(ast.parse(source), name):
        _run(path, code, arguments, use, None, (name,) if name else ())
        return
    try:
        _run(path, code, arguments, use, name, ())
    except _TakesBatchError as error:
        _run(path, code, arguments, use, None, (name, error.function))


def _run(
    path: Path,
    code: types.CodeType,
    arguments: Sequence[str],
    use: Use,
    name: str | None,
    steps: Sequence[str],
) -> None:
    """Run a file up to where it trains.

    Args:
        path: The file.
        code: Its code.
        arguments: Its arguments.
        use: The function to call.
        name: What to look for in the file, once it is imported.
        steps: Names of functions that take a batch; if empty, the first training counts.
    """
    module = types.ModuleType("__main__" if name is None else path.stem)
    module.__file__ = str(path)
    fits = _Fits(
        path, use, lambda step: not steps and (name is None or vars(module).get(name) is step)
    )
    fits.skips_loops = name is not None
    fits.steps = steps
    with redirect_stdout(sys.stderr), as_program(path, module, arguments):
        with fits.intercepted():
            try:
                as_script(lambda: exec(code, vars(module)))
                if name is not None:
                    _use_named(path, vars(module), name, use, fits)
                    return
                found = [e for value in vars(module).values() if (e := _experiment(value, 1))]
                if found and not steps:
                    use(found[0])
                    return
            except _Reached:
                pass
            except SystemExit as error:
                if not fits.is_reached:  # else a bare `except` of the file answers it so
                    raise FileError(
                        f"{path} called `sys.exit({error.code!r})` before it trained anything."
                    ) from error
            except Exception:
                if not fits.is_reached:
                    raise
            finally:
                if fits.raised is not None:
                    raise fits.raised
            fits.call_again()
        if fits.called is not None:
            use(_target(path, fits.called))
            return
    if fits.is_reached:
        return
    if steps:
        raise FileError(
            f"{path} ended, and no call of `{steps[0]}` in it updated a model.\n"
            "Name the function that gets a batch and applies the optimizer."
        )
    raise FileError(
        f"{path} ended without a call of `pg.fit`, `pg.keras_fit`, `model.fit` or "
        "`model.train_on_batch`, and without an update by an optimizer.\nName what to check: "
        f"{path}:NAME, a function or object that provides a Step or compiled model with its data. "
        "For a loop that updates variables without an optimizer, put the code for a batch into "
        "`train_step` of a `pg.Step`, and let a function return the Step with its data."
    )


def _target(path: Path, called: Called) -> Target:
    """Return the Step that a function of the file's own loop makes, with the batch it was given."""
    from perigee.steps.function_step import FunctionStep

    code, line = called.code, called.line
    name = f"{code.co_name}({', '.join(called.batch)})"
    if code.co_filename == str(path):
        line = definition(code)
    else:
        name = f"{name} of {os.path.relpath(code.co_filename)}:{definition(code)}"
    return Target(FunctionStep(called.bound()), [called.data()], line=line, name=name)


def _use_named(path: Path, names: dict[str, Any], name: str, use: Use, fits: _Fits) -> None:
    if name not in names:
        raise FileError(f"{path} has no {name!r}.{similar(name, names)}")
    found: Any = names[name]
    function = getattr(found, "python_function", found)
    if inspect.isroutine(function) or isinstance(function, partial):
        from perigee._cli.loops import code_of

        code = code_of(function)
        if needed_by(function):
            raise _TakesBatchError(code.co_name)
        line = code.co_firstlineno
        fits.is_meant, fits.skips_loops = lambda step: True, False
        found = as_script(found)
    else:
        line = 1
    experiment = _experiment(found, line)
    if experiment is not None:
        use(experiment)
        return
    parts = ("step", "data", "batch_size", "validation")
    step, data, batch_size, validation = (getattr(found, part, None) for part in parts)
    if isinstance(found, tuple) and len(found) == 2:
        use(Target(found[0], found[1], line=line))
    elif step is not None and data is not None:
        use(Target(step, data, batch_size, validation, line))
    elif fits.is_trainable(found):
        raise FileError(
            f"{path}:{name} is a {type(found).__name__}, and the file does not train it, so its "
            "data is not known.\nName a function that returns it with its data, as a pair."
        )
    else:
        raise FileError(
            f"{path}:{name} provides a {type(found).__name__}, which is neither a Step nor a "
            "compiled model with its data, as a pair or as attributes `step` and `data`."
        )


def needed_by(function: Callable[..., Any]) -> list[str]:
    """Return the required arguments of a function."""
    parameters = inspect.signature(function).parameters.values()
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in optional]


def _experiment(found: Any, line: int) -> Target | None:
    """Return what an experiment would train; `None` for anything else."""
    from perigee._api.experiment import Experiment

    if not isinstance(found, Experiment):
        return None
    step, data = found.make_step(), found.make_data()
    return Target(step, data, found.fit.get("batch_size"), found.make_data("validation"), line)


def similar(name: str, names: dict[str, Any]) -> str:
    """Return known names similar to a missing one, as a question; empty if there are none."""
    return question(name, [each for each in names if not each.startswith("__")], most=3)


def question(given: object, known: Iterable[str], most: int = 1) -> str:
    """Return a "did you mean" question to append to a message; empty if nothing is similar."""
    asked = did_you_mean(given, known, most=most, form="{}")
    return f" {asked[0].upper()}{asked[1:]}" if asked else ""


@contextmanager
def as_program(path: Path, module: types.ModuleType, arguments: Sequence[str]) -> Generator[None]:
    """Set up the interpreter as for a file that is run."""
    argv, search, before = sys.argv, sys.path, sys.modules.get(module.__name__)
    sys.argv = [str(path), *arguments]
    sys.path = [str(path.resolve().parent), *sys.path]
    sys.modules[module.__name__] = module
    try:
        yield
    finally:
        sys.argv, sys.path = argv, search
        if before is not None:
            sys.modules[module.__name__] = before
        else:
            sys.modules.pop(module.__name__, None)


class _Fits:
    """Replaces the functions that train.

    Args:
        path: The file, to find the line of a call.
        use: Called instead of training.
        is_meant: Returns whether a Step or model is the requested one.

    Attributes:
        is_meant: The same.
        skips_loops: Whether updates by loops of the file's own are skipped.
        steps: The names of functions to stop in; if empty, the first training counts.
        is_reached: Whether the training was found.
        called: The call that the file's own loop makes for each batch.
        raised: What `use` raised, or why it was not called; the file may have caught it.
    """

    def __init__(self, path: Path, use: Use, is_meant: Callable[[Any], bool]) -> None:
        self._path, self._use, self.is_meant = path, use, is_meant
        self.skips_loops = False
        self.steps: Sequence[str] = ()
        self.is_reached = False
        self.called: Called | None = None
        self.raised: Exception | None = None
        self._again: Again | None = None

    @contextmanager
    def intercepted(self) -> Generator[None]:
        """Install the replacements, in Keras only once the file imports it and so chooses it."""
        import perigee as pg

        with ExitStack() as stack:
            for name, stands_in in (("fit", self._fit), ("keras_fit", self._keras_fit)):
                stack.callback(_undo(pg, name))
                setattr(pg, name, stands_in)

            def change_keras() -> None:
                import keras

                def replace(holder: Any, name: str, made: Callable[..., Any]) -> None:
                    stack.callback(_undo(holder, name))
                    setattr(holder, name, made(getattr(holder, name)))

                replace(keras.Model, "fit", self._of_model)
                replace(keras.Model, "train_on_batch", self._of_batch)
                first = keras.optimizers.Optimizer
                known = [c for c in vars(keras.optimizers).values() if inspect.isclass(c)]
                for optimizer in {first, *(c for c in known if issubclass(c, first))}:
                    for name, made in (
                        ("apply", self._of_optimizer),
                        ("stateless_apply", self._of_stateless),
                    ):
                        if optimizer is first or name in vars(optimizer):
                            replace(optimizer, name, made)
                if keras.backend.backend() == "torch":
                    torch_optimizers: Any = importlib.import_module("torch.optim.optimizer")
                    register = torch_optimizers.register_optimizer_step_pre_hook
                    stack.callback(register(self._before_torch).remove)

            if "keras" in sys.modules:
                change_keras()
            else:
                finder = _AfterImport("keras", change_keras)
                sys.meta_path.insert(0, finder)
                stack.callback(finder.leave)
            yield

    def is_trainable(self, found: Any) -> bool:
        """Return whether something is a Step or a model."""
        import keras

        from perigee._step.step import Step

        return isinstance(found, Step | keras.Model)

    def _fit(self, *args: Any, **kwargs: Any) -> Any:
        from perigee._api.fit import fit

        given = inspect.signature(fit).bind(*args, **kwargs).arguments
        step, line = given["step"], self._line()
        names = ("data", "batch_size", "validation")
        return self._reached(
            step,
            lambda: Target(step, *map(given.get, names), line=line, length=_length(given)),
        )

    def _keras_fit(self, *args: Any, **kwargs: Any) -> Any:
        from perigee._api.keras_fit import keras_fit

        return self._given(inspect.signature(keras_fit).bind(*args, **kwargs).arguments)

    def _of_model(self, original: Any) -> Callable[..., Any]:
        signature = inspect.signature(original)

        def fit(model: Any, *args: Any, **kwargs: Any) -> Any:
            given = dict(signature.bind(model, *args, **kwargs).arguments)
            return self._given({"model": model, **given})

        return fit

    def _of_batch(self, original: Any) -> Callable[..., Any]:
        signature = inspect.signature(original)

        def train_on_batch(model: Any, *args: Any, **kwargs: Any) -> Any:
            if is_of_perigee():
                return original(model, *args, **kwargs)
            given = signature.bind(model, *args, **kwargs).arguments
            line = self._line()
            if not self.is_meant(model):
                taken = {k: v for k, v in given.items() if k not in ("self", "class_weight")}
                return model.test_on_batch(**taken)  # it returns the same, and trains nothing
            return self._reached(model, lambda: _on_batch(model, given, line))

        return train_on_batch

    def _of_optimizer(self, original: Any) -> Callable[..., Any]:
        def apply(optimizer: Any, grads: Any, trainable_variables: Any = None) -> Any:
            if is_of_perigee():
                return original(optimizer, grads, trainable_variables)
            variables = [] if trainable_variables is None else [*trainable_variables]
            self._updated(variables)
            return None

        return apply

    def _of_stateless(self, original: Any) -> Callable[..., Any]:
        def stateless_apply(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            if self.skips_loops or self.steps or is_of_perigee():
                return original(optimizer, *args, **kwargs)
            self._fail(
                f"{self._path}:{self._line()} leads to `stateless_apply`: the loop passes the "
                "state of model and optimizer by hand, so it cannot be told which arguments are "
                "the batch and which results are the new state.\nWrite the step for one batch as "
                "`train_step` of a `pg.Step` with `minimize`, and let a function return the Step "
                f"with its data: `perigee check {self._path}:FUNCTION`."
            )

        return stateless_apply

    def _before_torch(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if is_of_perigee():
            return
        groups = optimizer.param_groups
        self._updated([parameter for group in groups for parameter in group["params"]])
        optimizer.zero_grad()  # what has no gradient is not updated

    def _updated(self, variables: list[Any]) -> None:
        """End the file where its own loop updates variables; return if that is to be skipped."""
        if self.is_reached:
            raise _Reached
        if self.skips_loops:
            return
        from perigee._cli.loops import Again, UnclearError, training_call

        try:
            is_named = (lambda code: code.co_name in self.steps) if self.steps else None
            found = training_call(self._path, variables, is_named)
        except UnclearError as error:
            self._fail(str(error))
        if found is None:
            return
        if isinstance(found, Again):
            self._again = found
        else:
            self.called = found
        self.is_reached = True
        for variable in variables:
            parameter = getattr(variable, "value", variable)
            if getattr(parameter, "grad", None) is not None:  # torch adds the next ones to it
                parameter.grad = None
        raise _Reached

    def _fail(self, message: str) -> NoReturn:
        self.is_reached, self.raised = True, FileError(message)
        raise _Reached

    def call_again(self) -> None:
        """Run what was only traced, to see its values.

        Raises:
            FileError: If that fails.
        """
        while self._again is not None:
            again, self._again, self.is_reached = self._again, None, False
            try:
                as_script(again.call)
            except _Reached:
                pass
            except Exception as error:
                raise FileError(
                    f"{self._path} trains in a `tf.function` that does not run as Python: {error}\n"
                    "Put what is done with a batch into a function of the batch, and check again."
                ) from error
            if self.raised is not None:
                raise self.raised

    def _given(self, given: dict[str, Any]) -> Any:
        from perigee._api.keras_fit import given_to_fit

        # The others are about the length of the training and its display.
        known = inspect.signature(given_to_fit).parameters
        taken, line = {k: v for k, v in given.items() if k in known}, self._line()
        return self._reached(
            given["model"],
            lambda: Target(*given_to_fit(**taken), line=line, length=_length(given)),
        )

    def _reached(self, step: Any, target: Callable[[], Target]) -> Any:
        if not self.is_meant(step):
            return self._nothing()
        if not self.is_reached:  # the file may catch all exceptions, and continue
            self.is_reached = True
            try:
                self._use(target())
            except Exception as error:
                self.raised = error
        raise _Reached

    def _nothing(self) -> Any:
        """Return the result of a skipped training."""
        import keras

        return keras.callbacks.History()

    def _line(self) -> int:
        """Return the line of the file from which this was called."""
        frame = inspect.currentframe()
        while frame is not None:
            if frame.f_code.co_filename == str(self._path):
                return frame.f_lineno
            frame = frame.f_back
        return 1


def _length(given: Mapping[str, Any]) -> dict[str, int]:
    """Return how long a training is; nothing if something else decides, or may follow it.

    A single epoch may be one of a loop that calls `fit` for each.
    """
    if given.get("initial_epoch") or given.get("run"):
        return {}
    names = ("epochs", "steps", "steps_per_epoch")
    found = {name: given[name] for name in names if isinstance(given.get(name), int)}
    return found if "steps" in found or found.get("epochs", 1) > 1 else {}


def _on_batch(model: Any, given: dict[str, Any], line: int) -> Target:
    import keras

    from perigee.steps.keras_step import KerasStep

    parts = [given.get(name) for name in ("x", "y", "sample_weight")]
    batch = keras.utils.pack_x_y_sample_weight(*parts)
    return Target(KerasStep(model, class_weight=given.get("class_weight")), [batch], line=line)


def _undo(holder: Any, name: str) -> Callable[[], None]:
    """Return a function that restores an attribute, or deletes it if it did not exist."""
    if name in vars(holder):
        before = vars(holder)[name]
        return lambda: setattr(holder, name, before)

    def take_away() -> None:
        if name in vars(holder):
            delattr(holder, name)

    return take_away


class _AfterImport(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Calls something once a module is imported."""

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self._name, self._then = name, then
        self._loader: Any = None
        self._is_looking = False

    def leave(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != self._name or self._is_looking:
            return None
        self._is_looking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._is_looking = False
        if spec is not None:
            self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        self.leave()  # not before: TensorFlow looks for Keras without importing it
        spec: Any = module.__spec__
        module.__loader__ = spec.loader = self._loader
        self._loader.exec_module(module)
        self._then()
