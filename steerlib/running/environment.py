"""What processes that compute are told by their environment, unless it tells them otherwise."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# More would only fight over the cores: two notebooks on two threads each took twice as long. PyTorch has as many as the
# study says. Threads that wait for one another sleep instead of spinning: on a busy machine spinning costs many times
# the work.
THREADS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
}
# Of the server that kernels are forked from, which has all of it from its start.
SERVER = THREADS | {
    # Some libraries, as they are imported, ask PyTorch whether there is a GPU. So it asks the driver: were it to ask
    # CUDA, no kernel could ever use one.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    # Bytes. What is freed is used again and not handed back: a third of the pages had to be asked for no more.
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(256 << 20),
    # How to make a product of each shape is kept, at 0.6 MB. It would be kept of a thousand.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    "LRU_CACHE_CAPACITY": "128",  # of PyTorch before it
}


@contextmanager
def environ(variables: Mapping[str, str]) -> Iterator[None]:
    """What is started, or imported, inside: of these it is told what this process is not told otherwise."""
    ours = variables.keys() - os.environ.keys()
    os.environ.update({name: variables[name] for name in ours})
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]
