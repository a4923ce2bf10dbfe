"""Which job starts when: after those it needs, once its checkpoint lies on this disk; and what each came to.

Dask is given a job when it can start, not the graph of all. Of a graph it would run again what a worker has done that
dies later, as it keeps outcomes there for the jobs that need them; it would hold that death against all jobs that wait
on the worker; and it would give up a job together with a need that it can do without.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from graphlib import TopologicalSorter
from queue import Empty, SimpleQueue

from distributed import CancelledError, Client, KilledWorker

from steerlib import SteerlibError
from steerlib.checkpoints import contents, fetching, listing
from steerlib.checkpoints.history import Checkpoint
from steerlib.files import store
from steerlib.results.workspace import Job, Workspace
from steerlib.running.kernels import LESS
from steerlib.running.worker import Outcome, Run, execute
from steerlib.stages.table import STAGES

FETCH, HERE = "checkpoint", "here"  # stand for a stage, and for the state 'done', where fetching one is told of
QUIET = 2  # seconds without an event, after which somebody may wonder whether anybody is at work
Report = Callable[..., None]  # `description`: what happened; `advance`: how many jobs ended with it


class Dispatch:
    """Jobs on their way: submitted to Dask as soon as they may, in the order given.

    Of a repository's checkpoints as many are at work as its budget of disk holds, and the next is fetched meanwhile;
    all others lie there from the start. What an event costs grows with what it sets free, not with all there is.
    """

    def __init__(self, run: Run, workspace: Workspace, todo: Sequence[Job]):
        """Raises SteerlibError when the budget of disk is less than one of the checkpoints."""
        self.common, self.workspace = run, workspace
        self.order = {job: order for order, job in enumerate(todo)}
        self.outcomes: dict[Job, Outcome] = {}  # also of fetching
        self._futures: dict[Job, object] = {}
        self._events: SimpleQueue[tuple[Job, Outcome | None]] = SimpleQueue()  # None: its future tells
        self._loading = Counter(job.step for job in todo if self._loads(job))  # jobs that still need a checkpoint
        self._supply, fetched = None, set[int]()
        if workspace.study.checkpoints.repo:
            repo = listing.load(workspace.study, workspace.folder)
            steps = [step for step in workspace.checkpoints if step in self._loading]
            self._supply = fetching.Supply(workspace.study, repo, workspace.folder, steps, self._arrived)
            fetched = {entry.step for entry in self._supply.wanted}
        self._needs: dict[Job, dict[Job, bool]] = {}  # what a job starts after, and whether it can't be done without
        self._reads_only: set[Job] = set()  # jobs that read nothing but what is made in this run
        for job in todo:
            fetch = {Job(FETCH, job.step): True} if job.step in fetched and self._loads(job) else {}
            needs = workspace.needs(job)
            self._needs[job] = {need: required for need, required in needs.items() if need in self.order} | fetch
            if needs.keys() <= self.order.keys():
                self._reads_only.add(job)
        self.faults: dict[int, str] = {}  # of checkpoints, by step, as far as their files tell
        self._shapes: dict[int, str] = {}
        # What is fetched is looked at once it is here.
        self._look(one for step, one in workspace.checkpoints.items() if step not in fetched)
        self._graph = TopologicalSorter(self._needs)
        self._graph.prepare()

    def run(self, client: Client, report: Report) -> list[Outcome]:
        """All outcomes, those of fetching that failed included, when there is nothing left to do."""
        if self._supply:
            self._supply.start()
        try:
            while self._graph.is_active():
                for job in self._graph.get_ready():
                    if job in self.order:
                        self._start(client, job)
                self._end(self._next(client, report), report)
            return [o for o in self.outcomes.values() if o.job in self.order or o.state == "failed"]
        finally:
            if self._supply:
                self._supply.stop()

    def _arrived(self, step: int, problem: str) -> None:
        job = Job(FETCH, step)
        self._events.put((job, Outcome(job, "failed" if problem else HERE, problem)))

    def _look(self, checkpoints: Iterable[Checkpoint]) -> None:
        """What its files tell of a checkpoint is told before it is at work. Those yet to be trained tell nothing."""
        if not self.workspace.study.pretraining:
            layers_of = self.workspace.study.layers_of
            self.faults |= contents.faults(checkpoints, self._shapes, _fits, layers_of)

    def _loads(self, job: Job) -> bool:
        """Whether a job needs what is fetched: with fine-tuning, that alone does."""
        return job.stage == "finetuning" if self.workspace.study.finetuning else STAGES[job.stage].loads

    def _start(self, client: Client, job: Job) -> None:
        """Submit a job that waits for nothing any more; it is skipped when it lacks what it needs."""
        needs = self._needs[job]
        absent = [need for need in needs if self.outcomes[need].state not in ("done", HERE)]
        nothing = bool(needs) and len(absent) == len(needs) and job in self._reads_only
        if lacking := [str(need) for need in absent if nothing or needs[need]]:
            self._events.put((job, Outcome(job, "skipped", f"because {', '.join(lacking)} failed")))
            return
        if job.step in self.faults and self._loads(job):
            self._events.put((job, Outcome(job, "failed", self.faults[job.step])))
            return
        # Of one group, as Dask tells by the first word: it then hands a worker no more than it can do at once, and
        # the death of one is held against the job that it was at, not against all that were to come.
        key = f"steerlib-{job} {time.time_ns()}"
        future = client.submit(execute, self.common, job, key=key, priority=-self.order[job], pure=False)
        self._futures[job] = future
        future.add_done_callback(lambda _: self._events.put((job, None)))

    def _next(self, client: Client, report: Report) -> Outcome:
        """What happens next: a checkpoint arrives, or does not; or a job ends."""
        alone = False
        while True:
            with suppress(Empty):
                job, outcome = self._events.get(timeout=QUIET)
                # No longer held: were it, Dask would run the job again when the worker that ran it dies.
                return outcome or _outcome(self._futures.pop(job), job)
            if client.status == "running" and self._futures:  # else a checkpoint is awaited, or a scheduler
                nobody = not client.scheduler_info(n_workers=-1)["workers"]
                if nobody != alone:
                    report(description="waiting for workers" if nobody else "at work")
                alone = nobody

    def _end(self, outcome: Outcome, report: Report) -> None:
        """Keep how a job, or a fetch, has ended; after its last job a checkpoint is let go of."""
        job = outcome.job
        notebook = self.workspace.notebook(job) if job in self.order and job.step not in self.faults else None
        self.outcomes[job] = replace(outcome, notebook=notebook)
        if outcome.state == HERE:
            self._look([self.workspace.checkpoints[job.step]])
        if job in self.order and self._loads(job):
            self._loading[job.step] -= 1
            if self._supply and not self._loading[job.step]:
                self._supply.release(job.step)
        report(description=f"{job}: {outcome.state}", advance=int(job in self.order))
        self._graph.done(job)


def _fits(checkpoint: Checkpoint) -> None:
    """Raises SteerlibError for an architecture that is not known, and an adapter that is none of its base."""
    from steerlib.model import loading  # which takes a moment

    loading.check(checkpoint)


def _outcome(future, job: Job) -> Outcome:
    """What became of a job that was submitted. Raises SteerlibError when the scheduler is gone."""
    try:
        return future.result()
    except CancelledError:
        raise SteerlibError("the Dask scheduler is gone; run again: what is done is kept") from None
    except KilledWorker as error:
        deaths = f"its worker died {error.allowed_failures + 1} times, the last at {error.last_worker.address}"
        return Outcome(job, "failed", f"{deaths}; if for want of memory, {LESS}")
    except Exception as error:  # not of the job, of which failures are told: a worker, or scheduler, without steerlib
        reason = f"{type(error).__name__}: {store.reason(error)}"
        return Outcome(job, "failed", f"it could not be run ({reason}); give scheduler and workers the same checkout")
