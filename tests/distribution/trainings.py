"""What processes do together, and what one does alone to be compared with them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

import perigee as pg
from perigee._step.state import snapshot, track
from tests.backends.problems import PROBLEMS
from tests.backends.problems._problem import clusters, fix_weights, points
from tests.backends.run_problem import train
from tests.backends.trajectories import Results
from tests.distribution.problems import COMPILED, SOLVED, first_epoch, ragged

IS_TENSORFLOW = keras.backend.backend() == "tensorflow"

ROWS, BATCH, INPUTS = 44, 16, 4
EPOCHS = 4
"""Three batches an epoch; the last one has 12 rows, which are halved too."""
RAGGED_ROWS = 39
"""With these, the last batch has 7 rows, which are not."""
SAVE_EVERY = 4
FIRST_SCALE = 2.0**15

ONE_STEP = pg.Execution(steps_per_call=1)
QUICKLY = pg.Execution("eager") if IS_TENSORFLOW else ONE_STEP
"""Op by op where compiling takes seconds."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a training runs.

    Attributes:
        folder: For files, the same for all processes.
        process: Which process this is.
        processes: How many there are.
        strategy: Of TensorFlow, in whose scope Steps are made.
    """

    folder: Path
    process: int = 0
    processes: int = 1
    strategy: Any = None

    def file(self, name: str, kind: str = "json") -> str:
        """Return the name of the file of this process for what it came to."""
        return f"{name}-{self.process}-of-{self.processes}.{kind}"

    def make(self, make_step: Callable[[], Any]) -> Any:
        """Build a Step, with the weights and the names of a new process."""
        distribution = keras.distribution.distribution()
        keras.utils.clear_session()  # which forgets the distribution
        keras.distribution.set_distribution(distribution)
        keras.utils.set_random_seed(7)
        with contextlib.nullcontext() if self.strategy is None else self.strategy.scope():
            return make_step()


class Classifier(pg.Step):
    """Statistics, random draws, a metric and clipping: what is easily done for each process."""

    def __init__(self):
        layers = [
            keras.layers.Dense(8, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.25, seed=3),
            keras.layers.Dense(3),
        ]
        self.model = keras.Sequential([keras.Input((INPUTS,)), *layers], name="classes")
        self.optimizer = keras.optimizers.Adam(0.01, clipnorm=0.5, use_ema=True)
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def train_step(self, batch):
        x, y = batch

        def objective():
            logits = self.model(x, training=True)
            return self.loss(y, logits), logits

        loss, logits = self.minimize(objective, self.optimizer, self.model)
        self.accuracy.update_state(y, logits)
        return {"loss": loss}

    def test_step(self, batch):
        x, y = batch
        logits = self.model(x, training=False)
        self.accuracy.update_state(y, logits)
        return {"loss": self.loss(y, logits)}

    def predict_step(self, batch):
        return self.model(batch[0], training=False)


class Half(pg.Step):
    """A line in half precision, whose loss is scaled."""

    def __init__(self):
        layers = [keras.Input((3,)), keras.layers.Dense(1, dtype="mixed_float16")]
        self.model = keras.Sequential(layers, name="half")
        fix_weights(self.model)
        self.optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        self.optimizer.build(self.model.trainable_variables)

    def train_step(self, batch):
        x, y = batch

        def objective():
            y_pred = ops.cast(self.model(x, training=True), "float32")
            return ops.mean(ops.square(y - y_pred))

        return {"loss": self.minimize(objective, self.optimizer)}


class Masks(pg.Step):
    """What Dropout leaves of its inputs."""

    def __init__(self):
        self.dropout = keras.layers.Dropout(0.5, seed=3)

    def predict_step(self, batch):
        return self.dropout(batch, training=True)


def fit(step: Any, rows: int = ROWS, *, epochs: int = EPOCHS, **arguments: Any) -> pg.History:
    """Train on clusters of points."""
    arguments = {"seed": 5, "execution": pg.Execution(steps_per_call=8), **arguments}
    data = clusters(rows)
    return pg.fit(step, data, epochs=epochs, batch_size=BATCH, progress="off", **arguments)


def values_of(step: Any) -> dict[str, np.ndarray]:
    """Return the value of every variable by its key, but of metrics.

    These begin anew in each pass, and the chief holds those that are sums.
    """
    entries = [entry for entry in track(step).entries if entry.kind != "metric"]
    values = snapshot([entry.variable for entry in entries])
    return {entry.key: value for entry, value in zip(entries, values, strict=True)}


def digests(step: Any) -> dict[str, str]:
    """Return what tells values apart that differ in one bit."""
    return {k: hashlib.sha256(v.tobytes()).hexdigest() for k, v in values_of(step).items()}


def outcome(step: Any, history: pg.History) -> dict[str, Any]:
    """Return what a training came to, for JSON."""
    values = {key: value.astype("float64").tolist() for key, value in values_of(step).items()}
    return {"history": history.history, "values": values}


# What is compared with one device.


def problems(place: Place) -> None:
    """Solve the table of problems; what draws random numbers, twice."""
    results = Results()
    for name in {**SOLVED, **PROBLEMS}:
        problem = SOLVED.get(name, PROBLEMS[name])
        execution = ONE_STEP if name in COMPILED else QUICKLY
        runs = {"ours": solved(place, problem, execution)}
        if problem.is_random:
            runs["again"] = solved(place, problem, execution)
        results.trajectories[name] = runs
        print(name, flush=True)
    results.save(place.folder / place.file("problems", "npz"))


def solved(place: Place, problem: Any, execution: pg.Execution) -> Any:
    """Solve a problem for one epoch, the last batch of which nobody can halve."""
    step = place.make(problem.make_step)
    return train(first_epoch(ragged(problem)), step, execution=execution)


def in_blocks(place: Place) -> dict[str, Any]:
    """Train in blocks, with a seed that the chief draws, measure and predict."""
    step = place.make(Classifier)
    folder = place.folder / f"in_blocks-{place.processes}"
    run = pg.Run(folder, record_every=pg.Every(steps=2))
    history = fit(step, seed=None, validation=clusters(RAGGED_ROWS), run=run)
    found = outcome(step, history)
    rows = clusters(BATCH + 1)  # the last batch has fewer rows than there are processes
    found["later"] = {
        "measured_loss": pg.evaluate(step, rows, batch_size=BATCH)["loss"],
        "predicted": pg.predict(step, rows, batch_size=BATCH).tolist(),
    }
    return found


def for_one_epoch(place: Place) -> dict[str, Any]:
    """Begin a run that another number of processes ends."""
    return _part_of_a_run(place, f"begun_by_{place.processes}", epochs=1)


def goes_on(place: Place) -> dict[str, Any]:
    """End the run that another number of processes has begun."""
    (begun,) = {"begun_by_1", "begun_by_2"} - {f"begun_by_{place.processes}"}
    return _part_of_a_run(place, begun, epochs=2)


def at_once(place: Place) -> dict[str, Any]:
    """Train as both do together."""
    return _part_of_a_run(place, f"straight-{place.processes}", epochs=2)


def _part_of_a_run(place: Place, name: str, epochs: int) -> dict[str, Any]:
    step = place.make(PROBLEMS["classifier"].make_step)
    run = place.folder / name
    return outcome(step, fit(step, epochs=epochs, run=run, execution=QUICKLY))


# What must be the same in all of them.


def skipped(place: Place) -> dict[str, Any]:
    """A row of the last process's share is NaN."""
    step = place.make(Classifier)
    x, y = clusters(BATCH)
    arguments = {"batch_size": BATCH, "shuffle": False, "progress": "off", "nonfinite": "skip"}
    arguments["execution"] = ONE_STEP
    pg.fit(step, (x, y), **arguments)
    before = digests(step)
    x = x.copy()
    x[-1] = np.nan
    history = pg.fit(step, (x, y), **arguments)
    after = digests(step)
    pg.fit(step, clusters(BATCH), **arguments)
    return {
        "skipped_steps": history.history["skipped_steps"],
        "before": before,
        "after": after,
        "later": digests(step),
    }


