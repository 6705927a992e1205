"""Steps that hold their state in every place where Keras lets one put it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import layers, ops

import perigee as pg

FEATURES, STEPS, CHANNELS = 4, 5, 3


class Holding(pg.Step):
    """A Step of any attributes."""

    def __init__(self, **held: Any) -> None:
        for name, value in held.items():
            setattr(self, name, value)


class Blocks(keras.Model):
    """Layers in a list, a dict and a tuple, with statistics and seeds of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [layers.Dense(FEATURES), layers.BatchNormalization()]
        self.heads = {"a": layers.Dense(2), "b": [layers.Dense(2), layers.Dropout(0.5)]}
        self.pair = (layers.LayerNormalization(), layers.GaussianNoise(0.1))

    def call(self, x: Any) -> Any:
        for layer in (*self.blocks, *self.pair):
            x = layer(x)
        return self.heads["a"](x) + self.heads["b"][1](self.heads["b"][0](x))


class Nested(keras.layers.Layer):
    """Layers within layers, and variables of its own."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.inner = Nested(depth - 1) if depth else layers.Dense(FEATURES)
        self.count = self.add_weight(shape=(), dtype="int32", trainable=False, name="count")
        self.gate = self.add_weight(shape=(FEATURES,), name="gate")

    def call(self, x: Any) -> Any:
        return self.inner(x) * self.gate


class Drawing(keras.layers.Layer):
    """Seed generators and metrics as state of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds = [keras.random.SeedGenerator(1), keras.random.SeedGenerator(2)]
        self.seen = keras.metrics.Mean()
        self.largest = keras.metrics.Sum()

    def call(self, x: Any) -> Any:
        self.seen.update_state(ops.mean(x))
        self.largest.update_state(ops.max(x))
        for seed in self.seeds:
            x = x + keras.random.normal(ops.shape(x), seed=seed)
        return x


