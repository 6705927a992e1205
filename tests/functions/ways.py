"""Ways in which functions reach their objects: small programs, each as somebody writes it.

A program is the text of a module that defines `train_step`; `# file: NAME` begins another file
beside it. `from tests.functions.kit import *` stands above each. What must be tracked follows, as
the path and the expression that gives the object.
"""

FOUND: dict[str, tuple[str, dict[str, str]]] = {}
REFUSED: dict[str, tuple[str, str]] = {}

BOTH = {"model": "model", "optimizer": "optimizer"}


def found(name: str, source: str, **paths: str) -> None:
    """Add a program; a path is written with `__` for `/`."""
    assert name not in FOUND
    FOUND[name] = (
        source,
        {p if "/" in p else p.replace("__", "/"): value for p, value in paths.items()},
    )


def refused(name: str, source: str, hidden: str) -> None:
    """Add a program that writes what cannot be found: the variables of `hidden`."""
    assert name not in REFUSED
    REFUSED[name] = source, hidden


# Names around the function.

found(
    "globals",
    """
model, optimizer, seen = net(), sgd(), mean()

def train_step(x, y):
    seen.update_state(learn(model, optimizer, x, y))
""",
    **BOTH,
    seen="seen",
)
found(
    "a closure",
    """
def make(model, optimizer):
    def train_step(x, y):
        return learn(model, optimizer, x, y)
    return train_step

model, optimizer = net(), sgd()
train_step = make(model, optimizer)
""",
    **BOTH,
)
found(
    "a closure two functions deep",
    """
def make(net_, **options):
    def with_optimizer(optimizer):
        def train_step(x, y):
            def objective():
                return learn(net_, optimizer, x, y)
            return objective()
        return train_step
    return with_optimizer

model, optimizer = net(), sgd()
train_step = make(model)(optimizer)
""",
    net_="model",
    optimizer="optimizer",
)
found(
    "cells that are filled later",
    """
def make():
    def train_step(x, y):
        return learn(model, optimizer, x, y)
    model, optimizer = net(), sgd()
    return train_step, model, optimizer

train_step, model, optimizer = make()
""",
    **BOTH,
)
found(
    "nonlocal beside the objects",
    """
def make(model, optimizer):
    calls = 0
    def train_step(x, y):
        nonlocal calls
        calls += 1
        return learn(model, optimizer, x, y)
    return train_step

model, optimizer = net(), sgd()
train_step = make(model, optimizer)
""",
    **BOTH,
    calls="0",
)
found(
    "defaults",
    """
model, optimizer, seen = net(), sgd(), mean()

def train_step(x, y, model=model, *, optimizer=optimizer, metric=seen):
    metric.update_state(learn(model, optimizer, x, y))
""",
    **BOTH,
    metric="seen",
)
found(
    "defaults of a lambda in a loop",
    """
nets = [net(), net()]
optimizer = sgd()
steps = [lambda x, y, net_=each: learn(net_, optimizer, x, y) for each in nets]
train_step = steps[1]
""",
    net_="nets[1]",
    optimizer="optimizer",
)
found(
    "a walrus, a conditional and star-args",
    """
model, ema, optimizer = net(), net(), sgd()
use_ema = False

def train_step(*batch, **options):
    x, y = batch
    if (chosen := ema if use_ema else model) is None:
        return None
    return learn(chosen, optimizer, x, y)
""",
    **BOTH,
    ema="ema",
    use_ema="False",
)
found(
    "match statements",
    """
from dataclasses import dataclass

@dataclass
class Job:
    net: object
    kind: str = "sgd"

job, optimizer, adam = Job(net()), sgd(), keras.optimizers.Adam()

def train_step(x, y):
    match job:
        case Job(net=model, kind="sgd"):
            return learn(model, optimizer, x, y)
        case Job(net=model):
            return learn(model, adam, x, y)
""",
    job__net="job.net",
    optimizer="optimizer",
    adam="adam",
)
found(
    "comprehensions and generator expressions",
    """
parts, optimizer = [net(), net()], sgd()
losses = [mean("a"), mean("b")]

def train_step(x, y):
    total = sum(part(x) for part in parts)
    values = {i: m.update_state(total) for i, m in enumerate(losses)}
    return learn(parts[0], optimizer, x, y)
""",
    parts__0="parts[0]",
    parts__1="parts[1]",
    losses__0="losses[0]",
    losses__1="losses[1]",
    optimizer="optimizer",
)
found(
    "functions inside functions, and recursion",
    """
model, optimizer, seen = net(), sgd(), mean()

def count(n):
    if n:
        seen.update_state(n)
        count(n - 1)

def train_step(x, y):
    def inner():
        def innermost():
            count(2)
            return learn(model, optimizer, x, y)
        return innermost()
    return inner()
""",
    **BOTH,
    seen="seen",
)

# Functions bound to their arguments.

found(
    "partial by keyword",
    """
from functools import partial

def one(x, y, net_, optimizer):
    return learn(net_, optimizer, x, y)

model, optimizer = net(), sgd()
train_step = partial(one, net_=model, optimizer=optimizer)
""",
    net_="model",
    optimizer="optimizer",
)
found(
    "partial by position, of a partial",
    """
from functools import partial

def one(net_, optimizer, x, y):
    return learn(net_, optimizer, x, y)

model, optimizer = net(), sgd()
train_step = partial(partial(one, model), optimizer)
""",
    net_="model",
    optimizer="optimizer",
)
found(
    "partial into *args and **kwargs",
    """
from functools import partial

def one(*args, **kwargs):
    model, x, y = args
    return learn(model, kwargs["optimizer"], x, y)

model, optimizer = net(), sgd()
train_step = partial(one, model, optimizer=optimizer)
""",
    **{"0": "model", "optimizer": "optimizer"},
)
found(
    "a partial of the model",
    """
from functools import partial

model, optimizer = net(), sgd()
forward = partial(model, training=True)

def train_step(x, y):
    forward(x)
    return learn(forward.func, optimizer, x, y)
""",
    forward__func="model",
    optimizer="optimizer",
)
found(
    "a partial of a helper",
    """
from functools import partial

model, optimizer = net(), sgd()
update = partial(learn, model, optimizer=optimizer)

def train_step(x, y):
    return update(x=x, y=y)
""",
    **BOTH,
)
found(
    "a lambda",
    """
model, optimizer = net(), sgd()
train_step = lambda x, y: learn(model, optimizer, x, y)
""",
    **BOTH,
)

