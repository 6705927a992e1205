"""Steps as users of torch write them: what they change is no variable of Keras."""

import collections
import math

import keras
import numpy as np
import torch
from torch import nn
from torch.nn import functional

import perigee as pg

BATCH, ROWS, FEATURES, CLASSES = 16, 80, 6, 3
STEPS_A_PASS = ROWS // BATCH
MOST_STEPS = 4 * STEPS_A_PASS


def data():
    draw = np.random.default_rng(0)
    labels = draw.integers(CLASSES, size=ROWS)
    means = draw.normal(size=(CLASSES, FEATURES))
    inputs = means[labels] + 0.3 * draw.normal(size=(ROWS, FEATURES))
    return inputs.astype("float32"), labels


def net(*more):
    return nn.Sequential(nn.Linear(FEATURES, 8), *more, nn.ReLU(), nn.Linear(8, CLASSES))


class Program(pg.Step):
    """Trains by `update(x, y)`, as a loop without Perigee does."""

    def train_step(self, batch):
        with torch.enable_grad():
            return {"loss": self.update(*batch).detach()}

    def test_step(self, batch):
        return {"loss": functional.cross_entropy(self.net(batch[0]), batch[1])}

    def descend(self, loss):
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss


class OneCycle(Program):
    """Adam, batch normalization, dropout, and a schedule that ends with the training."""

    def __init__(self):
        self.net = net(nn.BatchNorm1d(8), nn.Dropout(0.3))
        self.optimizer = torch.optim.AdamW(self.net.parameters(), 0.01)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, 0.05, total_steps=MOST_STEPS
        )

    def update(self, x, y):
        loss = self.descend(functional.cross_entropy(self.net(x), y))
        self.schedule.step()
        return loss


class Normalized(nn.Module):
    """Sets another tensor as its buffer at each call, and counts them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(FEATURES), persistent=False)
        self.calls, self.last = 0, None
        self.inner = net()

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
            self.calls += 1
            self.last = x.detach().mean()
        return self.inner(x - self.mean) * min(1.0, 0.2 * self.calls + 0.2)


class ReplacedBuffer(Program):
    """A module whose buffer is replaced; momentum; learning rates by hand."""

    def __init__(self):
        self.net = Normalized()
        self.optimizer = torch.optim.SGD(self.net.parameters(), 0.1, momentum=0.9)

    def update(self, x, y):
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.95
        return self.descend(functional.cross_entropy(self.net(x), y))


class PythonState(Program):
    """Numbers, lists, tensors and a queue as attributes of the Step."""

    def __init__(self):
        self.net = net()
        self.optimizer = torch.optim.RMSprop(self.net.parameters(), 0.01)
        self.count, self.smooth, self.best = 0, None, math.inf
        self.seen, self.recent = [], collections.deque(maxlen=3)
        self.hidden = torch.zeros(8)
        self.queue = torch.zeros(0, CLASSES)
        self.by_class = collections.defaultdict(int)

    def update(self, x, y):
        self.count += 1
        logits = self.net(x)
        weight = 1.0 if self.smooth is None else 1.0 / (1.0 + self.smooth)
        loss = weight * functional.cross_entropy(logits, y)
        if self.count % 3 == 0:
            loss = loss + 0.01 * (logits - self.queue.mean(0)).square().mean()
        self.descend(loss)
        value = float(loss.detach())
        self.smooth = value if self.smooth is None else 0.9 * self.smooth + 0.1 * value
        self.best = min(self.best, value)
        self.seen.append(value)
        self.recent.append(logits.detach()[0].clone())
        self.hidden.mul_(0.9).add_(0.1)
        self.queue = torch.cat([self.queue, logits.detach()])[-40:]
        self.by_class[int(y[0])] += 1
        return loss + 0.001 * self.hidden.sum() + 0.001 * sum(self.recent).sum()


class Averaged(Program):
    """torch's own averaged model, and two schedules in turn."""

    def __init__(self):
        schedules = torch.optim.lr_scheduler
        self.net = net(nn.BatchNorm1d(8))
        self.average = torch.optim.swa_utils.AveragedModel(self.net, use_buffers=True)
        self.optimizer = torch.optim.SGD(self.net.parameters(), 0.1, momentum=0.9, nesterov=True)
        warm = schedules.LinearLR(self.optimizer, 0.1, total_iters=3)
        decay = schedules.LambdaLR(self.optimizer, lambda step: 0.9**step)
        self.schedule = schedules.SequentialLR(self.optimizer, [warm, decay], [3])

    def update(self, x, y):
        loss = self.descend(functional.cross_entropy(self.net(x), y))
        self.schedule.step()
        self.average.update_parameters(self.net)
        return loss


