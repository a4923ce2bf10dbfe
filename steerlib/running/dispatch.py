"""Which job starts when: after those it needs, once its checkpoint lies on this disk; and what each came to."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from steerlib import SteerlibError
from steerlib.checkpoints import listing
from steerlib.checkpoints.supply import Supply
from steerlib.results.workspace import Job, Workspace
from steerlib.running.cluster import LESS
from steerlib.running.worker import Outcome, Run, execute
from steerlib.stages.table import STAGES

FETCH = "checkpoint"  # stands for a stage where fetching one is told of
QUIET = 2  # seconds without an event, after which somebody may wonder whether anybody is at work
Told = Callable[[str, bool], None]  # what happened, and whether a job ended with it


class Dispatch:
    """Jobs on their way: submitted to Dask as soon as they may, in the order given.

    Of a repository's checkpoints as many are at work as its budget of disk holds, and the next is fetched meanwhile;
    all others lie there from the start. What an event costs grows with what it sets free, not with all there is.
    """

    def __init__(self, run: Run, workspace: Workspace, todo: Sequence[Job]):
        """Raises SteerlibError when the budget of disk is less than one of the checkpoints."""
        self.of, self.workspace = run, workspace
        self.order = {job: order for order, job in enumerate(todo)}
        self.outcomes: dict[Job, Outcome] = {}
        self.lost: dict[int, Outcome] = {}  # steps whose checkpoint could not be fetched
        self._futures: dict[Job, object] = {}
        self._events: SimpleQueue[tuple[Job, str]] = SimpleQueue()
        self._loading = Counter(job.step for job in todo if self._loads(job))  # jobs that still need a checkpoint
        self._supply = self._of_repo() if workspace.study.checkpoints.repo else None
        self._needs = {job: {n: r for n, r in workspace.needs(job).items() if n in self.order} for job in todo}
        # What a job waits for is counted: the jobs it needs, and its checkpoint, which stands among them as one.
        self._then: dict[Job, list[Job]] = {}
        self._open: Counter[Job] = Counter()
        for job, needs in self._needs.items():
            fetched = [Job(FETCH, job.step)] if self._supply and self._loads(job) else []
            for need in (*needs, *fetched):
                self._then.setdefault(need, []).append(job)
                self._open[job] += 1

    def run(self, client, told: Told) -> list[Outcome]:
        """All outcomes, those of fetching included, when there is nothing left to do."""
        if self._supply:
            self._supply.start()
        try:
            self._start(client, [job for job in self.order if not self._open[job]], told)
            while len(self.outcomes) < len(self.order):
                self._start(client, self._take(*self._next(client, told), told), told)
            return [*self.lost.values(), *self.outcomes.values()]
        finally:
            if self._supply:
                self._supply.stop()

    def _of_repo(self) -> Supply:
        study, folder = self.workspace.study, self.workspace.folder
        steps = [step for step in self.workspace.checkpoints if step in self._loading]
        arrived = lambda step, message: self._events.put((Job(FETCH, step), message))  # noqa: E731
        return Supply(study, listing.load(study, folder), folder, steps, arrived)

    def _next(self, client, told: Told) -> tuple[Job, str]:
        """What happens next: a checkpoint arrives, or does not; or a job ends."""
        alone = False
        while True:
            try:
                return self._events.get(timeout=QUIET)
            except Empty:
                if client.status == "running" and self._futures:  # else a checkpoint is awaited, or a scheduler
                    nobody = not client.scheduler_info(n_workers=-1)["workers"]
                    if nobody != alone:
                        told("waiting for workers" if nobody else "at work", False)
                    alone = nobody

    def _take(self, job: Job, message: str, told: Told) -> list[Job]:
        """Note what happened; returns the jobs that may start by now."""
        if job.stage == FETCH:
            if message:
                self.lost[job.step] = Outcome(job, "failed", message)
            told(f"{job}: {'failed' if message else 'here'}", False)
            return self._free(job)
        # Not held any longer: were it, Dask would run the job again when the worker that ran it dies.
        return self._settle(_outcome(self._futures.pop(job), job), told)

    def _start(self, client, ready: Sequence[Job], told: Told) -> None:
        """Submit jobs that wait for nothing any more; those that lack what they need, and what needs them, are lost."""
        waiting = deque(ready)
        while waiting:
            job = waiting.popleft()
            if why := self._lacks(job):
                waiting += self._settle(Outcome(job, "skipped", why), told)
                continue
            # Of one group, as Dask tells by the first word: it then hands a worker no more than it can do at once, and
            # the death of one is held against the job that it was at, not against all that were to come.
            key = f"steerlib-{job} {time.time_ns()}"
            future = client.submit(execute, self.of, job, key=key, priority=-self.order[job], pure=False)
            self._futures[job] = future
            future.add_done_callback(lambda _, job=job: self._events.put((job, "")))

    def _lacks(self, job: Job) -> str:
        """Why a job whose needs have all ended cannot be done; empty when it can."""
        lacking = [str(n) for n, required in self._needs[job].items() if required and self.outcomes[n].state != "done"]
        if lacking:
            return f"because {', '.join(lacking)} failed"
        return "because its checkpoint could not be fetched" if self._loads(job) and job.step in self.lost else ""

    def _loads(self, job: Job) -> bool:
        """Whether a job needs what is fetched: with fine-tuning, that alone does."""
        return job.stage == "finetuning" if self.workspace.study.finetuning else STAGES[job.stage].loads

    def _settle(self, outcome: Outcome, told: Told) -> list[Job]:
        """A job has ended: keep how, and let go of its checkpoint after the last. Returns what may start by now."""
        job = outcome.job
        self.outcomes[job] = outcome
        told(f"{job}: {outcome.state}", True)
        if self._loads(job):
            self._loading[job.step] -= 1
            if self._supply and not self._loading[job.step]:
                self._supply.release(job.step)
        return self._free(job)

    def _free(self, ended: Job) -> list[Job]:
        """Jobs that waited for this one last."""
        then = self._then.pop(ended, [])
        self._open.subtract(then)
        return [job for job in then if not self._open[job]]


def _outcome(future, job: Job) -> Outcome:
    """What became of a job that was submitted. Raises SteerlibError when the scheduler is gone."""
    from distributed import CancelledError
    from distributed.scheduler import KilledWorker

    try:
        return future.result()
    except CancelledError:
        raise SteerlibError("the Dask scheduler is gone; run again: what is done is kept") from None
    except KilledWorker as error:
        died = f"its worker died {error.allowed_failures + 1} times, the last at {error.last_worker.address}"
        return Outcome(job, "failed", f"{died}, perhaps for want of memory; {LESS}")
    except Exception as error:  # not of the job, of which failures are told: a worker, or scheduler, without steerlib
        told = f"{type(error).__name__}: {error}"
        return Outcome(job, "failed", f"it could not be run ({told}); give scheduler and workers the same checkout")