# Objects and their methods.

found(
    "a method",
    """
class Trainer:
    def __init__(self):
        self.model, self.optimizer = net(), sgd()
        self.seen = {"loss": mean()}

    def train_step(self, x, y):
        self.seen["loss"].update_state(learn(self.model, self.optimizer, x, y))

trainer = Trainer()
train_step = trainer.train_step
""",
    self__model="trainer.model",
    self__optimizer="trainer.optimizer",
    self__seen__loss="trainer.seen['loss']",
)
found(
    "a method, by a lambda",
    """
class Trainer:
    def __init__(self):
        self.model, self.optimizer = net(), sgd()

    def step(self, x, y):
        return learn(self.model, self.optimizer, x, y)

trainer = Trainer()
train_step = lambda x, y: trainer.step(x, y)
""",
    trainer__model="trainer.model",
    trainer__optimizer="trainer.optimizer",
)
found(
    "a dataclass, and what its constructor adds",
    """
from dataclasses import dataclass, field

@dataclass
class Trainer:
    model: keras.Model = field(default_factory=net)
    lr: float = 0.1

    def __post_init__(self):
        self.optimizer = keras.optimizers.SGD(self.lr)

    def train_step(self, x, y):
        return learn(self.model, self.optimizer, x, y)

trainer = Trainer()
train_step = trainer.train_step
""",
    self__model="trainer.model",
    self__optimizer="trainer.optimizer",
)
found(
    "slots",
    """
class Trainer:
    __slots__ = ("model", "optimizer")

    def train_step(self, x, y):
        return learn(self.model, self.optimizer, x, y)

trainer = Trainer()
trainer.model, trainer.optimizer = net(), sgd()
train_step = trainer.train_step
""",
    self__model="trainer.model",
    self__optimizer="trainer.optimizer",
)
found(
    "inherited methods and super()",
    """
critic, c_optimizer = net(), sgd()

class Base:
    def __init__(self):
        self.model, self.optimizer = net(), sgd()

    def train_step(self, x, y):
        learn(critic, c_optimizer, x, y)
        return self.update(x, y)

class Trainer(Base):
    def train_step(self, x, y):
        return super().train_step(x, y)

    def update(self, x, y):
        return learn(self.model, self.optimizer, x, y)

trainer = Trainer()
train_step = trainer.train_step
""",
    self__model="trainer.model",
    self__optimizer="trainer.optimizer",
    critic="critic",
    c_optimizer="c_optimizer",
)
found(
    "static methods and class methods",
    """
class Trainer:
    model, optimizer = net(), sgd()

    @staticmethod
    def update(x, y):
        return learn(Trainer.model, Trainer.optimizer, x, y)

    @classmethod
    def train_step(cls, x, y):
        return cls.update(x, y)

train_step = Trainer.train_step
""",
    cls__model="Trainer.model",
    cls__optimizer="Trainer.optimizer",
)
found(
    "class attributes, by an object and by its type",
    """
class Trainer:
    model = net()
    optimizer = sgd()

    def train_step(self, x, y):
        return learn(self.model, type(self).optimizer, x, y)

train_step = Trainer().train_step
""",
    self__model="Trainer.model",
    self__optimizer="Trainer.optimizer",
)
found(
    "a class as a namespace, under another name",
    """
class State:
    model, optimizer = net(), sgd()

def train_step(x, y):
    state = State
    return learn(state.model, state.optimizer, x, y)
""",
    State__model="State.model",
    State__optimizer="State.optimizer",
)
found(
    "the only object of a class",
    """
class Trainer:
    _instance = None

    @classmethod
    def instance(cls):
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    def __init__(self):
        self.model, self.optimizer = net(), sgd()

trainer = Trainer.instance()

def train_step(x, y):
    it = Trainer.instance()
    return learn(it.model, it.optimizer, x, y)
""",
    Trainer___instance__model="trainer.model",
    Trainer___instance__optimizer="trainer.optimizer",
)
found(
    "an object that is called",
    """
class Update:
    def __init__(self, model):
        self.model, self.optimizer = model, sgd()

    def __call__(self, x, y):
        seen.update_state(0.0)
        return learn(self.model, self.optimizer, x, y)

model, seen = net(), mean()
update = Update(model)

def train_step(x, y):
    return update(x, y)
""",
    update__model="model",
    update__optimizer="update.optimizer",
    seen="seen",
)
found(
    "an object that is the step",
    """
class Update:
    def __init__(self):
        self.model, self.optimizer = net(), sgd()

    def __call__(self, x, y):
        seen.update_state(0.0)
        return learn(self.model, self.optimizer, x, y)

seen = mean()
train_step = Update()
""",
    self__model="train_step.model",
    self__optimizer="train_step.optimizer",
    seen="seen",
)
found(
    "properties",
    """
class Trainer:
    def __init__(self):
        self._nets, self.optimizer = [net()], sgd()

    @property
    def model(self):
        seen.update_state(0.0)
        return self._nets[-1]

seen = mean()
trainer = Trainer()

def train_step(x, y):
    return learn(trainer.model, trainer.optimizer, x, y)
""",
    trainer___nets__0="trainer.model",
    trainer__optimizer="trainer.optimizer",
    seen="seen",
)
found(
    "a cached property",
    """
from functools import cached_property

class Trainer:
    @cached_property
    def model(self):
        return shared

    optimizer = sgd()

shared = net()
trainer = Trainer()

def train_step(x, y):
    return learn(trainer.model, trainer.optimizer, x, y)
""",
    shared="shared",
    trainer__optimizer="trainer.optimizer",
)
found(
    "a descriptor",
    """
class Held:
    def __init__(self, value):
        self.value = value

    def __get__(self, owner, kind=None):
        return self.value

class Trainer:
    model, optimizer = Held(net()), Held(sgd())

trainer = Trainer()

def train_step(x, y):
    return learn(trainer.model, trainer.optimizer, x, y)
""",
    trainer__model__value="trainer.model",
    trainer__optimizer__value="trainer.optimizer",
)
found(
    "attributes of a function",
    """
def train_step(x, y):
    return learn(train_step.model, train_step.optimizer, x, y)

train_step.model, train_step.optimizer = net(), sgd()
""",
    train_step__model="train_step.model",
    train_step__optimizer="train_step.optimizer",
)
found(
    "an object of objects",
    """
class Nets:
    def __init__(self):
        self.actor, self.critic = net(), net()

class Trainer:
    def __init__(self):
        self.nets = Nets()
        self.optimizers = {"actor": sgd(), "critic": sgd()}

    def one(self, name, x, y):
        return learn(getattr(self.nets, name), self.optimizers[name], x, y)

trainer = Trainer()

def train_step(x, y):
    return [trainer.one(name, x, y) for name in ("actor", "critic")][0]
""",
    trainer__nets__actor="trainer.nets.actor",
    trainer__nets__critic="trainer.nets.critic",
    trainer__optimizers__actor="trainer.optimizers['actor']",
    trainer__optimizers__critic="trainer.optimizers['critic']",
)
found(
    "operator.attrgetter and methodcaller",
    """
from operator import attrgetter, methodcaller

class Trainer:
    def __init__(self):
        self.model = net()

    def update(self, x, y):
        return learn(attrgetter("model")(self), optimizer, x, y)

optimizer = sgd()
trainer = Trainer()

def train_step(x, y):
    return methodcaller("update", x, y)(trainer)
""",
    trainer__model="trainer.model",
    optimizer="optimizer",
)
found(
    "getattr by a constant name",
    """
import sys

class Trainer:
    def update_fast(self, x, y):
        return learn(model, optimizer, x, y)

model, optimizer = net(), sgd()
trainer = Trainer()

def train_step(x, y):
    return getattr(trainer, "update_fast")(x, y)
""",
    **BOTH,
)
found(
    "a module and a name",
    """
import states

model, optimizer = states.model, states.optimizer

def train_step(x, y):
    return learn(getattr(states, "model"), vars(states)["optimizer"], x, y)

# file: states.py
model, optimizer = net(), sgd()
""",
    states__model="model",
    states__optimizer="optimizer",
)

