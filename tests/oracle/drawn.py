"""Designs and trainings that are drawn, and the comparison of two outcomes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

import perigee as pg
from tests.oracle.interpreter import (
    Course,
    Design,
    Interpreter,
    Layer,
    Optimizer,
    Outcome,
    Rows,
    Weights,
)
from tests.oracle.trained import BACKEND, Trained

TOLERANCES = {"float32": 1e-4, "float64": 1e-9}
SMALLEST = 0.1
"""Variables whose largest element is below it are compared as if it were as large: gradients that
BatchNorm over two rows cancels are rounding errors in float32."""
MOST_STEPS = 20
IDS, FEATURES, LENGTH = 6, 3, 4


@dataclass(frozen=True)
class Training:
    """A training of a design: its numbers, and where it is cut in two."""

    weights: Weights
    data: Rows
    validation: Rows | None
    course: Course
    cut: int | None


class Draw:
    """What is drawn from one seed."""

    def __init__(self, *seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def one(self, *values: Any) -> Any:
        return values[self.random.integers(len(values))]

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def design(self) -> Design:
        """Draw what is compiled."""
        body = self.one("features", "features", "bag", "tokens")
        loss = self.one("mse", "bce", "classes")
        ways = ("keras", "keras, weighted", "scalar", "vector", "average", "two averages")
        way, masks = self.one(*ways), body == "tokens" and self.chance(0.7)
        if masks and way in ("scalar", "vector"):
            way = "average"
        layers: list[Layer] = []
        if body != "features":
            layers.append(Layer("embedding", (IDS, FEATURES)))
        layers += [Layer("pool")] if body == "bag" else []
        normalizes = self.chance(0.4) and not masks
        l2 = self.one(0.0, 2.0**-5)
        layers.append(
            Layer(
                "dense", (4,), self.one("tanh", "sigmoid", "softplus", "linear"), not normalizes, l2
            )
        )
        layers += [Layer("batchnorm", momentum=self.one(0.5, 0.875))] if normalizes else []
        layers += [Layer("dropout")] if self.chance(0.4) and body != "tokens" else []
        accumulate = 1 if way == "two averages" else self.one(1, 2, 3)
        divides_by_weights = accumulate > 1 and (masks or way == "average")
        if self.chance(0.3) and not divides_by_weights:  # several counts cannot be accumulated
            layers.append(Layer("activity", penalty=2.0**-4))
        layers.append(Layer("dense", (self.one(2, 3),), has_bias=self.chance(0.7), penalty=l2))
        is_own = not way.startswith("keras")
        return Design(
            tuple(layers),
            loss,
            way,
            tuple(self.optimizer() for _ in range(self.one(1, 1, 2))),
            accumulate,
            masks,
            gated=is_own and self.chance(0.2),
            skips=body == "features" and self.chance(0.2),
        )

    def optimizer(self) -> Optimizer:
        """Draw an optimizer."""
        adam = self.chance(0.5)
        limit = self.one(2.0**-6, 2.0**-2)
        ema = self.one(None, 0.5, 0.875)
        return Optimizer(
            rate=self.one(2.0**-5, 2.0**-4),
            schedule=self.one("", "staircase", "pieces"),
            momentum=0.0 if adam else self.one(0.0, 0.875),
            nesterov=self.chance(0.5),
            betas=self.one((0.875, 1 - 2.0**-10), (0.5, 0.875)) if adam else None,
            epsilon=self.one(2.0**-10, 2.0**-7),
            amsgrad=self.chance(0.3),
            weight_decay=self.one(None, None, 0.125),
            clip=self.one(
                None, ("clipvalue", limit / 4), ("clipnorm", limit), ("global_clipnorm", limit)
            ),
            ema=ema,
            overwrites_every=None if ema is None else self.one(None, 3),
        )

    def rows(self, design: Design, count: int, has_gaps: bool = False) -> Rows:
        """Draw data."""
        random = self.random
        is_of_ids = design.layers[0].kind == "embedding"
        is_of_tokens = is_of_ids and all(layer.kind != "pool" for layer in design.layers)
        lead = (count, LENGTH) if is_of_tokens else (count,)
        outputs = design.layers[-1].size[0]
        if is_of_ids:
            x = random.integers(0, IDS, (count, LENGTH)).astype("int32")
        else:
            x = random.normal(size=(count, FEATURES))
        if has_gaps:
            x[random.random(count) < 0.1] = np.nan
        y = random.normal(size=(*lead, outputs))
        if design.loss == "bce":
            y = (y > 0).astype(float)
        elif design.loss == "classes":
            y = random.integers(0, outputs, lead).astype("int32")
        found = {"x": x, "y": y, "weight": random.uniform(0, 2, lead) * (random.random(lead) < 0.7)}
        if any(layer.kind == "dropout" for layer in design.layers):
            found["keep"] = (random.random((count, 4)) < 0.5).astype(float)
        if design.gated:
            found["gate"] = random.choice([-1.0, 1.0], count, p=[0.8, 0.2])
        return found

    def weights(self, design: Design) -> Weights:
        """Draw the weights at the start."""
        found: Weights = {}
        width = FEATURES
        for number, layer in enumerate(design.layers):
            of = {}
            if layer.kind == "embedding":
                of = {"embeddings": self.random.normal(size=layer.size)}
            elif layer.kind == "dense":
                of = {"kernel": self.random.normal(size=(width, layer.size[0]))}
                of |= {"bias": self.random.normal(size=layer.size)} if layer.has_bias else {}
                width = layer.size[0]
            elif layer.kind == "batchnorm":
                of = {
                    name: self.random.normal(size=width)
                    for name in ("gamma", "beta", "moving_mean")
                }
                of["moving_variance"] = self.random.uniform(0.5, 2.0, width)
            found |= {f"{number}/{name}": value for name, value in of.items()}
        # What float32 holds exactly, so that both begin alike.
        return {name: value.astype("float32").astype(float) for name, value in found.items()}

    def training(
        self, design: Design, sizes: Sequence[int], counts: Sequence[int], feed: str
    ) -> Training:
        """Draw a training."""
        size, count = self.one(*sizes), self.one(*counts)
        per_pass = -(-count // size)
        per_epoch = self.one(None, None, int(self.random.integers(1, 7)))
        epochs = max(1, min(int(self.random.integers(1, 5)), MOST_STEPS // (per_epoch or per_pass)))
        steps = int(self.random.integers(1, MOST_STEPS + 1)) if self.chance(0.3) else None
        course = Course(
            size,
            None if steps else epochs,
            steps,
            per_epoch,
            feed != "generator" or per_epoch is not None,
            record_every=self.one(None, None, None, 1, 2, 3, 5),
            validate_every=self.one(("epochs", 1), ("epochs", 2), ("steps", 3)),
        )
        data = self.rows(design, count, design.skips)
        validation = self.rows(design, self.one(1, 6, 7)) if self.chance(0.6) else None
        data, validation = (
            rows
            and {
                k: v.astype("float32").astype(float) if v.dtype.kind == "f" else v
                for k, v in rows.items()
            }
            for rows in (data, validation)
        )
        total = steps or epochs * (per_epoch or per_pass)
        is_cut = total > 1 and self.chance(0.15)
        cut = int(self.random.integers(1, total)) if is_cut else None
        return Training(self.weights(design), data, validation, course, cut)


@dataclass(frozen=True)
class Drawn:
    """A design, how its steps run, and what was drawn of the data of its trainings."""

    design: Design
    mode: Any
    steps_per_call: Any
    feed: str
    trainings: Sequence[Training]


def drawn(seed: int, number: int, count: int) -> Drawn:
    """Draw a design and `count` trainings, whose batches have few sizes, each compiled once."""
    draw = Draw(seed, number)
    design, feed = draw.design(), draw.one("arrays", "arrays", "list", "generator")
    modes = {"tensorflow": ("graph",) * 14 + ("eager", "xla")}
    mode, steps_per_call = draw.one(*modes.get(BACKEND, ("auto",))), draw.one("auto", 1, 3)
    sizes = [int(draw.random.integers(1, 8))]
    counts = [1, *(int(n) for n in draw.random.integers(2, 25, 5))]
    each = [Draw(seed, number, n).training(design, sizes, counts, feed) for n in range(count)]
    return Drawn(design, mode, steps_per_call, feed, each)


def trainings(seed: int, number: int, count: int) -> Iterator[tuple[Design, Training, Outcome]]:
    """Draw a design, compile it once, and generate `count` trainings with what came of them."""
    of = drawn(seed, number, count)
    design, feed, execution = of.design, of.feed, pg.Execution(of.mode, of.steps_per_call)
    made = None
    for training in of.trainings:
        made = made or Trained(design, training.data, feed, execution)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of BatchNorm on micro-batches, and resumed generators
            outcome = made.train(
                training.weights, training.data, training.validation, training.course, training.cut
            )
        yield design, training, outcome


def interpreted(design: Design, training: Training, fault: str | None = None) -> Outcome:
    """Return what should come of a training."""
    interpreter = Interpreter(design, training.weights, fault)
    return interpreter.train(training.data, training.validation, training.course)


def difference(found: Outcome, expected: Outcome, tolerance: float) -> str:
    """Return where two outcomes part; nothing if they do not."""
    steps, of = ([(s, n) for s, n, _ in o.records] for o in (found, expected))
    if steps != of:
        return f"records of {steps}, not {of}"
    for (scope, step, values), (_, _, others) in zip(found.records, expected.records, strict=True):
        if values.keys() != others.keys():
            return f"{scope} {step}: {sorted(values)}, not {sorted(others)}"
        for name, value in values.items():
            if abs(value - others[name]) > max(tolerance, 3e-7) * max(1, abs(others[name])):
                return f"{scope} {step}: {name} is {value}, not {others[name]}"
    for name, value in expected.variables.items():
        if name not in found.variables:
            return f"no {name}"
        scale = max(float(np.abs(value).max(initial=0)), SMALLEST)
        gap = float(np.abs(found.variables[name] - value).max(initial=0))
        if not gap <= tolerance * scale:
            return f"{name} is off by {gap / scale:.1e}"
    return ""


def compared(
    design: Design, training: Training, outcome: Outcome, fault: str | None = None
) -> str | None:
    """Return where an outcome parts from the interpreter's; `None` where rounding decides."""
    expected = interpreted(design, training, fault)
    tolerance = TOLERANCES[keras.config.floatx()]
    if expected.margin < tolerance:
        return None
    return difference(outcome, expected, tolerance)
