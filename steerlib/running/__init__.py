"""Getting it all done: workers, jobs in order, notebooks in warm kernels, and what the console tells of it.

May import all other wings; the command imports this one, and so do the notebooks, which open their job by it.
"""

__all__ = [
    "check",
    "cluster",
    "comparison",
    "dispatch",
    "explore",
    "kernels",
    "monitor",
    "notebook",
    "pipeline",
    "tables",
    "work",
    "worker",
]