# Decorators.

found(
    "own decorators, with wraps and without",
    """
import functools

def counted(function):
    @functools.wraps(function)
    def wrapper(*args):
        seen.update_state(1.0)
        return function(*args)
    return wrapper

def plain(function):
    return lambda *args: function(*args)

def scaled(by):
    def decorator(function):
        def wrapper(*args):
            return by * function(*args)
        return wrapper
    return decorator

model, optimizer, seen = net(), sgd(), mean()

@counted
@plain
@scaled(by=2.0)
def train_step(x, y):
    return learn(model, optimizer, x, y)
""",
    **BOTH,
    seen="seen",
    by="2.0",
)
found(
    "a class as a decorator",
    """
import functools

class Timed:
    def __init__(self, function):
        self.function = function
        functools.update_wrapper(self, function)

    def __call__(self, *args):
        seen.update_state(1.0)
        return self.function(*args)

model, optimizer, seen = net(), sgd(), mean()

@Timed
def train_step(x, y):
    return learn(model, optimizer, x, y)
""",
    **BOTH,
    seen="seen",
)
found(
    "functools.lru_cache and cache",
    """
import functools

model, optimizer = net(), sgd()

@functools.lru_cache(maxsize=None)
def get_model():
    return model

@functools.cache
def get_optimizer(name):
    return optimizer

def train_step(x, y):
    return learn(get_model(), get_optimizer("sgd"), x, y)
""",
    **BOTH,
)
found(
    "functools.singledispatch",
    """
import functools

model, optimizer, other = net(), sgd(), mean("other")

@functools.singledispatch
def update(x, y):
    other.update_state(0.0)

@update.register
def _(x: object, y):
    return learn(model, optimizer, x, y)

def train_step(x, y):
    return update(x, y)
""",
    **BOTH,
    other="other",
)
found(
    "functools.singledispatchmethod",
    """
import functools

model, optimizer, other = net(), sgd(), mean("other")

class Trainer:
    @functools.singledispatchmethod
    def update(self, x, y):
        other.update_state(0.0)

    @update.register
    def _(self, x: object, y):
        return learn(model, optimizer, x, y)

trainer = Trainer()

def train_step(x, y):
    return trainer.update(x, y)
""",
    **BOTH,
    other="other",
)
found(
    "contextlib.contextmanager",
    """
import contextlib

model, optimizer, seen = net(), sgd(), mean()

@contextlib.contextmanager
def measured():
    yield
    seen.update_state(1.0)

def train_step(x, y):
    with measured():
        return learn(model, optimizer, x, y)
""",
    **BOTH,
    seen="seen",
)
found(
    "an own context manager",
    """
class Measured:
    def __enter__(self):
        return net_
    def __exit__(self, *exception):
        seen.update_state(1.0)

net_, optimizer, seen = net(), sgd(), mean()

def train_step(x, y):
    with Measured() as model:
        return learn(model, optimizer, x, y)
""",
    net_="net_",
    optimizer="optimizer",
    seen="seen",
)

# TensorFlow's own ways.

