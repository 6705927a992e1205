"""A loop that is driven by an environment: its batches come from a replay buffer."""

import os
import random
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

import perigee as pg
from perigee._api import prepare
from perigee._step.state import track
from perigee.writers.json_lines import read_json_lines
from tests.reliability.trainings import state_of

assert prepare.prepare

SIZE, ACTIONS, BATCH = 4, 3, 8
STEPS, STEPS_PER_EPOCH, SAVE_EVERY = 30, 7, 4


class Track:
    """A point that is pushed about at random, and is to stay near the middle."""

    def __init__(self) -> None:
        self.draw = np.random.default_rng(3)
        self.where = np.zeros(SIZE, "float32")

    def push(self, action: int) -> float:
        self.where += 0.1 * self.draw.normal(size=SIZE).astype("float32")
        self.where[action] *= 0.5
        return float(-np.square(self.where).sum())


class Learner(pg.Step):
    """Dropout, a metric, a lagging copy of the model, an environment and a replay buffer."""

    def __init__(self, units: int = 6) -> None:
        layers = keras.layers
        self.model = keras.Sequential(
            [
                keras.Input((SIZE,)),
                layers.Dense(units, activation="tanh"),
                layers.Dropout(0.2),
                layers.Dense(ACTIONS),
            ]
        )
        self.lagging = pg.copy_of(self.model)
        self.lagging.trainable = False
        self.optimizer = keras.optimizers.Adam(0.01)
        self.error = keras.metrics.MeanSquaredError(name="error")
        self.seed = keras.random.SeedGenerator(5)
        self.track = Track()
        self.replay: dict[str, Any] = {"rows": Rows()}

    def predict_step(self, observations):
        noise = keras.random.normal((ops.shape(observations)[0], ACTIONS), seed=self.seed)
        return ops.argmax(self.model(observations, training=False) + noise, axis=-1)

    def train_step(self, batch):
        goal = batch["reward"] + 0.9 * ops.max(self.lagging(batch["next"]), axis=-1)

        def objective():
            values = self.model(batch["now"], training=True)
            y_pred = ops.sum(values * ops.one_hot(batch["action"], ACTIONS), axis=-1)
            return ops.square(goal - y_pred), y_pred

        loss, y_pred = self.minimize(objective, self.optimizer, self.model)
        self.error.update_state(goal, y_pred)
        for ours, theirs in zip(self.lagging.weights, self.model.weights, strict=True):
            ours.assign(0.9 * ours + 0.1 * theirs)
        return {"loss": loss}

    def test_step(self, batch):
        return {"value": ops.max(self.model(batch["now"]), axis=-1)}

    def host_state(self):
        return {
            "where": self.track.where,
            "draw": self.track.draw.bit_generator.state,
            "rows": self.replay["rows"].state(),
        }

    def load_host_state(self, state):
        self.track.where = np.array(state["where"])
        self.track.draw.bit_generator.state = state["draw"]
        self.replay["rows"].load_state(state["rows"])


class Rows:
    """What happened, row by row."""

    def __init__(self) -> None:
        self.held: dict[str, list[Any]] = {"now": [], "action": [], "reward": [], "next": []}

    def add(self, *row: Any) -> None:
        for column, value in zip(self.held.values(), row, strict=True):
            column.append(value)

    def sample(self) -> dict[str, Any]:
        at = np.random.randint(len(self.held["now"]), size=BATCH)
        dtypes = {"now": "float32", "action": "int32", "reward": "float32", "next": "float32"}
        return {k: np.array([v[i] for i in at], dtypes[k]) for k, v in self.held.items()}

    def state(self) -> dict[str, Any]:
        return {k: np.array(v) for k, v in self.held.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.held = {k: list(v) for k, v in state.items()}


def turn(step: Learner, trainer: Any) -> Any:
    """Act, remember, learn; what comes after the step is part of the turn too."""
    now = step.track.where.copy()
    action = int(ops.convert_to_numpy(trainer.predict_step(now[None]))[0])
    reward = step.track.push(action)
    step.replay["rows"].add(now, action, reward, step.track.where.copy())
    logs = trainer.train_step(step.replay["rows"].sample())
    trainer.log({"reward": reward})
    step.track.push(0)
    return logs


def play(
    path: str | None, steps: int = STEPS, kill_at: int | None = None, **arguments: Any
) -> dict[str, Any]:
    """Run the command, and return all that can be compared afterwards."""
    keras.utils.set_random_seed(3)
    step = Learner()
    run = None
    if path is not None:
        every = {"save_every": pg.Every(steps=SAVE_EVERY), "record_every": pg.Every(steps=3)}
        run = pg.Run(path, **every)
    arguments = {"steps_per_epoch": STEPS_PER_EPOCH, "progress": "off"} | arguments
    with pg.prepare(step, run, **arguments) as trainer:
        while trainer.goes_on(steps=steps):
            if kill_at == trainer.clock.step:
                os.kill(os.getpid(), signal.SIGKILL)
            turn(step, trainer)
            if trainer.clock.step % 5 == 0:
                trainer.test_step(step.replay["rows"].sample())
    return outcome(path, step, trainer)


def outcome(path: str | None, step: Learner, trainer: Any) -> dict[str, Any]:
    lines = [] if path is None else read_json_lines(Path(path, "metrics.jsonl"))
    return {
        "state": state_of(step),
        "host": repr(step.host_state()),
        "numpy": repr(np.random.get_state()),
        "python": repr(random.getstate()),
        "history": {k: list(v) for k, v in trainer.history.history.items()},
        "clock": asdict(trainer.clock),
        "reason": trainer.stop_reason,
        "metrics": [{k: repr(v) for k, v in line.items() if k != "seconds"} for line in lines],
        "variables": len(track(step).entries),
    }
