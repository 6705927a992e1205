"""Type aliases for values without a useful static type: tensors and trees of them."""

from typing import Any, Literal, TypeAlias

Tensor: TypeAlias = Any
"""A tensor of the framework that runs: `tf.Tensor`, `jax.Array` or `torch.Tensor`."""

Batch: TypeAlias = Any
"""A tree (tuples, lists, dicts) of arrays or tensors with the examples on the first axis."""

Tree: TypeAlias = Any
"""A tree of anything."""

Shuffle: TypeAlias = bool | Literal["batch"]
"""Whether the rows of arrays are shuffled: among all of them, or within each batch."""