found(
    "tf.function, as a decorator and on a nested helper",
    """
import tensorflow as tf

model, optimizer, seen = net(), sgd(), mean()

@tf.function(reduce_retracing=True)
def measure(loss):
    seen.update_state(loss)

@tf.function
def train_step(x, y):
    loss = learn(model, optimizer, x, y)
    measure(loss)
    return loss
""",
    **BOTH,
    seen="seen",
)
found(
    "tf.function, called",
    """
import tensorflow as tf

def one(x, y):
    return learn(model, optimizer, x, y)

model, optimizer = net(), sgd()
train_step = tf.function(one, jit_compile=False)
""",
    **BOTH,
)
found(
    "tf.function on methods",
    """
import tensorflow as tf

class Trainer:
    def __init__(self):
        self.model, self.optimizer, self.seen = net(), sgd(), mean()

    @tf.function
    def measure(self, loss):
        self.seen.update_state(loss)

    @tf.function
    def train_step(self, x, y):
        loss = learn(self.model, self.optimizer, x, y)
        self.measure(loss)
        return loss

trainer = Trainer()
train_step = trainer.train_step
""",
    self__model="trainer.model",
    self__optimizer="trainer.optimizer",
    self__seen="trainer.seen",
)
found(
    "tf.function of a method, kept on the object",
    """
import tensorflow as tf

class Trainer:
    def __init__(self):
        self.model, self.optimizer = net(), sgd()
        self.step = tf.function(self._step)

    def _step(self, x, y):
        return learn(self.model, self.optimizer, x, y)

trainer = Trainer()

def train_step(x, y):
    return trainer.step(x, y)
""",
    trainer__model="trainer.model",
    trainer__optimizer="trainer.optimizer",
)
found(
    "tf.function of a partial",
    """
import functools
import tensorflow as tf

def one(x, y, net_, optimizer):
    return learn(net_, optimizer, x, y)

model, optimizer = net(), sgd()
train_step = tf.function(functools.partial(one, net_=model, optimizer=optimizer))
""",
    net_="model",
    optimizer="optimizer",
)
found(
    "tf.function of an object that is called",
    """
import tensorflow as tf

class Update:
    def __init__(self):
        self.model, self.optimizer = net(), sgd()

    def __call__(self, x, y):
        return learn(self.model, self.optimizer, x, y)

update = Update()
train_step = tf.function(update)
""",
    self__model="update.model",
    self__optimizer="update.optimizer",
)
found(
    "tf.function with an input signature, as a helper too",
    """
import tensorflow as tf

model, optimizer, seen = net(), sgd(), mean()

@tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
def measure(loss):
    seen.update_state(loss)

@tf.function(input_signature=[tf.TensorSpec([None, 2]), tf.TensorSpec([None, 1])])
def train_step(x, y):
    loss = learn(model, optimizer, x, y)
    measure(loss)
    return loss
""",
    **BOTH,
    seen="seen",
)
found(
    "tf.Module",
    """
import tensorflow as tf

class Linear(tf.Module):
    def __init__(self):
        super().__init__()
        self.w = tf.Variable(tf.zeros((2, 1)), name="w")

    @tf.function
    def __call__(self, x):
        return x @ self.w

linear = Linear()

def train_step(x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((linear(x) - y) ** 2)
    linear.w.assign_sub(0.1 * tape.gradient(loss, linear.w))
    return loss
""",
    linear__w="linear.w",
)
found(
    "tf.custom_gradient",
    """
import tensorflow as tf

model, optimizer, seen = net(), sgd(), mean()

@tf.custom_gradient
def clipped(y):
    seen.update_state(1.0)
    def backward(upstream):
        return tf.clip_by_norm(upstream, 1.0)
    return y, backward

def train_step(x, y):
    return learn(model, optimizer, x, clipped(y))
""",
    **BOTH,
    seen="seen",
)
found(
    "tf.recompute_grad of a function",
    """
import tensorflow as tf

model, optimizer = net(), sgd()

@tf.recompute_grad
def forward(x):
    return model(x)

def train_step(x, y):
    forward(x)
    return learn(model, optimizer, x, y)
""",
    **BOTH,
)
found(
    "tf.recompute_grad of the model",
    """
import tensorflow as tf

body, head, optimizer = net(), net(), sgd()
forward = tf.recompute_grad(body)

def train_step(x, y):
    forward(x)
    return learn(head, optimizer, x, y)
""",
    head="head",
    forward___f__f="body",
    optimizer="optimizer",
)
found(
    "variables and generators of TensorFlow",
    """
import tensorflow as tf

count = tf.Variable(0, trainable=False)
noise = tf.random.Generator.from_seed(1)
model, optimizer = net(), sgd()

def train_step(x, y):
    count.assign_add(1)
    return learn(model, optimizer, x + noise.normal(tf.shape(x)), y)
""",
    **BOTH,
    count="count",
    noise="noise.state",
)

# Containers.