class Ema:
    """Averaged weights, as many repositories have them."""

    def __init__(self, model, decay):
        self.decay, self.updates = decay, 0
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters()}

    def update(self, model):
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        with torch.no_grad():
            for name, p in model.named_parameters():
                self.shadow[name].mul_(decay).add_(p, alpha=1 - decay)

    def state_dict(self):
        return {"shadow": self.shadow, "updates": self.updates}

    def load_state_dict(self, state):
        self.shadow = {name: value.clone() for name, value in state["shadow"].items()}
        self.updates = state["updates"]


class Plateau:
    """A schedule of one's own, without `state_dict`."""

    def __init__(self, optimizer):
        self.optimizer, self.best, self.bad = optimizer, math.inf, 0

    def step(self, loss):
        self.bad = 0 if loss < self.best else self.bad + 1
        self.best = min(loss, self.best)
        if self.bad > 1:
            self.optimizer.param_groups[0]["lr"] *= 0.5


class OwnClasses(Program):
    """Objects of the user's classes, with and without `state_dict`, and a gradient scaler."""

    def __init__(self):
        self.net = net()
        self.optimizer = torch.optim.Adagrad(self.net.parameters(), 0.05)
        self.ema = Ema(self.net, 0.99)
        self.plateau = Plateau(self.optimizer)
        self.scaler = torch.amp.GradScaler("cpu", growth_interval=3)

    def update(self, x, y):
        loss = functional.cross_entropy(self.net(x), y)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ema.update(self.net)
        self.plateau.step(float(loss.detach()))
        return loss + 1e-9 * self.scaler.get_scale()


class MetricModule(nn.Module):
    """Keeps sums in plain tensors and values in a list, as the modules of torchmetrics do."""

    def __init__(self):
        super().__init__()
        self.right, self.total, self.values = torch.tensor(0.0), torch.tensor(0), []

    def update(self, logits, y):
        self.right = self.right + (logits.argmax(-1) == y).sum()
        self.total += len(y)
        self.values.append(logits.detach().max())

    def compute(self):
        return self.right / self.total + 0.001 * torch.stack(self.values).mean()


class Metrics(Program):
    """Metrics of torch that are never reset."""

    def __init__(self):
        self.net = net()
        self.optimizer = torch.optim.Adam(self.net.parameters(), 0.01, amsgrad=True)
        self.metrics = {"accuracy": MetricModule()}

    def update(self, x, y):
        logits = self.net(x)
        self.metrics["accuracy"].update(logits, y)
        loss = self.descend(functional.cross_entropy(logits, y))
        return loss + 0 * self.metrics["accuracy"].compute()

    def train_step(self, batch):
        return {**super().train_step(batch), "accuracy": self.metrics["accuracy"].compute()}


class Draws(Program):
    """Draws from generators of its own, and changes the batch in place."""

    def __init__(self):
        self.net = net()
        self.optimizer = torch.optim.SGD(self.net.parameters(), 0.1, momentum=0.5)
        self.generator = torch.Generator().manual_seed(3)
        self.rng = np.random.default_rng(4)

    def update(self, x, y):
        x.add_(0.1 * torch.randn(x.shape, generator=self.generator))
        x.mul_(float(self.rng.uniform(0.5, 1.5)))
        return self.descend(functional.cross_entropy(self.net(x), y))


