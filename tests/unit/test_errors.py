"""Errors: a sentence of their own, also without docstrings, and the way through a job's row and back."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from batch.errors import BadRequest, BatchError, NotFound, WorkerDied


def test_every_error_has_a_sentence_of_its_own_also_without_docstrings() -> None:
    code = (
        "import json; from batch import errors; from batch.queue.sqlite import schema\n"
        "classes = [errors.BatchError]\n"
        "for c in classes: classes += c.__subclasses__()\n"
        "print(json.dumps({c.__name__: c().message for c in classes}))"
    )
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=True)
    sentences = json.loads(done.stdout)
    assert len(sentences) > 20 and all(len(sentence) > 5 for sentence in sentences.values())
    assert len(set(sentences.values())) == len(sentences)


@pytest.mark.parametrize("error", [NotFound(), BadRequest("No.", param="stop"), WorkerDied("It died.")])
def test_an_error_comes_back_from_a_row_as_it_was(error: BatchError) -> None:
    back = BatchError.from_record(json.loads(json.dumps(error.record())))
    assert type(back) is type(error) and back.body() == error.body()


def test_an_error_of_an_unknown_class_is_still_an_error() -> None:
    assert BatchError.from_record({"class": "Later", "message": "It is later."}).body()["message"] == "It is later."
    assert BatchError.from_record({}).message == BatchError.sentence
