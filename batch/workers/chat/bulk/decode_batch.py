"""Which steps of several jobs are computed in one decode."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

from batch.workers.chat.bulk.job import BulkJob
from batch.workers.chat.bulk.speed import MIN_JOINT_TOKENS, MIN_STEP_ROWS
from batch.workers.chat.steps import NextToken, PromptSlice

JobStep = tuple[BulkJob, NextToken | PromptSlice]


class DecodeBatch:
    """A token, or a slice of the prompt, of each of some jobs."""

    def __init__(self, steps: Sequence[JobStep]) -> None:
        self._steps = steps

    @classmethod
    def of_tokens(cls, jobs: Iterable[BulkJob]) -> DecodeBatch:
        """The next token of all jobs that generate."""
        return cls([(job, job.step) for job in jobs if isinstance(job.step, NextToken)])

    @classmethod
    def of_slices(cls, jobs: Iterable[BulkJob], most_tokens: int, multiple: int) -> DecodeBatch:
        """The first slice of a prompt, and those behind it as far as together they have so many tokens at most: they come to
        stand in the KV as if each were computed by itself. One that has more is by itself, and so is one of too few to have
        the same numbers in company; behind one that is not a multiple of so many tokens there is no other."""
        steps, room = list[JobStep](), most_tokens
        for job in jobs:
            if not isinstance(job.step, PromptSlice):
                continue
            n = job.step.n_tokens
            if not steps or MIN_JOINT_TOKENS <= n <= room:
                steps.append((job, job.step))
                room = room - n if n >= MIN_JOINT_TOKENS and n % multiple == 0 else 0
            else:
                break
        return cls(steps)

    @classmethod
    def of_both(cls, jobs: Sequence[BulkJob], most_prompt_tokens: int, most_rows: int) -> DecodeBatch:
        """The next token of all jobs that generate, and slices of the others' prompts as far as there is room."""
        steps: list[JobStep] = [(job, job.step) for job in jobs if isinstance(job.step, NextToken)]
        room = min(max(most_prompt_tokens, MIN_STEP_ROWS - len(steps)), most_rows - len(steps))
        for job in jobs:
            if isinstance(job.step, PromptSlice) and job.step.n_tokens <= room:
                steps.append((job, job.step))
                room -= job.step.n_tokens
        return cls(steps)

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def jobs(self) -> list[BulkJob]:
        """Whose steps they are, in the order of the rows."""
        return [job for job, _ in self._steps]

    @property
    def parts(self) -> list[tuple[Sequence[int], int, int, bool]]:
        """For the context: (tokens, position, sequence, whether logits behind the last are wanted)."""
        return [
            ([step.token], step.position, job.slot.seq, True)
            if isinstance(step, NextToken)
            else (step.tokens, step.position, job.slot.seq, step.needs_logits)
            for job, step in self._steps
        ]

    @property
    def last_rows(self) -> list[int]:
        """Of each job, the row of its last token."""
        return [end - 1 for end in accumulate(step.n_tokens for _, step in self._steps)]