found(
    "lists, tuples and dicts",
    """
nets, optimizers = [net(), net()], (sgd(), sgd())
metrics = {"loss": mean(), "parts": {"a": mean("a")}}

def train_step(x, y):
    for model, optimizer in zip(nets, optimizers):
        loss = learn(model, optimizer, x, y)
    metrics["loss"].update_state(loss)
    metrics["parts"]["a"].update_state(loss)
""",
    nets__0="nets[0]",
    nets__1="nets[1]",
    optimizers__0="optimizers[0]",
    optimizers__1="optimizers[1]",
    metrics__loss="metrics['loss']",
    metrics__parts__a="metrics['parts']['a']",
)
found(
    "OrderedDict, defaultdict, ChainMap and MappingProxyType",
    """
from collections import ChainMap, OrderedDict, defaultdict
from types import MappingProxyType

nets = OrderedDict(gen=net())
seen = defaultdict(mean)
seen["a"]
optimizers = MappingProxyType({"gen": sgd()})
everything = ChainMap({"other": net()}, nets)

def train_step(x, y):
    seen["a"].update_state(nets["gen"](x))
    return learn(everything["other"], optimizers["gen"], x, y)
""",
    nets__gen="nets['gen']",
    seen__a="seen['a']",
    optimizers__gen="optimizers['gen']",
    everything__other="everything['other']",
)
found(
    "namedtuple, SimpleNamespace, deque and a record",
    """
from collections import deque, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

@dataclass(frozen=True, slots=True)
class Record:
    optimizer: object

State = namedtuple("State", "model seen")
state = State(net(), mean())
space = SimpleNamespace(teacher=net(), loss_fn=lambda: counted.update_state(1.0))
record, queue, counted = Record(sgd()), deque([net()]), mean("counted")

def train_step(x, y):
    space.loss_fn()
    state.seen.update_state(space.teacher(x) + queue[0](x))
    return learn(state.model, record.optimizer, x, y)
""",
    state__0="state.model",
    state__1="state.seen",
    space__teacher="space.teacher",
    record__optimizer="record.optimizer",
    queue__0="queue[0]",
    counted="counted",
)
found(
    "own containers",
    """
class Registry(dict):
    def get_net(self, name):
        seen.update_state(1.0)
        return self[name]

class Bag:
    def __init__(self, *items):
        self._items = [*items]
    def __getitem__(self, index):
        counted.update_state(1.0)
        return self._items[index]

registry, bag, seen, counted = Registry(gen=net()), Bag(sgd()), mean(), mean("counted")

def train_step(x, y):
    return learn(registry.get_net("gen"), bag[0], x, y)
""",
    registry__gen="registry['gen']",
    bag___items__0="bag._items[0]",
    seen="seen",
    counted="counted",
)
found(
    "lists and dicts of functions",
    """
model, optimizer = net(), sgd()
a, b = mean("a"), mean("b")

def first(loss):
    a.update_state(loss)

after = [first, lambda loss: b.update_state(loss)]
updates = {"sgd": lambda x, y: learn(model, optimizer, x, y)}

def train_step(x, y):
    loss = updates["sgd"](x, y)
    for each in after:
        each(loss)
    return loss
""",
    **BOTH,
    a="a",
    b="b",
)
found(
    "a registry that is filled by a decorator",
    """
STEPS = {}

def register(name):
    def decorator(function):
        STEPS[name] = function
        return function
    return decorator

@register("gen")
def _gen(x, y):
    return learn(model, optimizer, x, y)

model, optimizer = net(), sgd()
find = STEPS.get

def train_step(x, y):
    return find("gen")(x, y)
""",
    **BOTH,
)
found(
    "dicts by tuples, by enum members and by models",
    """
import enum

class Part(enum.Enum):
    GEN = "gen"

gen = net()
by_tuple, by_part, by_model = {("gen", 0): sgd()}, {Part.GEN: mean()}, {gen: net()}

def train_step(x, y):
    by_part[Part.GEN].update_state(by_model[gen](x))
    return learn(gen, by_tuple["gen", 0], x, y)
""",
    **{
        "gen": "gen",
        "by_tuple/('gen', 0)": "by_tuple['gen', 0]",
        "by_part/Part.GEN": "by_part[Part.GEN]",
        "by_model/0": "by_model[gen]",
    },
)
found(
    "values of an enum",
    """
import enum

class Nets(enum.Enum):
    GEN = net()
    DISC = net()

optimizer = sgd()

def train_step(x, y):
    for each in Nets:
        each.value(x)
    return learn(Nets.GEN.value, optimizer, x, y)
""",
    Nets__GEN___value_="Nets.GEN.value",
    Nets__DISC___value_="Nets.DISC.value",
    optimizer="optimizer",
)

# Modules.

found(
    "attributes of another module",
    """
import states
import states as other_name

model, optimizer = states.model, states.optimizer

def train_step(x, y):
    return learn(states.model, other_name.optimizer, x, y)

# file: states.py
model, optimizer = net(), sgd()
""",
    states__model="model",
    other_name__optimizer="optimizer",
)
found(
    "names from another module",
    """
from states import model, optimizer as opt

def train_step(x, y):
    return learn(model, opt, x, y)

# file: states.py
model, optimizer = net(), sgd()
""",
    model="model",
    opt="opt",
)
found(
    "a helper of another module, over its own globals",
    """
import updates

model, optimizer, seen = updates.model, updates.optimizer, updates._seen

def train_step(x, y):
    return updates.update(x, y)

# file: updates.py
model, optimizer, _seen = net(), sgd(), mean()

def update(x, y):
    _count()
    return learn(model, optimizer, x, y)

def _count():
    _seen.update_state(1.0)
""",
    **BOTH,
    _seen="seen",
)
found(
    "imports inside the function",
    """
import nets, opts.all, seen
gen, disc, optimizer, metric = nets.gen, nets.disc, opts.all.sgd_, seen.metric

def train_step(x, y):
    import nets
    import opts.all
    import seen as measured
    from nets import disc as d
    measured.metric.update_state(d(x))
    def inner():
        return learn(nets.gen, opts.all.sgd_, x, y)
    return inner()

# file: nets.py
gen, disc = net(), net()
# file: opts/__init__.py
# file: opts/all.py
sgd_ = sgd()
# file: seen.py
metric = mean()
""",
    nets__gen="gen",
    d="disc",
    opts__all__sgd_="optimizer",
    measured__metric="metric",
)
found(
    "a package, its __init__ and relative imports",
    """
import project
from project.training import train_step

model, optimizer = project.model, project.opts.optimizer

# file: project/__init__.py
from .nets import model
from . import opts
# file: project/nets.py
model = net()
# file: project/opts.py
optimizer = sgd()
# file: project/training.py
def train_step(x, y):
    from . import opts
    from .nets import model as net_
    return learn(net_, opts.optimizer, x, y)
""",
    net_="model",
    opts__optimizer="optimizer",
)
found(
    "one name in two modules",
    """
import critic

critic_model, critic_optimizer = critic.model, critic.optimizer
model, optimizer = net(), sgd()

def train_step(x, y):
    critic.update(x, y)
    return learn(model, optimizer, x, y)

# file: critic.py
model, optimizer = net(), sgd()

def update(x, y):
    return learn(model, optimizer, x, y)
""",
    **BOTH,
    update__model="critic_model",
    update__optimizer="critic_optimizer",
)
found(
    "a function made by exec",
    """
model, optimizer = net(), sgd()
exec('''
def train_step(x, y):
    return learn(model, optimizer, x, y)
''')
""",
    **BOTH,
)
found(
    "classes made by exec, in a namespace without a module",
    """
space = {"net": net, "sgd": sgd, "learn": learn, "mean": mean}
exec('''
class Trainer:
    def __init__(self):
        self.model, self.optimizer = net(), sgd()
    def train_step(self, x, y):
        seen.update_state(1.0)
        return learn(self.model, self.optimizer, x, y)
seen = mean()
trainer = Trainer()
''', space)
trainer, seen = space["trainer"], space["seen"]
train_step = trainer.train_step
""",
    self__model="trainer.model",
    self__optimizer="trainer.optimizer",
    seen="seen",
)

