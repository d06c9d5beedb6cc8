"""Models besides a kind's own, as the settings name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch.errors import SettingsProblem
from batch.model_kind import Kind, kind_of, model_of, queue_of
from batch.settings import Settings


def load(home: Path, text: str) -> Settings:
    (home / "batch.toml").write_text(text)
    return Settings.load(home)


def test_a_model_by_name_has_a_queue_and_the_settings_of_its_kind(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        '[vlm]\ncontext = 8\n[models.qwen]\nkind = "vlm"\nmodel = "~/q.gguf"\ncontext = 4096\n'
        '[models.e]\nkind = "embedding"\nmodel = "x"\n',
    )
    assert settings.queues == (*Kind, "vlm:qwen", "embedding:e")
    own = settings.for_queue("vlm:qwen")
    assert own.vlm.context == 4096 and own.vlm.model == str(Path.home() / "q.gguf") and own.models == {}
    assert Settings.model_validate_json(own.model_dump_json()).vlm == own.vlm, "as a worker reads them"
    assert settings.for_queue("vlm") is settings
    assert (kind_of("vlm:qwen"), model_of("vlm:qwen"), queue_of(Kind.VLM, "qwen")) == (Kind.VLM, "qwen", "vlm:qwen")


@pytest.mark.parametrize(
    ("written", "seconds"), [('"10m"', 600.0), ('"1.5h"', 5400.0), ("30", 30.0), ('"0"', 0.0), ("-1", -1.0)]
)
def test_how_long_a_model_is_kept_is_a_duration(tmp_path: Path, written: str, seconds: float) -> None:
    settings = load(tmp_path, f'[stt]\nkeep_alive = {written}\n[models.a]\nkind = "stt"\nmodel = "x"\n')
    assert settings.stt.keep_alive == seconds and settings.vlm.keep_alive == -1
    assert settings.models["a"].keep_alive == 600.0, "ten minutes unless it says otherwise"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[models."a/b"]\nkind="vlm"\nmodel="x"', "at most 64 letters"),
        (f'[models.{"a" * 65}]\nkind="vlm"\nmodel="x"', "at most 64 letters"),
        ('[models.a]\nkind="x"\nmodel="x"', "models.a .* names no kind, or one that there is not"),
        ('[models.a]\nmodel="x"', "models.a .* names no kind"),
        ('[models.a]\nkind="stt"', r"models\.a\.model is missing"),
        ('[models.a]\nkind="stt"\nmodel="x"\ncontext=4', r"no setting models\.a\.context"),
        ('[models.a]\nkind="vlm"\nmodel="x"\nport=4', r"models\.a\.port cannot be set"),
        ('[models.a]\nkind="stt"\nmodel="x"\nkeep_alive="10 parsecs"', r"models\.a\.keep_alive .*a duration as 10m"),
        ('[models.a]\nkind="stt"\nmodel="x"\nkeep_alive=-2', r"models\.a\.keep_alive"),
        ("models = 4", "a table of models by name"),
        ("[models]\na = 3", "models.a .* a table of settings with a kind"),
        ("".join(f'[models.m{n}]\nkind="stt"\nmodel="x"\n' for n in range(65)), "models"),
    ],
)
def test_a_wrong_model_is_one_sentence_that_names_it(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(SettingsProblem, match=sentence) as refused:
        load(tmp_path, text)
    assert "\n" not in refused.value.message