class Target(keras.Model):
    """A model that holds another one, and a second with the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.online = _mlp(name="net")
        self.slow = _mlp(name="net")

    def call(self, x: Any) -> Any:
        return self.online(x) - self.slow(x)


def _mlp(**named: Any) -> keras.Sequential:
    return keras.Sequential(
        [
            keras.Input((FEATURES,)),
            layers.Dense(6, "relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(2),
        ],
        **named,
    )


def _built(model: Any, shape: tuple[int, ...] = (FEATURES,), dtype: str = "float32") -> Any:
    model(np.zeros((2, *shape), dtype))
    return model


def _with(optimizer: Any, model: Any, **held: Any) -> Holding:
    optimizer.build(model.trainable_variables)
    return Holding(model=model, optimizer=optimizer, **held)


def _functional() -> Holding:
    inputs = {"a": keras.Input((FEATURES,), name="a"), "b": keras.Input((FEATURES,), name="b")}
    shared = layers.Dense(3)
    joined = layers.Concatenate()([shared(inputs["a"]), shared(inputs["b"])])
    model = keras.Model(inputs, {"x": layers.Dense(1)(joined), "y": layers.Dense(2)(joined)})
    return _with(keras.optimizers.RMSprop(momentum=0.9, centered=True), model)


def _duplicate_names() -> Holding:
    same = [layers.Dense(FEATURES, name="same") for _ in range(3)]
    return Holding(layers=[_built(layer) for layer in same], again=same[0])


def _tied() -> Holding:
    class Tied(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = layers.Embedding(7, FEATURES)

        def call(self, ids: Any) -> Any:
            return ops.matmul(self.embedding(ids), ops.transpose(self.embedding.embeddings))

    model = _built(Tied(), (STEPS,), "int32")
    return _with(keras.optimizers.Adagrad(), model, embedding=model.embedding)


def _gan() -> Holding:
    generator, critic = _mlp(), _mlp()
    optimizers = {
        "generator": keras.optimizers.Adam(1e-4, beta_1=0.0),
        "critic": keras.optimizers.SGD(momentum=0.9, nesterov=True),
    }
    optimizers["generator"].build(generator.trainable_variables)
    optimizers["critic"].build(critic.trainable_variables)
    return Holding(optimizers=optimizers, generator=generator, critic=critic)


def _quantized(mode: str) -> Holding:
    model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(4), layers.Dense(2)])
    for layer in model.layers:
        layer.quantize(mode)
    return Holding(model=model)


def _lora() -> Holding:
    model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(4), layers.Dense(2)])
    model.layers[0].enable_lora(2)
    return _with(keras.optimizers.Lion(), model)


def _image() -> Holding:
    convolutional = [
        keras.Input((8, 8, CHANNELS)),
        layers.RandomFlip(),
        layers.Conv2D(4, 3),
        layers.GroupNormalization(2),
        layers.DepthwiseConv2D(3),
        layers.SpatialDropout2D(0.2),
        layers.Conv2DTranspose(2, 3),
        layers.GlobalAveragePooling2D(),
    ]
    return _with(keras.optimizers.Nadam(), keras.Sequential(convolutional))


def _sequence(*inner: Any) -> Holding:
    return _with(
        keras.optimizers.AdamW(use_ema=True),
        keras.Sequential([keras.Input((STEPS, FEATURES)), *inner]),
    )


def _attention() -> Holding:
    inputs = keras.Input((STEPS, FEATURES))
    attended = layers.MultiHeadAttention(2, 3, dropout=0.1)(inputs, inputs)
    grouped = layers.GroupQueryAttention(3, 2, 1)(attended, attended)
    return _with(keras.optimizers.Adafactor(), keras.Model(inputs, layers.Add()([inputs, grouped])))


def _metrics() -> Holding:
    return Holding(
        model=_mlp(),
        plain=[keras.metrics.Mean(), keras.metrics.Mean()],
        auc=keras.metrics.AUC(num_thresholds=5),
        confusion=keras.metrics.MeanIoU(num_classes=3),
        correlated=_updated(keras.metrics.F1Score()),
    )


def _updated(metric: Any) -> Any:
    metric.update_state(np.eye(3, dtype="float32"), np.eye(3, dtype="float32"))
    return metric


def _variables() -> Holding:
    return Holding(
        temperature=keras.Variable(1.0, dtype="float32"),
        numbers=[keras.Variable(np.arange(3), dtype="int32", trainable=False) for _ in range(2)],
        flag=keras.Variable(np.array(True), dtype="bool", trainable=False),
        half=keras.Variable(np.ones((2, 3)), dtype="float16"),
        brain=keras.Variable(np.ones((3,)), dtype="bfloat16"),
        empty=keras.Variable(np.zeros((0, 2)), dtype="float32"),
        seed=keras.random.SeedGenerator(5),
    )


def _step_in_step() -> Holding:
    inner = _gan()
    return Holding(inner={"first": inner, "list": [Holding(model=_mlp())]}, again=inner)


def _compiled() -> Holding:
    model = _mlp()
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(np.zeros((2, FEATURES)), np.zeros((2, 2)), verbose=0)
    return Holding(model=model, optimizer=model.optimizer)


def _mixed(policy: str) -> Holding:
    inner = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(3, dtype=policy)])
    return _with(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), inner)


ZOO: dict[str, Callable[[], Holding]] = {
    "sequential, Adam, EMA, accumulation": lambda: _with(
        keras.optimizers.Adam(use_ema=True, gradient_accumulation_steps=2), _mlp()
    ),
    "functional, shared layer": _functional,
    "layers in lists, dicts and tuples": lambda: _with(
        keras.optimizers.SGD(momentum=0.9), _built(Blocks())
    ),
    "nested layers": lambda: _with(keras.optimizers.Adadelta(), _built(Nested(3))),
    "duplicate names": _duplicate_names,
    "model within a model, twice": lambda: _with(keras.optimizers.Adamax(), _built(Target())),
    "tied weights": _tied,
    "two optimizers": _gan,
    "LSTM": lambda: _sequence(layers.LSTM(3, dropout=0.1, recurrent_dropout=0.1)),
    "bidirectional GRU": lambda: _sequence(layers.Bidirectional(layers.GRU(3, dropout=0.2))),
    "stacked cells, stateful": lambda: Holding(
        model=keras.Sequential(
            [
                keras.Input((STEPS, FEATURES), batch_size=2),
                layers.RNN([layers.LSTMCell(2), layers.GRUCell(3)], stateful=True),
            ]
        )
    ),
    "attention, Adafactor": _attention,
    "images": _image,
    "spectral normalization": lambda: _with(
        keras.optimizers.Ftrl(),
        keras.Sequential([keras.Input((FEATURES,)), layers.SpectralNormalization(layers.Dense(3))]),
    ),
    "time distributed": lambda: _sequence(
        layers.TimeDistributed(layers.Dense(3)), layers.UnitNormalization()
    ),
    "quantized, int8": lambda: _quantized("int8"),
    "quantized, float8": lambda: _quantized("float8"),
    "LoRA, Lion": _lora,
    "Muon": lambda: _with(keras.optimizers.Muon(), _mlp()),
    "Lamb": lambda: _with(keras.optimizers.Lamb(), _mlp()),
    "loss scale, mixed precision": lambda: _mixed("mixed_float16"),
    "float16 weights": lambda: Holding(
        model=keras.Sequential([keras.Input((FEATURES,)), layers.Dense(3, dtype="float16")])
    ),
    "bfloat16 weights": lambda: Holding(
        model=keras.Sequential([keras.Input((FEATURES,)), layers.Dense(3, dtype="bfloat16")])
    ),
    "normalization that adapts": lambda: Holding(
        layer=_built(layers.Normalization()), other=_built(layers.BatchNormalization())
    ),
    "seeds and metrics in a layer": lambda: Holding(layer=_built(Drawing())),
    "metrics": _metrics,
    "variables of all dtypes": _variables,
    "steps within steps": _step_in_step,
    "compiled model": _compiled,
}


def variables_of(step: Holding) -> list[Any]:
    """Return every variable of a zoo's Step, found without the library that is under test."""
    found: dict[int, Any] = {}
    for variable in _variables_in(vars(step), set()):
        found.setdefault(id(variable), variable)
    return list(found.values())