# Keras objects that run the user's code.

found(
    "a method of a model, with a global teacher",
    """
class Student(keras.Model):
    def __init__(self):
        super().__init__()
        self.head = keras.layers.Dense(1)

    def call(self, x):
        return self.head(x)

    def compute_my_loss(self, x, y):
        seen.update_state(1.0)
        return teacher(x)

student, teacher, optimizer, seen = Student(), net(), sgd(), mean()
student(keras.ops.zeros((1, 2)))

def train_step(x, y):
    return learn(student, optimizer, x, student.compute_my_loss(x, y))
""",
    student="student",
    teacher="teacher",
    optimizer="optimizer",
    seen="seen",
)
found(
    "the step is a method of the model",
    """
class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.body = net()
        self.seen = mean()

    def call(self, x, training=False):
        return self.body(x, training=training)

    def one(self, x, y):
        self.seen.update_state(1.0)
        return learn(self, optimizer, x, y)

model, optimizer = Net(), sgd()
train_step = model.one
""",
    self="model",
    self__seen="model.seen",
    optimizer="optimizer",
)
found(
    "a layer deep in a model, with a global metric",
    """
class Watched(keras.layers.Layer):
    def call(self, x):
        seen.update_state(1.0)
        return self.helper(x)

    def helper(self, x):
        return x * scale

seen, scale = mean(), keras.Variable(1.0, trainable=False)
model, optimizer = net(keras.Sequential([Watched()])), sgd()

def train_step(x, y):
    return learn(model, optimizer, x, y)
""",
    **BOTH,
    seen="seen",
    scale="scale",
)
found(
    "functions inside layers and metrics",
    """
def gate(x):
    seen.update_state(1.0)
    return x

def distance(y, y_pred):
    counted.update_state(1.0)
    return y - y_pred

seen, counted = mean(), mean("counted")
scaled = keras.layers.Lambda(lambda x: x * scale, output_shape=(2,))
model = net(scaled, keras.layers.Dense(2, activation=gate))
scale = keras.Variable(1.0, trainable=False)
metric = keras.metrics.MeanMetricWrapper(distance, name="distance")
optimizer = sgd()

def train_step(x, y):
    metric.update_state(y, model(x))
    return learn(model, optimizer, x, y)
""",
    **BOTH,
    metric="metric",
    seen="seen",
    counted="counted",
    scale="scale",
)
found(
    "a loss that holds a model",
    """
class Perceptual(keras.losses.Loss):
    def __init__(self):
        super().__init__()
        self.features = keras.layers.Dense(3)
        self.features.build((None, 1))

    def call(self, y, y_pred):
        seen.update_state(1.0)
        return (self.features(y_pred) - self.features(y)) ** 2

model, optimizer, seen = net(), sgd(), mean()
loss_fn = Perceptual()

def train_step(x, y):
    return learn(model, optimizer, x, y, loss_fn)
""",
    **BOTH,
    loss_fn__features="loss_fn.features",
    seen="seen",
)
found(
    "a metric that holds a model",
    """
class Fid(keras.metrics.Mean):
    def __init__(self):
        super().__init__(name="fid")
        self.features = net()

    def update_state(self, x):
        seen.update_state(1.0)
        super().update_state(self.features(x))

model, optimizer, seen = net(), sgd(), mean()
fid = Fid()

def train_step(x, y):
    fid.update_state(x)
    return learn(model, optimizer, x, y)
""",
    **BOTH,
    fid="fid",
    fid__features="fid.features",
    seen="seen",
)
found(
    "a schedule that holds a variable",
    """
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self):
        self.scale = keras.Variable(0.1, trainable=False)

    def __call__(self, step):
        return self.scale * damping

schedule = Schedule()
damping = keras.Variable(1.0, trainable=False)
model, optimizer = net(), keras.optimizers.SGD(schedule)

def train_step(x, y):
    return learn(model, optimizer, x, y)
""",
    **BOTH,
    optimizer___learning_rate__scale="schedule.scale",
    damping="damping",
)
found(
    "an own optimizer around another",
    """
class Clipped:
    def __init__(self, inner):
        self.inner = inner

    def apply_gradients(self, pairs):
        seen.update_state(1.0)
        return self.inner.apply_gradients(pairs)

model, optimizer, seen = net(), Clipped(sgd()), mean()

def train_step(x, y):
    return learn(model, optimizer, x, y)
""",
    model="model",
    optimizer__inner="optimizer.inner",
    seen="seen",
)
found(
    "the optimizer of a compiled model",
    """
model = net()
model.compile(optimizer=sgd(), loss="mse")

def train_step(x, y):
    return learn(model, model.optimizer, x, y)
""",
    model="model",
    model__optimizer="model.optimizer",
)
found(
    "objects set on a model",
    """
model = net()
model.teacher, model.tuner, model.average = net(), sgd(), mean()

def train_step(x, y):
    model.average.update_state(model.teacher(x))
    return learn(model, model.tuner, x, y)
""",
    model="model",
    model__tuner="model.tuner",
    model__seen="model.average",
)
found(
    "containers set on a model",
    """
class Student(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [keras.layers.Dense(2), keras.layers.Dense(1)]
        self.optimizers = {"all": sgd()}
        self.marks = {"a": mean("a")}

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return x

student = Student()
student(keras.ops.zeros((1, 2)))

def train_step(x, y):
    loss = learn(student, student.optimizers["all"], x, y)
    student.marks["a"].update_state(loss)
""",
    student="student",
    student__optimizers__all="student.optimizers['all']",
    student__a="student.marks['a']",
)
found(
    "methods of Keras, under own names",
    """
model, optimizer, metric = net(), sgd(), mean()
forward, apply, update = model.call, optimizer.apply_gradients, metric.update_state

class Optimizer:
    apply_gradients = staticmethod(apply)

def train_step(x, y):
    forward(x)
    update(learn(forward.__self__, Optimizer, x, y))
""",
    **{"forward/__self__": "model", "update/__self__": "metric"},
    **{"Optimizer/apply_gradients/__self__": "optimizer"},
)
found(
    "seeds and variables of Keras",
    """
seed = keras.random.SeedGenerator(3)
count = keras.Variable(0, dtype="int32", trainable=False)
model, optimizer = net(), sgd()

def train_step(x, y):
    count.assign_add(1)
    return learn(model, optimizer, x + keras.random.normal((2,), seed=seed), y)
""",
    **BOTH,
    seed="seed.state",
    count="count",
)
found(
    "a Step inside a function",
    """
import perigee as pg

class Inner(pg.Step):
    def __init__(self):
        self.model, self.optimizer = net(), sgd()

    def train_step(self, batch):
        return {}

    def update(self, x, y):
        return learn(self.model, self.optimizer, x, y)

inner = Inner()

def train_step(x, y):
    return inner.update(x, y)
""",
    inner__model="inner.model",
    inner__optimizer="inner.optimizer",
)

