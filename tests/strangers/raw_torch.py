"""Training loops of torch beside the Steps that they become, with torch's own functions inside."""

import itertools

import keras
import numpy as np
import torch
import torch.nn.functional as F
from keras import layers

import perigee as pg
from tests.strangers.corpus import by_loop
from tests.strangers.datasets import diabetes, digits, wine

BATCH = 32


def batches(*arrays, size=BATCH):
    for start in range(0, len(arrays[0]), size):
        yield tuple(torch.as_tensor(array[start : start + size]) for array in arrays)


def mean_of(losses, rows):
    return float(np.average(losses, weights=rows))


def fitted(step, *data, **given):
    given = {"batch_size": BATCH, "shuffle": False, "progress": "off", **given}
    return pg.fit(step, data if len(data) > 1 else data[0], **given).history


def mlp(inputs, outputs, *more):
    inner = [layers.Dense(16, activation="relu"), *more, layers.Dense(outputs)]
    return keras.Sequential([keras.Input((inputs,)), *inner])


# Cross entropy of torch, and `zero_grad`, `backward`, `step`.


def plain_classifier():
    x, y = wine()
    model = mlp(13, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    shown = []
    for _ in range(2):
        losses, rows = [], []
        for xb, yb in batches(x, y):
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model(xb, training=True), yb.long())
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            rows.append(len(xb))
        shown.append(mean_of(losses, rows))
    return {"loss": shown, "weights": model.get_weights()}


class Classify(pg.Step):
    def __init__(self, model):
        self.model = model
        self.optimizer = keras.optimizers.SGD(0.1, momentum=0.9)

    def train_step(self, batch):
        x, y = batch

        def objective():
            return F.cross_entropy(self.model(x, training=True), y.long())

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


@by_loop(plain_classifier, only="torch")
def a_loss_of_torch():
    step = Classify(mlp(13, 3))
    history = fitted(step, *wine(), epochs=2)
    return {"loss": history["loss"], "weights": step.model.get_weights()}


# A DataLoader of dicts, `clip_grad_norm_`, and a scheduler.


class Rows(torch.utils.data.Dataset):
    def __init__(self):
        self.x, self.y = diabetes()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"features": self.x[index], "target": self.y[index]}


def plain_scheduled():
    model = mlp(10, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.5)
    losses, rows = [], []
    for batch in torch.utils.data.DataLoader(Rows(), batch_size=BATCH):
        loss = F.mse_loss(model(batch["features"]).squeeze(-1), batch["target"])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        rows.append(len(batch["target"]))
    return {"loss": mean_of(losses, rows), "weights": model.get_weights()}


@by_loop(plain_scheduled, only="torch")
def a_loader_of_dicts_clipping_and_a_schedule():
    class Regress(pg.Step):
        def __init__(self, model):
            self.model = model
            rate = keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.5, staircase=True)
            self.optimizer = keras.optimizers.SGD(rate)

        def train_step(self, batch):
            def objective():
                y_pred = self.model(batch["features"], training=True).squeeze(-1)
                return F.mse_loss(y_pred, batch["target"])

            gradients = self.gradients(objective, self.model)
            clipped, _ = gradients.clip_by_global_norm(0.5)
            self.apply(self.optimizer, clipped)
            return {"loss": gradients.loss}

    step = Regress(mlp(10, 1))
    loader = torch.utils.data.DataLoader(Rows(), batch_size=BATCH)
    history = pg.fit(step, loader, progress="off").history
    return {"loss": history["loss"][0], "weights": step.model.get_weights()}


# Autocast around the forward pass.


def plain_autocast():
    x, y = digits()
    x = x.reshape(len(x), 64)
    model = mlp(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for xb, yb in batches(x, y):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(xb, training=True)
        loss = F.cross_entropy(logits.float(), yb.long())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {"loss": np.mean(losses), "weights": model.get_weights()}


@by_loop(plain_autocast, only="torch")
def autocast_around_the_forward_pass():
    class Half(pg.Step):
        def __init__(self, model):
            self.model, self.optimizer = model, keras.optimizers.SGD(0.1)

        def train_step(self, batch):
            x, y = batch

            def objective():
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    logits = self.model(x, training=True)
                return F.cross_entropy(logits.float(), y.long())

            return {"loss": self.minimize(objective, self.optimizer, self.model)}

    x, y = digits()
    step = Half(mlp(64, 10))
    history = fitted(step, x.reshape(len(x), 64), y)
    return {"loss": history["loss"][0], "weights": step.model.get_weights()}


# A teacher under `no_grad` that follows in place.


def plain_teacher():
    x, y = wine()
    model, teacher = mlp(13, 3), mlp(13, 3)
    teacher.set_weights(model.get_weights())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses, rows = [], []
    for xb, yb in itertools.chain(batches(x, y), batches(x, y)):
        with torch.no_grad():
            soft = teacher(xb).softmax(-1)
        logits = model(xb, training=True)
        loss = F.cross_entropy(logits, yb.long())
        loss = loss + F.kl_div(logits.log_softmax(-1), soft, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), model.parameters(), strict=True):
                slow.mul_(0.9).add_(fast, alpha=0.1)
        losses.append(loss.item())
        rows.append(len(xb))
    return {
        "loss": mean_of(losses, rows),
        "weights": model.get_weights(),
        "teacher": teacher.get_weights(),
    }


