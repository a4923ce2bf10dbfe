"""Getting it all done: workers, jobs in order, notebooks in warm kernels, and what the console tells of it.

It may import all other wings; the command imports it, and so do the notebooks, which open their job by it.
"""

__all__ = ["check", "cluster", "comparison", "kernels", "notebook", "pipeline", "tables", "worker"]