# Around other corners.

found(
    "functions given to helpers",
    """
import functools

model, optimizer, a, b = net(), sgd(), mean("a"), mean("b")

def twice(function, *args):
    function(*args)
    return function(*args)

def count(loss):
    a.update_state(loss)
    return loss

def train_step(x, y):
    loss = twice(functools.partial(learn, model, optimizer), x, y)
    return functools.reduce(lambda v, f: f(v), [count, lambda v: b.update_state(v)], loss)
""",
    **BOTH,
    a="a",
    b="b",
)
found(
    "functools.reduce over layers",
    """
import functools

layers = [keras.layers.Dense(2), keras.layers.Dense(1)]
layers[0].build((None, 2)), layers[1].build((None, 2))
optimizer = sgd()

def train_step(x, y):
    functools.reduce(lambda v, layer: layer(v), layers, x)
    return learn(layers[1], optimizer, x, y)
""",
    layers__0="layers[0]",
    layers__1="layers[1]",
    optimizer="optimizer",
)
found(
    "weak references",
    """
import weakref

model, optimizer = net(), sgd()
reference, proxy = weakref.ref(model), weakref.proxy(optimizer)

def train_step(x, y):
    return learn(reference(), proxy, x, y)
""",
    reference="model",
    proxy="proxy",
)
found(
    "a ContextVar and a threading.local",
    """
import contextvars
import threading

current, local = contextvars.ContextVar("current"), threading.local()
model, optimizer = net(), sgd()
current.set(model)
local.optimizer = optimizer

def train_step(x, y):
    return learn(current.get(), local.optimizer, x, y)
""",
    current="model",
    local__optimizer="optimizer",
)
found(
    "two names of one object",
    """
model = net()
generator = model
optimizer = gen_optimizer = sgd()

def helper(x, y):
    return learn(model, optimizer, x, y)

def train_step(x, y):
    generator(x)
    helper(x, y)
    return learn(generator, gen_optimizer, x, y)
""",
    generator="model",
    gen_optimizer="optimizer",
)

# What is looked up again: the statement that replaces something, and what is then found.

REPLACED: dict[str, tuple[str, str, dict[str, str]]] = {}


def replaced(name: str, source: str, statement: str, **paths: str) -> None:
    """Add a program, a statement that runs after the first look, and what is found then."""
    REPLACED[name] = source, statement, {p.replace("__", "/"): v for p, v in paths.items()}


_PLAIN = """
model, optimizer, other = net(), sgd(), net()

def before(x):
    return x

def train_step(x, y):
    return learn(model, optimizer, before(x), y)
"""
_OBJECT = """
class Trainer:
    __slots__ = ("model", "__dict__")
    optimizer = sgd()
    def __init__(self):
        self.model, self.losses, self.weights = net(), [], {}
    def train_step(self, x, y):
        for loss in self.losses:
            loss(y)
        self.before(x)
        return learn(self.model, self.optimizer, x, y)
    def before(self, x):
        pass
trainer, other = Trainer(), net()
train_step = trainer.train_step
def count(*values):
    other(*values)
"""

