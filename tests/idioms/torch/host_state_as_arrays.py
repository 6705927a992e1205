"""The bandit of `state_dict_in_host_state`, whose tensors are arrays in `host_state`."""

import keras

import perigee as pg
from tests.idioms.programs import points
from tests.idioms.torch import state_dict_in_host_state as bandits

plain = bandits.plain


class Augmented(bandits.Augmented):
    def host_state(self):
        held = self.bandit.state_dict()
        for name in ("gains", "pulls"):
            held[name] = keras.ops.convert_to_numpy(held[name])
        return held

    def load_host_state(self, state):
        for name in ("gains", "pulls"):
            state[name] = keras.ops.convert_to_tensor(state[name])
        self.bandit.load_state_dict(state)


def perigee(**fit):
    step = Augmented()
    history = pg.fit(step, points(), **{"epochs": 2, "batch_size": 8, "shuffle": False, **fit})
    return {"loss": history.history["loss"], **bandits.results(step.model, step.bandit)}
