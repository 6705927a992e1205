"""A training, interpreted in float64 NumPy: what its logs, weights and slots have to be.

No framework and nothing of Perigee's is used: gradients are written by hand, optimizers follow the
papers as Keras states them. Micro-batches are joined into the large batch that they stand for, and
that is differentiated in one piece; so accumulation is compared with its definition.

Each of `FAULTS` can be planted, to show that a comparison finds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

FAULTS = (
    "a mean of means",
    "a dropped last batch",
    "a dropped remainder",
    "an update counted twice",
    "a schedule one step late",
    "a clip before the reduction",
    "a penalty twice",
    "an average of micro-batches",
    "statistics of the wrong pass",
    "a weight's denominator",
    "a metric not reset",
)

SKIPPED = "skipped_steps"
"""The one value that is a sum."""

Rows = Mapping[str, np.ndarray]
"""The columns of a batch, or of a data set: `x`, `y`, `weight` and what layers or steps need."""
Weights = dict[str, np.ndarray]
"""Variables by the number of their layer and their name, such as `"0/kernel"`."""


@dataclass(frozen=True)
class Layer:
    """A layer.

    Attributes:
        size: Units of a dense layer; ids and features of an embedding.
        penalty: The factor of an L2 penalty of the kernel, or of the mean square of what passes
            through, as a term that the layer adds.
        momentum: Of moving statistics.
    """

    kind: Literal["dense", "batchnorm", "dropout", "embedding", "pool", "activity"]
    size: tuple[int, ...] = ()
    activation: Literal["linear", "tanh", "sigmoid", "softplus"] = "linear"
    has_bias: bool = False
    penalty: float = 0.0
    momentum: float = 0.0


@dataclass(frozen=True)
class Optimizer:
    """An optimizer: SGD, or Adam if `betas` are given."""

    rate: float
    schedule: Literal["", "staircase", "pieces"] = ""
    momentum: float = 0.0
    nesterov: bool = False
    betas: tuple[float, float] | None = None
    epsilon: float = 1e-7
    amsgrad: bool = False
    weight_decay: float | None = None
    clip: tuple[Literal["clipvalue", "clipnorm", "global_clipnorm"], float] | None = None
    ema: float | None = None
    overwrites_every: int | None = None


@dataclass(frozen=True)
class Design:
    """What is compiled.

    Attributes:
        way: How the loss is given: a loss of Keras, with weights or not; or in a step of one's own
            as a scalar, a vector, an average, or the sum of two averages.
        masks: Whether ids of 0 are padding, and do not count.
        optimizers: One; or one for the first layer and one for the others.
        gated: Whether a step updates only if the largest `gate` of its batch is positive.
        skips: Whether steps with a NaN are undone.
    """

    layers: tuple[Layer, ...]
    loss: Literal["mse", "bce", "classes"]
    way: Literal["keras", "keras, weighted", "scalar", "vector", "average", "two averages"]
    optimizers: tuple[Optimizer, ...]
    accumulate: int = 1
    masks: bool = False
    gated: bool = False
    skips: bool = False


@dataclass(frozen=True)
class Course:
    """How far to train, and what to record on the way; as in `fit`.

    Attributes:
        knows_length: Whether it is known that the last batch of an epoch is its last.
    """

    batch_size: int
    epochs: int | None = None
    steps: int | None = None
    steps_per_epoch: int | None = None
    knows_length: bool = True
    record_every: int | None = None
    validate_every: tuple[Literal["steps", "epochs"], int] = ("epochs", 1)


@dataclass
class Outcome:
    """What a training came to.

    Attributes:
        records: The scope, the step and the values of each.
        variables: Weights and slots at the end.
        margin: How near a prediction came to counting for the other class.
    """

    records: list[tuple[str, int, dict[str, float]]] = field(default_factory=list)
    variables: dict[str, np.ndarray] = field(default_factory=dict)
    margin: float = np.inf


# Layers.


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(z / 2))


ACTIVATIONS: Mapping[str, Any] = {
    "linear": (lambda z: z, np.ones_like),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "sigmoid": (_sigmoid, lambda z: _sigmoid(z) * (1 - _sigmoid(z))),
    "softplus": (lambda z: np.logaddexp(0, z), _sigmoid),
}
"""Functions with their derivatives."""


@dataclass
class Pass:
    """A forward pass: the output, what the backward pass needs, and what layers add and count."""

    output: np.ndarray
    tape: list[tuple[int, Any]] = field(default_factory=list)
    added: float = 0.0
    moments: Weights = field(default_factory=dict)


def forward(
    layers: Sequence[Layer], weights: Weights, rows: Rows, sizes: Sequence[int], is_training: bool
) -> Pass:
    """Pass rows through the layers; batch statistics are those of micro-batches of `sizes`."""
    run = Pass(rows["x"])
    for number, layer in enumerate(layers):
        x, kept = run.output, None
        if layer.kind == "embedding":
            run.output, kept = weights[f"{number}/embeddings"][x], x
        elif layer.kind == "pool":
            mask = (rows["x"] != 0).astype(float)
            kept = (mask / np.maximum(mask.sum(1, keepdims=True), 1))[..., None]
            run.output = (x * kept).sum(1)
        elif layer.kind == "dense":
            z = x @ weights[f"{number}/kernel"]
            z = z + weights[f"{number}/bias"] if layer.has_bias else z
            run.output, kept = ACTIVATIONS[layer.activation][0](z), (x, z)
        elif layer.kind == "dropout" and is_training:
            kept = 2.0 * rows["keep"]
            run.output = x * kept
        elif layer.kind == "activity":
            run.added += layer.penalty * np.mean(x**2)
            kept = 2 * layer.penalty * x / x.size
        elif layer.kind == "batchnorm":
            run.output, kept = _normalized(run, number, weights, x, sizes, is_training)
        run.tape.append((number, kept))
    return run


def _normalized(
    run: Pass, number: int, weights: Weights, x: np.ndarray, sizes: Sequence[int], is_training: bool
) -> tuple[np.ndarray, Any]:
    """Normalize each micro-batch (Ioffe and Szegedy, 2015, algorithm 1)."""
    parts, axes = np.split(x, np.cumsum(sizes)[:-1]), tuple(range(x.ndim - 1))
    mean, variance = weights[f"{number}/moving_mean"], weights[f"{number}/moving_variance"]
    normal, scales = [], []
    for part in parts:
        if is_training:
            mean, variance = part.mean(axes), part.var(axes)
        scales.append(1 / np.sqrt(variance + 1e-3))
        normal.append((part - mean) * scales[-1])
    run.moments |= {f"{number}/moving_mean": mean, f"{number}/moving_variance": variance}
    y = np.concatenate(normal) * weights[f"{number}/gamma"] + weights[f"{number}/beta"]
    return y, (normal, scales, axes)


def backward(layers: Sequence[Layer], weights: Weights, run: Pass, gradient: np.ndarray) -> Weights:
    """Return the gradients, given that of the output; those of penalties and added terms too."""
    found: Weights = {}
    for number, kept in reversed(run.tape):
        layer = layers[number]
        if layer.kind == "embedding":
            found[f"{number}/embeddings"] = np.zeros_like(weights[f"{number}/embeddings"])
            np.add.at(found[f"{number}/embeddings"], kept, gradient)
        elif layer.kind == "pool":
            gradient = gradient[:, None, :] * kept
        elif layer.kind == "dense":
            (x, z), kernel = kept, weights[f"{number}/kernel"]
            gradient = gradient * ACTIVATIONS[layer.activation][1](z)
            over = tuple(range(x.ndim - 1))
            found[f"{number}/kernel"] = np.tensordot(x, gradient, (over, over))
            found[f"{number}/kernel"] += 2 * layer.penalty * kernel
            if layer.has_bias:
                found[f"{number}/bias"] = gradient.sum(over)
            gradient = gradient @ kernel.T
        elif layer.kind == "dropout":
            gradient = gradient * kept
        elif layer.kind == "activity":
            gradient = gradient + kept
        elif layer.kind == "batchnorm":
            normal, scales, axes = kept
            found[f"{number}/gamma"] = (gradient * np.concatenate(normal)).sum(axes)
            found[f"{number}/beta"] = gradient.sum(axes)
            parts = np.split(
                gradient * weights[f"{number}/gamma"], np.cumsum([len(n) for n in normal])[:-1]
            )
            gradient = np.concatenate(
                [
                    (g - g.mean(axes) - n * (g * n).mean(axes)) * scale
                    for g, n, scale in zip(parts, normal, scales, strict=True)
                ]
            )
    return found


def penalty(layers: Sequence[Layer], weights: Weights) -> float:
    """Return the sum of the L2 penalties."""
    return sum(
        layer.penalty * float(np.sum(weights[f"{number}/kernel"] ** 2))
        for number, layer in enumerate(layers)
        if layer.kind == "dense"
    )


# Losses.


def losses(kind: str, y: np.ndarray, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return one loss for each row or token, and its derivatives by the outputs."""
    if kind == "mse":
        return np.mean((output - y) ** 2, -1), 2 * (output - y) / output.shape[-1]
    if kind == "bce":
        values = np.logaddexp(0, output) - y * output
        return values.mean(-1), (_sigmoid(output) - y) / output.shape[-1]
    shifted = output - output.max(-1, keepdims=True)
    log_total = np.log(np.exp(shifted).sum(-1, keepdims=True))
    chosen = np.eye(output.shape[-1])[y]
    return -((shifted - log_total) * chosen).sum(-1), np.exp(shifted - log_total) - chosen


