"""Which job starts when: after those it needs, once its checkpoint lies on this disk; and what each came to."""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue

from steerlib import listing
from steerlib.errors import SteerlibError
from steerlib.execution import Outcome, execute
from steerlib.jobs import Job, Workspace
from steerlib.stages import STAGES
from steerlib.supply import Supply

FETCH = "checkpoint"  # stands for a stage where fetching one is told of
Told = Callable[[str, bool], None]  # what happened, and whether a job ended with it


class Dispatch:
    """Jobs on their way: submitted to Dask as soon as they may, in the order given.

    Of a repository's checkpoints as many are at work as its budget of disk holds, and the next is fetched meanwhile;
    all others lie there from the start.
    """

    def __init__(self, params: Path, outputs: Path, workspace: Workspace, todo: Sequence[Job]):
        """Raises SteerlibError when the budget of disk is less than one of the checkpoints."""
        self.params, self.outputs, self.workspace = params, outputs, workspace
        self.order = {job: order for order, job in enumerate(todo)}
        self.outcomes: dict[Job, Outcome] = {}
        self.lost: dict[int, Outcome] = {}  # steps whose checkpoint could not be fetched
        self._futures: dict[Job, object] = {}
        self._events: SimpleQueue[tuple[Job, str]] = SimpleQueue()
        self._supply = self._of_repo() if workspace.study.checkpoints.repo else None
        self._here = set() if self._supply else {job.step for job in todo}

    def run(self, client, told: Told) -> list[Outcome]:
        """All outcomes, those of fetching included, when there is nothing left to do."""
        waiting = list(self.order)
        if self._supply:
            self._supply.start()
        try:
            while True:
                waiting = [job for job in waiting if not self._start(client, job, told)]
                if len(self.outcomes) == len(self.order):
                    return [*self.lost.values(), *self.outcomes.values()]
                self._take(*self._events.get(), told)
        finally:
            if self._supply:
                self._supply.stop()

    def _of_repo(self) -> Supply:
        study, folder = self.workspace.study, self.workspace.folder
        wanted = {job.step for job in self.order if self._loads(job)}
        steps = [step for step in self.workspace.checkpoints if step in wanted]
        arrived = lambda step, message: self._events.put((Job(FETCH, step), message))  # noqa: E731
        return Supply(study, listing.load(study, folder), folder, steps, arrived)

    def _take(self, job: Job, message: str, told: Told) -> None:
        """A checkpoint has arrived, or has not; or a job has ended."""
        if job.stage == FETCH:
            self._here.add(job.step)
            if message:
                self.lost[job.step] = Outcome(job, "failed", message)
            told(f"{job}: {'failed' if message else 'here'}", False)
        else:
            # Not held any longer: were it, Dask would run the job again when the worker that ran it dies.
            future = self._futures.pop(job)
            try:
                error = future.exception()
                outcome = future.result() if error is None else None
            except CancelledError as error:
                raise SteerlibError("the Dask scheduler is gone; run again: what is done is kept") from error
            self._settle(outcome or Outcome(job, "failed", f"its worker died ({type(error).__name__})"), told)
        if self._supply:
            for step in self._here - {j.step for j in self.order if self._loads(j) and j not in self.outcomes}:
                self._supply.release(step)

    def _start(self, client, job: Job, told: Told) -> bool:
        """Submit a job if it may start by now; whether it did, or was found to be lost."""
        needs = {need: required for need, required in self.workspace.needs(job).items() if need in self.order}
        if not needs.keys() <= self.outcomes.keys() or (self._loads(job) and job.step not in self._here):
            return False
        if lacking := [str(need) for need, required in needs.items() if required and not self._done(need)]:
            self._settle(Outcome(job, "skipped", f"because {', '.join(lacking)} failed"), told)
            return True
        if self._loads(job) and job.step in self.lost:
            self._settle(Outcome(job, "skipped", "because its checkpoint could not be fetched"), told)
            return True
        self._futures[job] = client.submit(
            execute,
            str(self.params.resolve()),
            str(self.outputs.resolve()),
            job,
            key=f"{job} {time.time_ns()}",
            priority=-self.order[job],
            pure=False,
        )
        self._futures[job].add_done_callback(lambda _: self._events.put((job, "")))
        return True

    def _done(self, job: Job) -> bool:
        return self.outcomes[job].state == "done"

    def _loads(self, job: Job) -> bool:
        """Whether a job needs what is fetched: with fine-tuning, that alone does."""
        return job.stage == "finetuning" if self.workspace.study.finetuning else STAGES[job.stage].loads

    def _settle(self, outcome: Outcome, told: Told) -> None:
        self.outcomes[outcome.job] = outcome
        told(f"{outcome.job}: {outcome.state}", True)