def _variables_in(value: Any, seen: set[int]) -> Iterator[Any]:
    if isinstance(value, keras.Variable):
        yield value
    elif isinstance(value, keras.random.SeedGenerator):
        yield value.state
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _variables_in(item, seen)
    elif isinstance(value, Holding) and id(value) not in seen:
        seen.add(id(value))
        yield from _variables_in(vars(value), seen)
    elif isinstance(value, keras.optimizers.Optimizer | keras.Metric):
        yield from value.variables
    elif isinstance(value, keras.Layer):
        yield from value.variables
        for layer in getattr(value, "layers", ()):
            # Which Keras does not list.
            yield from keras.tree.flatten(getattr(layer, "states", None) or ())
        for metric in value.metrics:
            yield from metric.variables


def scramble(step: Holding, seed: int) -> None:
    """Give every variable other values of its dtype."""
    random = np.random.default_rng(seed)
    for variable in variables_of(step):
        dtype = keras.backend.standardize_dtype(variable.dtype)
        shape = tuple(variable.shape)
        if dtype == "bool":
            value = random.random(shape) < 0.5
        elif "int" in dtype:
            value = random.integers(0, 100, shape)
        else:
            value = random.normal(size=shape)
        variable.assign(np.asarray(value).astype(dtype))


def bits_of(step: Holding) -> list[tuple[tuple[int, ...], bytes]]:
    """Return shape and bits of every variable."""
    values = [ops.convert_to_numpy(ops.convert_to_tensor(v)) for v in variables_of(step)]
    return [(value.shape, np.asarray(value).tobytes()) for value in values]
