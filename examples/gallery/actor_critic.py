"""An actor and a critic learn to balance poles, in an environment written in this file.

The critic learns the value of an observation; the actor learns to repeat actions that led to more
than that (Mnih et al., 2016, algorithm S3, with 16 poles side by side instead of threads).

What Perigee does here: there is no data set, so the example writes the loop, and still training is
compiled, logged, saved and resumed (`pg.prepare`), with the environment in `host_state`.

    python examples/gallery/actor_critic.py               # any backend; half a minute
"""

import keras
import numpy as np
from figures import draw_curves
from keras import ops

import perigee as pg

SEED = 7
POLES = 16
TURNS = 16
"""How many times each pole is moved for one update."""
LONGEST = 200
"""An episode that lasts this many turns ends well."""


class Poles:
    """Poles on carts that are pushed left or right (Barto, Sutton and Anderson, 1983).

    Attributes:
        state: Position and speed of each cart, angle and angular speed of each pole, `(POLES, 4)`.
        ages: How many turns each episode has lasted, `(POLES,)`.
        recent: How many turns the last episodes lasted, at most 50 of them.
        begun: How many episodes were begun.
    """

    def __init__(self):
        self.state, self.ages = np.zeros((POLES, 4)), np.zeros(POLES, "int64")
        self.recent, self.begun = np.zeros(0, "int64"), 0
        self.begin_anew(np.ones(POLES, bool))

    def begin_anew(self, which):
        for pole in np.flatnonzero(which):
            random = np.random.default_rng([SEED, self.begun])
            self.state[pole], self.ages[pole] = random.uniform(-0.05, 0.05, 4), 0
            self.begun += 1

    def move(self, actions):
        """Push each cart right (1) or left (0); return who fell, and whose episode ended."""
        _, speed, angle, turning = self.state.T
        force = np.where(actions == 1, 10.0, -10.0)
        sine, cosine = np.sin(angle), np.cos(angle)
        thrust = (force + 0.05 * turning**2 * sine) / 1.1
        spin = (9.8 * sine - cosine * thrust) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
        push = thrust - 0.05 * spin * cosine / 1.1
        self.state += 0.02 * np.stack([speed, push, turning, spin], axis=1)
        self.ages += 1
        fell = (np.abs(self.state[:, 0]) > 2.4) | (np.abs(self.state[:, 2]) > 0.21)
        ended = fell | (self.ages >= LONGEST)
        self.recent = np.concatenate([self.recent, self.ages[ended]])[-50:]
        self.begin_anew(ended)
        return fell, ended


class ActorCritic(pg.Step):
    """Two networks that learn from the actions of the first one.

    A batch is (observations, actions, returns), each with one row per turn.

    Args:
        actor: From observations `(batch, 4)` to logits of the actions, `(batch, 2)`.
        critic: From observations to their values, `(batch, 1)`.
        discount: The value of a reward one turn earlier.
    """

    def __init__(self, actor, critic, discount=0.98):
        self.actor, self.critic, self.discount = actor, critic, discount
        self.actor_optimizer = keras.optimizers.Adam(3e-3)
        self.critic_optimizer = keras.optimizers.Adam(5e-3)
        self.seed = keras.random.SeedGenerator(SEED)
        self.poles = Poles()

    def predict_step(self, observations):
        actions = keras.random.categorical(self.actor(observations), 1, seed=self.seed)
        return actions[:, 0], self.critic(observations)[:, 0]

    def play(self, predict_step):
        """Return a batch of TURNS turns of each pole."""
        turns = []
        for _ in range(TURNS):
            observations = self.poles.state.astype("float32")
            actions, _ = predict_step(observations)
            actions = ops.convert_to_numpy(actions)
            turns.append((observations, actions, *self.poles.move(actions)))
        _, worth = predict_step(self.poles.state.astype("float32"))
        returns, worth = [], ops.convert_to_numpy(worth)
        for _, _, fell, ended in reversed(turns):
            # An episode that ends well counts as if the pole stayed up forever.
            worth = np.where(ended, 1.0 / (1.0 - self.discount), worth)
            worth = np.where(fell, 0.0, 1.0 + self.discount * worth)
            returns.insert(0, worth.astype("float32"))
        observations, actions, _, _ = zip(*turns, strict=True)
        return tuple(np.concatenate(part) for part in (observations, actions, returns))

    def train_step(self, batch):
        observations, actions, returns = batch

        def critic_objective():
            worth = self.critic(observations, training=True)[:, 0]
            return ops.square(returns - worth) / 100, returns - worth

        critic_loss, advantages = self.minimize(
            critic_objective, self.critic_optimizer, self.critic
        )

        def actor_objective():
            likely = ops.log_softmax(self.actor(observations, training=True))
            chosen = ops.sum(likely * ops.one_hot(actions, 2), axis=-1)
            entropy = -ops.sum(ops.exp(likely) * likely, axis=-1)
            return -advantages * chosen - 0.05 * entropy, entropy

        _, entropy = self.minimize(actor_objective, self.actor_optimizer, self.actor)
        return {"critic_loss": critic_loss, "entropy": entropy}

    def host_state(self):
        return dict(vars(self.poles))

    def load_host_state(self, state):
        vars(self.poles).update(state)


def make_step():
    return ActorCritic(make_network(2, "actor"), make_network(1, "critic"))


def make_network(outputs, name):
    hidden = keras.layers.Dense(64, activation="tanh")
    return keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(outputs)], name=name)


def main(epochs=20, directory=None):
    """Train for `epochs` of 50 updates, or until the poles stay up."""
    keras.utils.set_random_seed(SEED)
    step = make_step()
    with pg.prepare(step, run=directory, steps_per_epoch=50) as trainer:
        while trainer.goes_on(epochs=epochs):
            trainer.train_step(step.play(trainer.predict_step))
            recent = step.poles.recent
            if len(recent):
                trainer.log({"episode_length": recent.mean()})
            if len(recent) == 50 and recent.mean() > 0.95 * LONGEST:
                trainer.stop("balanced")
    lengths = trainer.history.history["episode_length"]
    draw_curves(directory, "curves", {"episode_length": lengths})
    return trainer.history


if __name__ == "__main__":
    main(directory="runs/actor_critic")
