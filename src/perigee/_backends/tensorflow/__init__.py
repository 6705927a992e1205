# pyright: basic
"""TensorFlow: gradient tapes, functions and variables that change in place."""

from perigee._backends._protocol import Capabilities
from perigee._backends.tensorflow.blocks import gathered
from perigee._backends.tensorflow.compiling import (
    compile,
    observe,
    plain,
    rehearse,
    user_code,
    watch,
)
from perigee._backends.tensorflow.gradients import differentiate, differentiate_inputs, update_if
from perigee._backends.tensorflow.tensors import (
    all_finite,
    dense,
    is_tensor,
    random_state,
    rewind_random_state,
    set_random_state,
    tensors,
    to_host,
)


class TensorFlow:
    """The contract of `perigee._backends.Backend`, kept by TensorFlow."""

    name = "tensorflow"
    capabilities = Capabilities(
        modes=("graph", "eager", "xla"),
        fuses="always",
        fuses_ragged=True,
        compiles_operations=False,
    )

    tensors = staticmethod(tensors)
    to_host = staticmethod(to_host)
    is_tensor = staticmethod(is_tensor)
    random_state = staticmethod(random_state)
    set_random_state = staticmethod(set_random_state)
    rewind_random_state = staticmethod(rewind_random_state)
    dense = staticmethod(dense)
    all_finite = staticmethod(all_finite)
    differentiate = staticmethod(differentiate)
    differentiate_inputs = staticmethod(differentiate_inputs)
    update_if = staticmethod(update_if)
    plain = staticmethod(plain)
    user_code = staticmethod(user_code)
    rehearse = staticmethod(rehearse)
    observe = staticmethod(observe)
    watch = staticmethod(watch)
    gathered = staticmethod(gathered)
    compile = staticmethod(compile)


BACKEND = TensorFlow()
