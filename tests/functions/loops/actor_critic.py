"""Trains an actor and a critic on a short corridor with a goal at its right end."""
# ruff: noqa: B905

import keras
import numpy as np
import tensorflow as tf
from keras import layers

keras.utils.set_random_seed(1)

GAMMA = 0.95
ENTROPY = 0.01
MAX_STEPS = 30
N_EPISODES = 60


class Corridor:
    """Walk left or right on a line; slips now and then; 1 at the goal, -0.02 for each move."""

    def __init__(self, length=7, slip=0.1, seed=0):
        self.length = length
        self.slip = slip
        self.rng = np.random.default_rng(seed)

    def reset(self):
        self.pos = int(self.rng.integers(0, self.length // 2 + 1))
        return self.observe()

    def observe(self):
        obs = np.zeros(self.length, dtype=np.float32)
        obs[self.pos] = 1.0
        return obs

    def step(self, action):
        move = 1 if action == 1 else -1
        if self.rng.random() < self.slip:
            move = -move
        self.pos = min(max(self.pos + move, 0), self.length - 1)
        done = self.pos == self.length - 1
        return self.observe(), (1.0 if done else -0.02), done


env = Corridor()

actor = keras.Sequential(
    [layers.Input((env.length,)), layers.Dense(32, activation="tanh"), layers.Dense(2)]
)
critic = keras.Sequential(
    [layers.Input((env.length,)), layers.Dense(32, activation="tanh"), layers.Dense(1)]
)
actor_opt = keras.optimizers.Adam(learning_rate=0.02)
critic_opt = keras.optimizers.Adam(learning_rate=0.03)
huber = keras.losses.Huber()


def discounted(rewards):
    out, running = [], 0.0
    for r in rewards[::-1]:
        running = r + GAMMA * running
        out.append(running)
    return tf.constant(out[::-1], dtype=tf.float32)


def play(env):
    """Plays one episode, and returns what the losses need of each move."""
    log_probs, values, entropies, rewards = [], [], [], []
    state = env.reset()
    for _ in range(MAX_STEPS):
        logits = actor(state[None])
        action = int(tf.random.categorical(logits, 1)[0, 0])
        log_p = tf.nn.log_softmax(logits)[0]
        log_probs.append(log_p[action])
        entropies.append(-tf.reduce_sum(tf.exp(log_p) * log_p))
        values.append(critic(state[None])[0, 0])

        state, reward, done = env.step(action)
        rewards.append(reward)
        if done:
            break
    return tf.stack(log_probs), tf.stack(values), tf.stack(entropies), rewards


def train_episode(env):
    with tf.GradientTape(persistent=True) as tape:
        log_probs, values, entropies, rewards = play(env)
        returns = discounted(rewards)
        advantage = tf.stop_gradient(returns - values)
        actor_loss = -tf.reduce_mean(log_probs * advantage + ENTROPY * entropies)
        critic_loss = huber(returns[:, None], values[:, None])

    actor_grads = tape.gradient(actor_loss, actor.trainable_variables)
    critic_grads = tape.gradient(critic_loss, critic.trainable_variables)
    del tape
    actor_grads, _ = tf.clip_by_global_norm(actor_grads, 1.0)
    actor_opt.apply_gradients(zip(actor_grads, actor.trainable_variables))
    critic_opt.apply_gradients(zip(critic_grads, critic.trainable_variables))
    return actor_loss, critic_loss, sum(rewards)


def main():
    actor_mean, critic_mean = keras.metrics.Mean(), keras.metrics.Mean()
    running_reward = 0.0
    for episode in range(1, N_EPISODES + 1):
        a_loss, c_loss, total = train_episode(env)
        actor_mean.update_state(a_loss)
        critic_mean.update_state(c_loss)
        running_reward = 0.1 * total + 0.9 * running_reward
        if episode % 10 == 0:
            print(
                f"episode {episode}: actor loss {actor_mean.result():.4f}, "
                f"critic loss {critic_mean.result():.4f}, running reward {running_reward:.4f}"
            )
            actor_mean.reset_state()
            critic_mean.reset_state()


if __name__ == "__main__":
    main()
