"""Generators, agents and loops on torch, as code examples and repositories have them."""

import keras
import numpy as np
import torch
import torch.nn.functional as F
from keras import layers
from torch import nn

from tests.strangers.corpus import by_fit, by_hand
from tests.strangers.datasets import diabetes, wine

LEARNING_RATE = 0.01


def loader(*arrays, size=32):
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*map(torch.as_tensor, arrays)), batch_size=size
    )


def flat(module):
    return {k: v.detach().numpy().copy() for k, v in module.state_dict().items()}


@by_hand(only="torch")
def zipped_list_of_parameters_with_clipping_and_a_lambda_schedule():
    net = nn.Sequential(nn.Linear(13, 16), nn.ReLU(), nn.Dropout(0.0), nn.Linear(16, 3))
    opt = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE)
    sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda i: 0.9**i)

    def train_batch(batch):
        x, y = batch
        net.train()
        opt.zero_grad()
        loss = F.cross_entropy(net(x), y.long())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), max_norm=1.0)
        opt.step()
        sched.step()
        return loss.reshape(1)

    data = [list(batch) for batch in loader(*wine())]
    return train_batch, data, 2, lambda: {**flat(net), "lr": np.float64(sched.get_last_lr()[0])}


@by_hand(only="torch")
def gan_with_detached_fakes():
    g = nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(0.2), nn.Linear(8, 10))
    d = nn.Sequential(nn.Linear(10, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    opt_g = torch.optim.Adam(g.parameters(), lr=2e-4, betas=(0.5, 0.999))
    opt_d = torch.optim.Adam(d.parameters(), lr=2e-4, betas=(0.5, 0.999))
    criterion = nn.BCEWithLogitsLoss()

    def step(real, noise):
        d.zero_grad()
        label = torch.full((real.size(0),), 1.0)
        err_real = criterion(d(real).view(-1), label)
        err_real.backward()
        fake = g(noise)
        label.fill_(0.0)
        err_fake = criterion(d(fake.detach()).view(-1), label)
        err_fake.backward()
        opt_d.step()
        g.zero_grad()
        label.fill_(1.0)
        err_g = criterion(d(fake).view(-1), label)
        err_g.backward()
        opt_g.step()
        return {"d": err_real + err_fake, "g": err_g}

    x, _ = diabetes()
    noise = np.random.default_rng(1).normal(size=(len(x), 3)).astype("float32")
    data = [tuple(b) for b in loader(x, noise, size=64)]
    return step, data, 1, lambda: {**flat(g), **{f"d.{k}": v for k, v in flat(d).items()}}


@by_hand(only="torch")
def policy_gradient_over_episodes_of_any_length():
    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.affine1 = nn.Linear(4, 16)
            self.affine2 = nn.Linear(16, 2)
            self.saved_log_probs = []

        def forward(self, x):
            return F.softmax(self.affine2(F.relu(self.affine1(x))), dim=1)

    policy = Policy()
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)

    def finish_episode(states, actions, rewards):
        total, returns = 0, []
        for r in rewards.tolist()[::-1]:
            total = r + 0.99 * total
            returns.insert(0, total)
        returns = torch.tensor(returns)
        returns = (returns - returns.mean()) / (returns.std() + 1e-6)
        for state, action in zip(states, actions):
            dist = torch.distributions.Categorical(policy(state[None]))
            policy.saved_log_probs.append(dist.log_prob(action[None]))
        policy_loss = [-p * r for p, r in zip(policy.saved_log_probs, returns)]
        optimizer.zero_grad()
        policy_loss = torch.cat(policy_loss).sum()
        policy_loss.backward()
        optimizer.step()
        del policy.saved_log_probs[:]
        return policy_loss.item()

    draw = np.random.default_rng(2)
    episodes = [
        tuple(
            map(
                torch.as_tensor,
                (
                    draw.normal(size=(n, 4)).astype("float32"),
                    draw.integers(0, 2, n),
                    draw.uniform(size=n),
                ),
            )
        )
        for n in (5, 9, 4, 7)
    ]
    return finish_episode, episodes, 2, lambda: flat(policy)


class BYOL(keras.Model):
    def __init__(self):
        super().__init__()
        self.online = keras.Sequential(
            [keras.Input((13,)), layers.Dense(8, "relu"), layers.Dense(4)]
        )
        self.target = keras.models.clone_model(self.online)
        self.target.set_weights(self.online.get_weights())
        self.target.trainable = False
        self.loss_tracker = keras.metrics.Mean(name="loss")

    def train_step(self, data):
        self.zero_grad()
        p = F.normalize(self.online(data + 0.1), dim=-1)
        with torch.no_grad():
            z = F.normalize(self.target(data), dim=-1)
        loss = 2 - 2 * (p * z).sum(dim=-1).mean()
        loss.backward()
        trainable = [v for v in self.online.trainable_weights]
        with torch.no_grad():
            self.optimizer.apply([v.value.grad for v in trainable], trainable)
            for o, t in zip(self.online.weights, self.target.weights):
                t.assign(0.9 * t + 0.1 * o)
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}


@by_fit(only="torch")
def byol_on_rows_alone(by):
    model = BYOL()
    model.compile(optimizer=keras.optimizers.SGD(0.05))
    by.fit(model, wine()[0], batch_size=32, epochs=2)
