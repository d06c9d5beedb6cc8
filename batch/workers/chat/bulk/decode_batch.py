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
    def of_equal_slices(cls, jobs: Iterable[BulkJob], most_tokens: int, multiple: int) -> DecodeBatch:
        """The same where each sequence has its own cells: there, slices of equal length of jobs with consecutive sequences are
        computed at once, and of no others."""
        steps = [(job, job.step) for job in jobs if isinstance(job.step, PromptSlice)]
        steps.sort(key=lambda one: one[0].slot.seq)
        together = steps[:1]
        for job, step in steps[1:]:
            n, last = step.n_tokens, together[-1][0].slot.seq
            if not MIN_JOINT_TOKENS <= n == together[0][1].n_tokens or job.slot.seq != last + 1:
                break
            if n % multiple or n * (len(together) + 1) > most_tokens:
                break
            together.append((job, step))
        return cls(together)

    @classmethod
    def of_any_slices(cls, jobs: Iterable[BulkJob], most_tokens: int, multiple: int = 1) -> DecodeBatch:
        """The same where a slice may have other numbers in company: as many as there is room for."""
        steps = list[JobStep]()
        for job in sorted((job for job in jobs if job.step is not None), key=lambda job: job.slot.seq):
            if isinstance(job.step, PromptSlice) and job.step.n_tokens <= most_tokens:
                steps.append((job, job.step))
                most_tokens -= job.step.n_tokens
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

    def by_sequence(self) -> DecodeBatch:
        """The same steps in the order of their sequences."""
        return DecodeBatch(sorted(self._steps, key=lambda one: one[0].slot.seq))

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
