"""What becomes of the tasks that an earlier agent left: each is answered, or runs."""

from __future__ import annotations

import logging
import uuid
from dataclasses import replace

from parsl_globus.endpoint.failures import TASK_CANCELLED, TASK_LOST, failure
from parsl_globus.endpoint.intake import Intake
from parsl_globus.endpoint.marks import Marks
from parsl_globus.endpoint.outbox import Outbox
from parsl_globus.endpoint.spool import Recovered, Spool, SpooledTask
from parsl_globus.endpoint.trips import LeftNotes

logger = logging.getLogger(__name__)


class Recovery:
    """Answers for tasks by what is on disk of them. No worker of the earlier agent may live any more.

    Args:
        spool: Where they are.
        intake: Has them run.
        outbox: Sends the results.
        marks: Tell what had begun; `None` where workers leave none, and all counts as begun.
        notes: Tell what had ended.
        retries: How often a task that had begun may run again.
    """

    def __init__(
        self, spool: Spool, intake: Intake, outbox: Outbox, *, marks: Marks | None, notes: LeftNotes, retries: int
    ) -> None:
        self._spool = spool
        self._intake = intake
        self._outbox = outbox
        self._marks = marks
        self._notes = notes
        self._retries = retries

    def answer_for(self, left: Recovered) -> None:
        """Have the tasks run, or report them as lost; send what their workers have noted.

        Raises:
            EndpointError: The spool can't be written.
        """
        if self._marks is not None:
            self._marks.prune()
        for task in left.accepted:
            self._intake.run_again(task)
        noted = self._send_noted(left)
        for task in left.handed_over:
            if task.task_id not in noted:
                self._settle(task)
        for task in left.unreadable:
            if task.task_id not in noted:
                text = (
                    "The endpoint's machine failed before the task's message was safe on its disk. "
                    "The task may have begun; submit it again if running twice does no harm."
                )
                self._outbox.put(task.task_id, failure(task.task_id, TASK_LOST, text))
        tasks = len(left.accepted) + len(left.handed_over)
        if left.results or tasks:
            logger.info("Recovered %d results and %d tasks", len(left.results), tasks)
        if left.unreadable:
            logger.error("%d tasks are lost: their long messages are not whole on disk", len(left.unreadable))

    def _send_noted(self, left: Recovered) -> set[uuid.UUID]:
        found = self._notes.read()
        had = (*left.handed_over, *left.unreadable)
        waiting = {task.task_id for task in had if task.attempt <= 1}  # later ones don't share trips
        noted = {task_id: body for task_id, body in found.items() if task_id in waiting}
        # The outbox writes when it comes to it. The notes must not be gone by then, should this agent be killed, too.
        self._spool.finish(noted.items())
        self._notes.forget()
        for task_id, body in noted.items():
            self._outbox.put(task_id, body)
        return set(noted)

    def _settle(self, task: SpooledTask) -> None:
        if self._marks is not None and self._marks.take_back(task.task_id, task.attempt):
            self._spool.taken_back(task.task_id)
            self._intake.run_again(task)
        elif self._marks is not None and self._marks.asked_to_end(task.task_id, task.attempt):
            text = "The task was cancelled, and ended with its endpoint."
            self._outbox.put(task.task_id, failure(task.task_id, TASK_CANCELLED, text))
        elif task.failures < self._retries:
            self._spool.failed(task.task_id)
            self._intake.run_again(replace(task, failures=task.failures + 1))
        else:
            text = "The endpoint ended while it had this task, which had begun; it was not run again."
            self._outbox.put(task.task_id, failure(task.task_id, TASK_LOST, text))