def scaled(place: Place) -> dict[str, Any]:
    """A row of the last process's share is infinite, in half precision."""
    step = place.make(Half)
    x, y = points(BATCH)
    before = digests(step)
    y[-1] = np.inf
    arguments = {"batch_size": BATCH, "shuffle": False, "progress": "off", "nonfinite": "stop"}
    pg.fit(step, (x, y), execution=QUICKLY, **arguments)
    after = values_of(step)
    changed = [key for key, digest in digests(step).items() if before.get(key) != digest]
    (scale,) = (float(value) for key, value in after.items() if "loss_scale/scale" in key)
    return {"scale": scale, "changed": sorted(changed), "count": len(before)}


def masks(place: Place) -> list[Any]:
    """Return what Dropout leaves of ones, in rows of which each process has the same number."""
    ones = np.ones((BATCH, 16), "float32")
    return pg.predict(place.make(Masks), ones, batch_size=BATCH).tolist()


def shares(place: Place) -> list[int]:
    """Return which rows of a batch this process was given, on JAX."""
    from perigee import _backends

    spread = _backends.current().spread(np.arange(2 * BATCH), None, BATCH)
    return sorted(int(i) for shard in spread.addressable_shards for i in np.ravel(shard.data))


def signaled_in_one(place: Place) -> int:
    """A signal comes to one process alone; each returns the last step that it finished."""
    steps = []

    class Signal(pg.Hook):
        every = pg.Every(steps=1)

        def on_steps(self, event):
            steps.append(event.clock.step)
            if place.process == place.processes - 1 and event.clock.step == 5:
                os.kill(os.getpid(), signal.SIGINT)

    with contextlib.suppress(KeyboardInterrupt):
        step = place.make(PROBLEMS["classifier"].make_step)
        run = place.folder / "signaled"
        fit(step, epochs=100, run=run, execution=QUICKLY, callbacks=[Signal()])
    return steps[-1]


