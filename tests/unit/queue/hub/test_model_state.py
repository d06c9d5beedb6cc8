"""What is known of models, by queue."""

from __future__ import annotations

from batch.queue.hub.model_state import ModelStates
from batch.queue.jobs import Kind


def test_a_queue_that_another_home_named_is_forgotten_with_its_last_worker_and_one_of_this_home_is_not() -> None:
    models = ModelStates()
    known = len(models._workers)
    for number in range(50):
        models.update(f"vlm:model-{number}", "w1", status="ready")
        models.update(f"vlm:model-{number}", "w2", status="ready")
        models.mark_recorded(f"vlm:model-{number}", models[f"vlm:model-{number}"])
    models.update(Kind.VLM, "w3", status="ready")
    for number in range(50):
        models.remove(f"vlm:model-{number}", "w1")
        assert models[f"vlm:model-{number}"].status == "ready"
        models.remove(f"vlm:model-{number}", "w2")
        assert models[f"vlm:model-{number}"].status != "ready"
    models.remove(Kind.VLM, "w3")
    assert len(models._workers) == len(models._states) == len(models._recorded) == known
    assert models[Kind.VLM].status == "loading"
