# pyright: basic
"""torch: tensors that record what made them, and variables that change in place."""

from perigee._backends._protocol import Capabilities
from perigee._backends.torch.compiling import (
    compile,
    gathered,
    observe,
    plain,
    rehearse,
    user_code,
    watch,
)
from perigee._backends.torch.gradients import differentiate, differentiate_inputs, update_if
from perigee._backends.torch.tensors import (
    all_finite,
    dense,
    is_tensor,
    random_state,
    rewind_random_state,
    set_random_state,
    tensors,
    to_host,
)


class Torch:
    """The contract of `perigee._backends.Backend`, kept by torch."""

    name = "torch"
    capabilities = Capabilities(
        modes=("eager",),
        fuses="never",
        fuses_ragged=False,
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


BACKEND = Torch()