@by_loop(plain_teacher, only="torch", finds=("PG110",))
def a_teacher_that_follows_in_place():
    class Teach(pg.Step):
        def __init__(self, model, teacher):
            self.model, self.teacher = model, teacher
            self.optimizer = keras.optimizers.SGD(0.1)

        def train_step(self, batch):
            x, y = batch
            with torch.no_grad():
                soft = self.teacher(x).softmax(-1)

            def objective():
                logits = self.model(x, training=True)
                loss = F.cross_entropy(logits, y.long())
                return loss + F.kl_div(logits.log_softmax(-1), soft, reduction="batchmean")

            loss = self.minimize(objective, self.optimizer, self.model)
            with torch.no_grad():
                for slow, fast in zip(
                    self.teacher.parameters(), self.model.parameters(), strict=True
                ):
                    slow.mul_(0.9).add_(fast, alpha=0.1)
            return {"loss": loss}

    model, teacher = mlp(13, 3), mlp(13, 3)
    teacher.set_weights(model.get_weights())
    history = fitted(Teach(model, teacher), *wine(), epochs=2)
    return {
        "loss": np.mean(history["loss"]),
        "weights": model.get_weights(),
        "teacher": teacher.get_weights(),
    }


# Two optimizers, and a gradient penalty by `autograd.grad` with `create_graph`.


def penalty(critic, real, fake):
    x = ((real + fake) / 2).detach().requires_grad_(True)
    (slopes,) = torch.autograd.grad(critic(x, training=True).sum(), x, create_graph=True)
    return ((slopes.norm(dim=-1) - 1) ** 2).mean()


def critic_loss_of(critic, real, fake):
    gap = critic(fake, training=True).mean() - critic(real, training=True).mean()
    return gap + 10.0 * penalty(critic, real, fake)


def pairs():
    x, _ = diabetes()
    return x, np.random.default_rng(4).normal(size=(len(x), 4)).astype("float32")


def leaky(inputs, outputs):
    inner = [layers.Dense(16, activation="tanh"), layers.Dense(outputs)]
    return keras.Sequential([keras.Input((inputs,)), *inner])


def plain_adversaries():
    generator, critic = leaky(4, 10), leaky(10, 1)
    of_generator = torch.optim.SGD(generator.parameters(), lr=0.01)
    of_critic = torch.optim.SGD(critic.parameters(), lr=0.01)
    losses, rows = [], []
    for real, noise in batches(*pairs()):
        with torch.no_grad():
            fake = generator(noise, training=True)
        of_critic.zero_grad()
        critic_loss = critic_loss_of(critic, real, fake)
        critic_loss.backward()
        of_critic.step()
        of_generator.zero_grad()
        generator_loss = -critic(generator(noise, training=True), training=True).mean()
        generator_loss.backward()
        of_generator.step()
        losses.append([critic_loss.item(), generator_loss.item()])
        rows.append(len(real))
    c, g = np.average(losses, axis=0, weights=rows)
    weights = generator.get_weights() + critic.get_weights()
    return {"c": c, "g": g, "weights": weights}


@by_loop(plain_adversaries, only="torch")
def adversaries_with_a_gradient_penalty():
    class Adversaries(pg.Step):
        def __init__(self):
            self.generator, self.critic = leaky(4, 10), leaky(10, 1)
            self.of_generator = keras.optimizers.SGD(0.01)
            self.of_critic = keras.optimizers.SGD(0.01)

        def train_step(self, batch):
            real, noise = batch
            with torch.no_grad():
                fake = self.generator(noise, training=True)
            critic_loss = self.minimize(
                lambda: critic_loss_of(self.critic, real, fake), self.of_critic, self.critic
            )
            generator_loss = self.minimize(
                lambda: -self.critic(self.generator(noise, training=True), training=True).mean(),
                self.of_generator,
                self.generator,
            )
            return {"c": critic_loss, "g": generator_loss}

    step = Adversaries()
    history = fitted(step, *pairs())
    weights = step.generator.get_weights() + step.critic.get_weights()
    return {"c": history["c"][0], "g": history["g"][0], "weights": weights}


# Gradients that two batches add up before an update.


def plain_accumulated():
    x, y = wine()
    model = mlp(13, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses, rows = [], []
    for index, (xb, yb) in enumerate(batches(x[:128], y[:128])):
        loss = F.cross_entropy(model(xb, training=True), yb.long())
        (loss / 2).backward()
        if (index + 1) % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        rows.append(len(xb))
    return {"loss": mean_of(losses, rows), "weights": model.get_weights()}


@by_loop(plain_accumulated, only="torch")
def gradients_added_up():
    step = Classify(mlp(13, 3))
    step.optimizer = keras.optimizers.SGD(0.1)
    x, y = wine()
    history = fitted(step, x[:128], y[:128], accumulate=2)
    return {"loss": history["loss"][0], "weights": step.model.get_weights()}


# Batch statistics, and evaluation without gradients.


def plain_statistics():
    x, y = wine()
    model = mlp(13, 3, layers.BatchNormalization(momentum=0.8))
    parameters = [v.value for v in model.trainable_variables]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    losses, rows = [], []
    for xb, yb in batches(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(xb, training=True), yb.long())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        rows.append(len(xb))
    with torch.inference_mode():
        val = [F.cross_entropy(model(xb), yb.long()).item() for xb, yb in batches(x, y)]
    return {
        "loss": mean_of(losses, rows),
        "val_loss": mean_of(val, rows),
        "weights": model.get_weights(),
    }


@by_loop(plain_statistics, only="torch")
def statistics_and_inference_mode():
    class Measured(Classify):
        def test_step(self, batch):
            x, y = batch
            with torch.inference_mode():
                return {"loss": F.cross_entropy(self.model(x, training=False), y.long())}

    step = Measured(mlp(13, 3, layers.BatchNormalization(momentum=0.8)))
    step.optimizer = keras.optimizers.SGD(0.1)
    history = fitted(step, *wine(), validation=wine())
    return {
        "loss": history["loss"][0],
        "val_loss": history["val_loss"][0],
        "weights": step.model.get_weights(),
    }
