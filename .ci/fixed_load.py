"""Say how long a fixed load takes on one core: machines differ by a factor of three.

Half of it is plain Python and half NumPy, on one thread. The seconds stand beside each figure of
how long tests take, so that figures of different machines can be compared.
"""

import os

os.environ.update({f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")})

import time

import numpy as np

PYTHON_ROUNDS = 40_000_000
NUMPY_ROUNDS = 300
SIZE = 384


def python_load() -> int:
    """Return a sum that no optimizer of CPython's can know beforehand."""
    total = 0
    for number in range(PYTHON_ROUNDS):
        total = (total * 31 + number) % 1_000_003
    return total


def numpy_load() -> float:
    """Return a number that takes products of matrices, a sort and a function of each element."""
    matrix = np.random.default_rng(0).normal(size=(SIZE, SIZE))
    product = matrix
    for _ in range(NUMPY_ROUNDS):
        product = np.tanh(product @ matrix / SIZE)
        np.sort(product, axis=None)
    return float(product.sum())


def main() -> None:
    """Run the load, and print its seconds."""
    start = time.perf_counter()
    python_load()
    between = time.perf_counter()
    numpy_load()
    end = time.perf_counter()
    print(
        f"fixed load on one core: {end - start:.1f} s"
        f" (Python {between - start:.1f}, NumPy {end - between:.1f})"
    )


if __name__ == "__main__":
    main()