replaced("a global", _PLAIN, "model = other", model="other")
replaced("a helper", _PLAIN, "before = lambda x: other(x)", model="model", other="other")
replaced(
    "the code of a helper",
    _PLAIN,
    "before.__code__ = (lambda x: other(x)).__code__",
    model="model",
    other="other",
)
replaced(
    "a name that did not exist",
    """
model, optimizer, other = net(), sgd(), net()

def train_step(x, y):
    return learn(model, optimizer, x, y, late)
""",
    "late = lambda y, y_pred: other(y)",
    other="other",
)
replaced(
    "a cell",
    """
def make():
    model, optimizer = net(), sgd()
    def train_step(x, y):
        return learn(model, optimizer, x, y)
    def replace(new):
        nonlocal model
        model = new
    return train_step, replace

train_step, replace = make()
other = net()
""",
    "replace(other)",
    model="other",
)
replaced(
    "a default",
    """
model, optimizer, other = net(), sgd(), net()

def train_step(x, y, model=model):
    return learn(model, optimizer, x, y)
""",
    "train_step.__defaults__ = (other,)",
    model="other",
)
replaced("an attribute", _OBJECT, "trainer.before = count", self__model="trainer.model")
replaced("a slot", _OBJECT, "trainer.model = other", self__model="other")
replaced("a class attribute", _OBJECT, "Trainer.optimizer = other", self__optimizer="other")
replaced("a method", _OBJECT, "Trainer.before = lambda self, x: other(x)", other="other")
replaced("an item of a list", _OBJECT, "trainer.losses.append(count)", other="other")
replaced(
    "a ContextVar",
    """
import contextvars

current, optimizer, other = contextvars.ContextVar("current"), sgd(), net()
current.set(net())

def train_step(x, y):
    return learn(current.get(), optimizer, x, y)
""",
    "current.set(other)",
    current="other",
)
replaced(
    "a module's name",
    """
import states
other = net()

def train_step(x, y):
    import states as s
    return learn(states.model, s.optimizer, x, y)

# file: states.py
model, optimizer = net(), sgd()
""",
    "states.model = other",
    states__model="other",
)
replaced(
    "a function inside a layer",
    """
layer = keras.layers.Dense(2, activation=lambda x: x)
model, optimizer, other = net(layer), sgd(), net()

def train_step(x, y):
    return learn(model, optimizer, x, y)
""",
    "layer.activation = lambda x: other(x)",
    model="model",
    other="other",
)

# Ways that nothing can follow: values that only running the program gives.

refused(
    "globals() by name",
    """
model, optimizer = net(), sgd()

def train_step(x, y):
    return learn(globals()["model"], optimizer, x, y)
""",
    "model",
)
refused(
    "eval",
    """
model, optimizer = net(), sgd()

def train_step(x, y):
    return learn(eval("model", globals()), optimizer, x, y)
""",
    "model",
)
refused(
    "sys.modules",
    """
import sys

model, optimizer = net(), sgd()

def train_step(x, y):
    return learn(model, getattr(sys.modules[__name__], "optimizer"), x, y)
""",
    "optimizer",
)
refused(
    "importlib",
    """
import importlib
import states

model, optimizer = net(), states.optimizer

def train_step(x, y):
    return learn(model, importlib.import_module("states").optimizer, x, y)

# file: states.py
optimizer = sgd()
""",
    "optimizer",
)
refused(
    "a computed name of a module",
    """
import states

model, optimizer = states.net_1, sgd()
one = 1

def train_step(x, y):
    return learn(getattr(states, f"net_{one}"), optimizer, x, y)

# file: states.py
net_1 = net()
""",
    "model",
)
refused(
    "what a factory has cached",
    """
import functools

@functools.lru_cache(maxsize=None)
def get_model():
    return net()

model, optimizer = get_model(), sgd()

def train_step(x, y):
    return learn(get_model(), optimizer, x, y)
""",
    "model",
)
refused(
    "what a generator holds",
    """
def models():
    model = net()
    while True:
        yield model

nets, optimizer = models(), sgd()
model = next(nets)

def train_step(x, y):
    return learn(next(nets), optimizer, x, y)
""",
    "model",
)
refused(
    "an iterator",
    """
import itertools

model, optimizer = net(), sgd()
nets = itertools.cycle([model])

def train_step(x, y):
    return learn(next(nets), optimizer, x, y)
""",
    "model",
)
refused(
    "a set, which has no order to name its items by",
    """
model, optimizer = net(), sgd()
metric = mean()
metrics = {metric}

def train_step(x, y):
    loss = learn(model, optimizer, x, y)
    for each in metrics:
        each.update_state(loss)
    return loss
""",
    "metric",
)
refused(
    "an array of objects",
    """
import numpy as np

model, optimizer = net(), sgd()
nets = np.array([model, None], dtype=object)

def train_step(x, y):
    return learn(nets[0], optimizer, x, y)
""",
    "model",
)
refused(
    "what a package holds",
    """
import queue

model, optimizer = net(), sgd()
nets = queue.Queue()
nets.put(model)

def train_step(x, y):
    model = nets.get()
    nets.put(model)
    return learn(model, optimizer, x, y)
""",
    "model",
)
refused(
    "code of a computed method",
    """
class Trainer:
    def update_fast(self, x, y):
        return learn(model, optimizer, x, y)

model, optimizer = net(), sgd()
trainer, kind = Trainer(), "fast"

def train_step(x, y):
    return getattr(trainer, f"update_{kind}")(x, y)
""",
    "optimizer",
)
refused(
    "statistics of a model that nothing trains",
    """
frozen = net(keras.layers.BatchNormalization())
model, optimizer = net(), sgd()

def train_step(x, y):
    globals()["frozen"](x, training=True)
    return learn(model, optimizer, x, y)
""",
    "frozen",
)
refused(
    "a metric",
    """
metric, model, optimizer = mean(), net(), sgd()

def train_step(x, y):
    loss = learn(model, optimizer, x, y)
    globals()["metric"].update_state(loss)
    return loss
""",
    "metric",
)
refused(
    "a variable of TensorFlow",
    """
import tensorflow as tf

count, model, optimizer = tf.Variable(0, name="count"), net(), sgd()

def train_step(x, y):
    globals()["count"].assign_add(1)
    return learn(model, optimizer, x, y)
""",
    "count",
)
refused(
    "a model inside a tf.function",
    """
import tensorflow as tf

model, optimizer = net(), sgd()

@tf.function
def update(x, y):
    return learn(globals()["model"], optimizer, x, y)

def train_step(x, y):
    return update(x, y)
""",
    "model",
)
