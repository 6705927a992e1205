"""What is trained: of each workload one definition of model, losses, metrics and data."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.workloads._workload import Workload as Workload
from benchmarks.workloads.classification import Accumulation, Convolutional, Dense, Transformer
from benchmarks.workloads.gan import GAN
from benchmarks.workloads.vae import VAE

WORKLOADS: dict[str, Callable[[], Workload]] = {
    "dense": Dense,
    "convolutional": Convolutional,
    "transformer": Transformer,
    "vae": VAE,
    "gan": GAN,
    "accumulation": Accumulation,
}