class Closure(Program):
    """LBFGS, which calls the loss itself."""

    def __init__(self):
        self.net = nn.Linear(FEATURES, CLASSES)
        self.optimizer = torch.optim.LBFGS(self.net.parameters(), 0.1, max_iter=3, history_size=4)

    def update(self, x, y):
        def closure():
            self.optimizer.zero_grad()
            loss = functional.cross_entropy(self.net(x), y)
            loss.backward()
            return loss

        return self.optimizer.step(closure)


class Recurrent(Program):
    """A hidden state from batch to batch, tied weights, and spectral normalization."""

    def __init__(self):
        self.cell = nn.GRUCell(FEATURES, 8)
        self.head = nn.utils.parametrizations.spectral_norm(nn.Linear(8, CLASSES))
        self.other = nn.Linear(8, CLASSES)
        self.other.bias = self.cell_bias = nn.Parameter(torch.zeros(CLASSES))
        parameters = [*self.cell.parameters(), *self.head.parameters(), *self.other.parameters()]
        self.optimizer = torch.optim.NAdam(parameters, 0.01)
        self.hidden = None

    def update(self, x, y):
        hidden = torch.zeros(len(x), 8) if self.hidden is None else self.hidden
        hidden = self.cell(x, hidden)
        self.hidden = hidden.detach()
        loss = functional.cross_entropy(self.head(hidden) + self.other(hidden), y)
        return self.descend(loss)

    def test_step(self, batch):
        self.hidden = self.cell(batch[0])
        return {"loss": functional.cross_entropy(self.head(self.hidden), batch[1])}


class Held(Program):
    """Only the optimizer leads to the parameters, and only the schedule to the optimizer."""

    def __init__(self):
        weight = nn.Parameter(torch.zeros(FEATURES, CLASSES))
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
            torch.optim.Adadelta([weight], 1.0), 4
        )

    def update(self, x, y):
        optimizer = self.schedule.optimizer
        (weight,) = optimizer.param_groups[0]["params"]
        optimizer.zero_grad()
        loss = functional.cross_entropy(x @ weight, y)
        loss.backward()
        optimizer.step()
        self.schedule.step()
        return loss

    def test_step(self, batch):
        return {"loss": batch[0].mean()}


class Wrapped(Program):
    """A module of torch in a model of Keras, with an optimizer of Keras."""

    def __init__(self):
        wrapper = keras.layers.TorchModuleWrapper(nn.BatchNorm1d(FEATURES))
        self.net = keras.Sequential([keras.Input((FEATURES,)), wrapper, keras.layers.Dense(3)])
        self.optimizer = keras.optimizers.Adam(0.01)
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def train_step(self, batch):
        x, y = batch
        objective = lambda: self.loss(y, self.net(x, training=True))  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer, self.net)}

    def update(self, x, y):
        loss = self.loss(y, self.net(x, training=True))
        weights = self.net.trainable_weights
        for weight in weights:
            weight.value.grad = None
        loss.backward()
        with torch.no_grad():
            self.optimizer.apply([w.value.grad for w in weights], weights)
        return loss

    def test_step(self, batch):
        return {"loss": self.loss(batch[1], self.net(batch[0], training=False))}


PROGRAMS = {
    kind.__name__: kind
    for kind in (
        OneCycle,
        ReplacedBuffer,
        PythonState,
        Averaged,
        OwnClasses,
        Metrics,
        Draws,
        Closure,
        Recurrent,
        Held,
        Wrapped,
    )
}


def made(name):
    keras.utils.set_random_seed(5)
    return PROGRAMS[name]()


def function():
    """Return a function that rebinds what is around it, with what it leaves there."""
    keras.utils.set_random_seed(5)
    model = net(nn.BatchNorm1d(8))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    calls, smooth, hidden, seen = 0, None, torch.zeros(3), []

    def train_step(x, y):
        nonlocal calls, smooth, hidden
        calls += 1
        with torch.enable_grad():
            loss = functional.cross_entropy(model(x), y) + 0.001 * calls + hidden.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        value = float(loss.detach())
        smooth = value if smooth is None else 0.9 * smooth + 0.1 * value
        hidden = 0.9 * hidden + 0.1
        seen.append(value)
        return {"loss": loss.detach(), "calls": float(calls), "smooth": smooth, "seen": len(seen)}

    return train_step