def measured(kind: str, y: np.ndarray, output: np.ndarray) -> tuple[np.ndarray, float]:
    """Return what the metrics average: squares or hits; and the margin of the nearest decision."""
    if kind == "mse":
        return np.mean((output - y) ** 2, -1), np.inf
    if kind == "bce":
        return np.mean((output > 0) == (y > 0), -1), float(np.abs(output).min())
    best = np.sort(output, -1)
    return (output.argmax(-1) == y).astype(float), float((best[..., -1] - best[..., -2]).min())


def factors(design: Design, rows: Rows, fault: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return what multiplies each loss in the sum, and what it adds to the divisor.

    Keras divides weighted losses by the number of valid ones; `pg.mean` by the sum of weights.
    """
    ones = np.ones(rows["weight"].shape)
    mask = (rows["x"] != 0) * ones if design.masks else ones
    weighted = rows["weight"] * mask
    if design.way in ("scalar", "vector"):
        return ones, ones
    if design.way == "keras":
        return mask, mask
    by_weight = (design.way == "keras, weighted") == (fault == "a weight's denominator")
    return weighted, weighted if by_weight else mask


class Tally:
    """Means of named terms: totals and counts, divided once; terms of one name are added."""

    def __init__(self, are_equal: bool = False) -> None:
        self._sums: dict[tuple[str, int], np.ndarray] = {}
        self._are_equal = are_equal

    def add(self, terms: Sequence[tuple[str, float, float]]) -> None:
        """Add (name, mean, count) terms."""
        for index, (name, mean, count) in enumerate(terms):
            before = sum(name == other for other, _, _ in terms[:index])
            count = 1.0 if self._are_equal and count else count
            sums = self._sums.setdefault((name, before), np.zeros(2))
            sums += (mean, 0) if name == SKIPPED else (mean * count, count)

    def means(self, empty: float | None = None) -> dict[str, float]:
        """Return the mean of each name, or `empty` where all counts are 0."""
        found: dict[str, float] = {}
        for (name, _), (total, count) in self._sums.items():
            if name == SKIPPED:
                found[name] = float(total)
            elif count:
                found[name] = found.get(name, 0.0) + float(total / count)
            elif empty is not None:
                found[name] = empty
        return found


# Updates.


class Updates:
    """An optimizer with its slots."""

    def __init__(self, optimizer: Optimizer, names: Sequence[str], fault: str | None) -> None:
        self.of, self.names, self._fault = optimizer, list(names), fault
        self.count, self.slots = 0, dict[str, np.ndarray]()

    def rate(self, count: int) -> float:
        """Return the learning rate of the update after so many."""
        if self.of.schedule == "staircase":
            return self.of.rate * 0.5 ** (count // 3)
        if self.of.schedule == "pieces":  # a boundary belongs to the piece before it
            return self.of.rate * (1.0 if count <= 2 else 0.25 if count <= 5 else 2.0)
        return self.of.rate

    def clipped(self, gradients: Weights) -> Weights:
        """Clip the gradients of this optimizer's variables."""
        found = {name: gradients[name] for name in self.names}
        if self.of.clip is None:
            return found
        kind, limit = self.of.clip
        if kind == "clipvalue":
            return {name: np.clip(g, -limit, limit) for name, g in found.items()}
        norms = {name: np.sqrt(np.sum(g**2)) for name, g in found.items()}
        if kind == "global_clipnorm":
            norms = dict.fromkeys(norms, np.sqrt(sum(n**2 for n in norms.values())))
        return {name: g * limit / max(norms[name], limit) for name, g in found.items()}

    def apply(self, weights: Weights, gradients: Weights) -> None:
        """Update the weights, and count it."""
        late = self._fault == "a schedule one step late"
        rate = self.rate(max(0, self.count - late))
        for name, g in self.clipped(gradients).items():
            if self.of.weight_decay is not None:
                weights[name] = weights[name] * (1 - self.of.weight_decay * rate)
            if self.of.betas is not None:
                weights[name] = weights[name] - self._adam(name, g, rate)
            elif self.of.momentum:
                weights[name] = weights[name] + self._momentum(name, g, rate)
            else:
                weights[name] = weights[name] - rate * g
        self.average(weights)
        self.count += 2 if self._fault == "an update counted twice" else 1

    def _slot(self, name: str, kind: str, like: np.ndarray) -> np.ndarray:
        return self.slots.setdefault(f"{name}/{kind}", np.zeros_like(like))

    def _momentum(self, name: str, g: np.ndarray, rate: float) -> np.ndarray:
        """Return the step (Sutskever et al., 2013, equations 1 to 4, as rewritten by Keras)."""
        velocity = self.of.momentum * self._slot(name, "momentum", g) - rate * g
        self.slots[f"{name}/momentum"] = velocity
        return self.of.momentum * velocity - rate * g if self.of.nesterov else velocity

    def _adam(self, name: str, g: np.ndarray, rate: float) -> np.ndarray:
        """Return the step (Kingma and Ba, 2015, end of section 2: the other epsilon)."""
        assert self.of.betas is not None
        (one, two), t = self.of.betas, self.count + 1
        m = one * self._slot(name, "momentum", g) + (1 - one) * g
        v = two * self._slot(name, "velocity", g) + (1 - two) * g**2
        self.slots |= {f"{name}/momentum": m, f"{name}/velocity": v}
        if self.of.amsgrad:
            v = np.maximum(self._slot(name, "velocity_hat", g), v)
            self.slots[f"{name}/velocity_hat"] = v
        return rate * np.sqrt(1 - two**t) / (1 - one**t) * m / (np.sqrt(v) + self.of.epsilon)

    def average(self, weights: Weights) -> None:
        """Average the weights, the first time from nothing."""
        for name in self.names if self.of.ema is not None else ():
            share = self.of.ema if self.count else 0.0
            old = self._slot(name, "average", weights[name])
            self.slots[f"{name}/average"] = share * old + (1 - share) * weights[name]
            every = self.of.overwrites_every
            if every and (self.count + 1) % every == 0:
                weights[name] = self.slots[f"{name}/average"]


# The training.


def _joined(parts: Sequence[Rows]) -> Rows:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _batches(data: Rows, size: int) -> list[Rows]:
    count = len(data["y"])
    return [{k: v[at : at + size] for k, v in data.items()} for at in range(0, count, size)]


class Interpreter:
    """Trains; `train` is all that is called."""

    def __init__(self, design: Design, weights: Weights, fault: str | None = None) -> None:
        assert fault is None or fault in FAULTS
        self.design, self.weights, self.fault = design, dict(weights), fault
        self.outcome = Outcome()
        names = [n for n in weights if "moving" not in n]
        first = [n for n in names if n.startswith("0/")]
        groups = [names] if len(design.optimizers) == 1 else [first, [*names[len(first) :]]]
        pairs = zip(design.optimizers, groups, strict=True)
        self.updates = [Updates(optimizer, group, fault) for optimizer, group in pairs]
        self._waiting: list[Rows] = []
        self._metrics = Tally()

    def train(self, data: Rows, validation: Rows | None, course: Course) -> Outcome:
        """Train, as the loop is specified."""
        step, number, window, stop = 0, 0, Tally(), False
        stream = self._stream(_batches(data, course.batch_size), course.steps_per_epoch)
        while not stop:
            epoch = Tally(self.fault == "a mean of means")
            if self.fault != "a metric not reset":
                self._metrics = Tally()
            for index, (rows, is_last) in enumerate(next(stream)):
                drops = is_last and self.fault == "a dropped last batch"
                terms = [] if drops and index else self._step(rows)
                epoch.add(terms)
                window.add(terms)
                step += 1
                if (index + 1) % self.design.accumulate == 0:
                    self._flush()
                if course.record_every and step % course.record_every == 0:
                    running = {f"running/{k}": v for k, v in self._metrics.means(0.0).items()}
                    self._record("steps", step, {**window.means(), **running, **self._rates()})
                    window = Tally()
                kind, every = course.validate_every
                is_due = validation is not None and kind == "steps" and step % every == 0
                validated = self._validated(validation) if is_due else {}
                if validated:
                    self._record("validation", step, validated)
                stop = step == course.steps
                if stop:
                    break
            is_whole = is_last and (course.knows_length or not stop)
            number += is_whole
            if self.fault == "a dropped remainder":
                self._waiting = []
            self._flush()
            is_due = kind == "epochs" and number % every == 0
            if validation is not None and not validated and (is_due or not is_whole):
                validated = self._validated(validation)
            values = {**epoch.means(), **self._metrics.means(0.0), **validated, **self._rates()}
            self._record("epoch", step, values)
            stop = stop or number == course.epochs
        return self._ended()

    def _stream(
        self, batches: Sequence[Rows], per_epoch: int | None
    ) -> Iterator[Iterator[tuple[Rows, bool]]]:
        """Generate epochs of (batch, whether it is the last), on and on."""
        at, count = 0, per_epoch or len(batches)
        while True:
            chosen = [batches[(at + i) % len(batches)] for i in range(count)]
            yield ((rows, i == count - 1) for i, rows in enumerate(chosen))
            at += count

    def _record(self, scope: str, step: int, values: dict[str, float]) -> None:
        self.outcome.records.append((scope, step, values))

    def _rates(self) -> dict[str, float]:
        rates = [updates.rate(updates.count) for updates in self.updates]
        if len(rates) == 1:
            return {"learning_rate": rates[0]}
        return {f"optimizer/{index}/learning_rate": rate for index, rate in enumerate(rates)}

    def _step(self, rows: Rows) -> list[tuple[str, float, float]]:
        """Take in a micro-batch and return the (name, mean, count) terms that it logs."""
        design, layers = self.design, self.design.layers
        if design.skips and np.isnan(rows["x"]).any():
            return [(SKIPPED, 1.0, 0.0)]
        run = forward(layers, self.weights, rows, [len(rows["y"])], True)
        for name, value in run.moments.items():
            old, share = self.weights[name], layers[int(name.split("/")[0])].momentum
            self.weights[name] = share * old + (1 - share) * value
        if not design.gated or rows["gate"].max() > 0:
            self._waiting.append(rows)
        self._measure(self._metrics, rows, run.output)
        terms = [*self._terms(rows, run.output), *self._penalties(rows, run)]
        return [*terms, (SKIPPED, 0.0, 0.0)] if design.skips else terms

    def _terms(self, rows: Rows, output: np.ndarray) -> list[tuple[str, float, float]]:
        values, _ = losses(self.design.loss, rows["y"], output)
        upper, lower = factors(self.design, rows, self.fault)
        count = lower.sum()
        terms = [("loss", float((values * upper).sum() / (count or 1.0)), float(count))]
        if self.design.way == "two averages":
            terms.append(("loss", 0.5 * float(np.mean(output**2)), output.size))
        return terms

    def _penalties(self, rows: Rows, run: Pass) -> list[tuple[str, float, float]]:
        if not any(layer.penalty for layer in self.design.layers):
            return []
        times = 2 if self.fault == "a penalty twice" else 1
        added = times * (run.added + penalty(self.design.layers, self.weights))
        return [("loss", added, len(rows["y"]))]

    def _measure(self, metrics: Tally, rows: Rows, output: np.ndarray) -> None:
        values, margin = measured(self.design.loss, rows["y"], output)
        self.outcome.margin = min(self.outcome.margin, margin)
        mask = (
            (rows["x"] != 0) * np.ones(values.shape) if self.design.masks else np.ones(values.shape)
        )
        weighted = mask if self.design.way == "keras" else mask * rows["weight"]
        terms = []
        for name, weight in (("plain", mask), ("weighted", weighted)):
            count = float(weight.sum())
            terms.append((name, float((values * weight).sum() / (count or 1.0)), count))
        metrics.add(terms)

    def _flush(self) -> None:
        """Update by the batch that the waiting micro-batches make together."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        if self.fault == "a clip before the reduction":
            each = [(self._gradients([rows]), len(rows["y"])) for rows in waiting]
            total = sum(count for _, count in each)
            gradients: Weights = {}
            for updates in self.updates:
                parts = [(updates.clipped(g), count / total) for g, count in each]
                gradients |= {n: sum(g[n] * share for g, share in parts) for n in updates.names}
        else:
            gradients = self._gradients(waiting)
        for updates in self.updates:
            updates.apply(self.weights, gradients)
            if self.fault == "an average of micro-batches":
                for _ in waiting[1:]:
                    updates.average(self.weights)

    def _gradients(self, parts: Sequence[Rows]) -> Weights:
        design, rows = self.design, _joined(parts)
        run = forward(design.layers, self.weights, rows, [len(part["y"]) for part in parts], True)
        _, slopes = losses(design.loss, rows["y"], run.output)
        upper, lower = factors(design, rows, self.fault)
        gradient = slopes * (upper / (lower.sum() or 1.0))[..., None]
        if design.way == "two averages":
            gradient = gradient + run.output / run.output.size
        found = backward(design.layers, self.weights, run, gradient)
        for number, layer in enumerate(design.layers):
            if self.fault == "a penalty twice" and layer.kind == "dense":
                found[f"{number}/kernel"] += 2 * layer.penalty * self.weights[f"{number}/kernel"]
        return found

    def _validated(self, validation: Rows | None) -> dict[str, float]:
        assert validation is not None
        means, metrics, layers = Tally(), Tally(), self.design.layers
        for rows in _batches(validation, 4):
            is_wrong = self.fault == "statistics of the wrong pass"
            run = forward(layers, self.weights, rows, [len(rows["y"])], is_wrong)
            terms = self._terms(rows, run.output)
            if self.design.way.startswith("keras"):
                terms += self._penalties(rows, run)
            means.add(terms)
            self._measure(metrics, rows, run.output)
        return {f"val_{k}": v for k, v in {**means.means(), **metrics.means(0.0)}.items()}

    def _ended(self) -> Outcome:
        for index, updates in enumerate(self.updates):
            if updates.of.ema is not None and updates.count:
                averages = {n: updates.slots[f"{n}/average"] for n in updates.names}
                self.weights |= averages
            slots = {f"{index}/{name}": value for name, value in updates.slots.items()}
            self.outcome.variables |= {**slots, f"{index}/iteration": np.array(updates.count)}
        self.outcome.variables |= self.weights
        return self.outcome