# What is refused.


def other_batches(place: Place) -> Any:
    """Each process has data of its own."""
    x, y = clusters(BATCH)
    others = x + place.process, y
    return refusal(lambda: pg.fit(place.make(Classifier), others, progress="off"))


def own_loop(place: Place) -> Any:
    """Each process has a loop of its own."""
    return refusal(lambda: pg.prepare(place.make(Classifier)))


def no_distribution(place: Place) -> Any:
    """Processes of JAX have nothing that says what they share."""
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        return refusal(lambda: fit(Classifier()))
    finally:
        keras.distribution.set_distribution(distribution)


def split_kernels(place: Place) -> Any:
    """Kernels are split over the processes of JAX."""
    distribution = keras.distribution.distribution()
    mesh = keras.distribution.DeviceMesh(
        (1, place.processes), ("batch", "model"), keras.distribution.list_devices()
    )
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*/dense/kernel"] = (None, "model")
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
    )
    try:
        return refusal(lambda: fit(place.make(Classifier)))
    finally:
        keras.distribution.set_distribution(distribution)


def refusal(call: Callable[[], Any]) -> list[str] | None:
    """Return the code and the words of the error that a call ends with."""
    try:
        call()
    except pg.PerigeeError as error:
        return [error.code, str(error)]
    return None


# What is killed.


def never_killed(place: Place) -> dict[str, Any]:
    """Train to the end."""
    return _saving(place, "straight", {})


def to_be_killed(place: Place) -> dict[str, Any]:
    """Train, and be killed after the step that the file `settings.json` says."""
    return _saving(place, "killed", settings(place.folder).get("dies", {}))


def settings(folder: Path) -> Mapping[str, Any]:
    """Return what was written for the processes to read."""
    path = folder / "settings.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _saving(place: Place, name: str, dies: Mapping[str, int]) -> dict[str, Any]:
    dies_at = dies.get(str(place.process))

    class Death(pg.Hook):
        every = pg.Every(steps=1)

        def on_steps(self, event):
            print(f"step {event.clock.step}", flush=True)
            if event.clock.step == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)

    step = place.make(Classifier)
    run = pg.Run(place.folder / name, save_every=pg.Every(steps=SAVE_EVERY))
    epochs = settings(place.folder).get("epochs", EPOCHS)
    history = fit(step, epochs=epochs, run=run, execution=ONE_STEP, callbacks=[Death()])
    return outcome(step, history)
