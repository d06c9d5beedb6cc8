"""What can be set: one frozen object for a home. Nothing else in batch reads the environment."""

from batch.settings.keys import (
    Access,
    EmbeddingSettings,
    FileSettings,
    FolderSettings,
    LimitSettings,
    ModelSettings,
    OutboxSettings,
    PageSettings,
    QueueSettings,
    RetentionSettings,
    SourceFate,
    SttSettings,
    VlmSettings,
)
from batch.settings.settings import Settings, default_models_dir

__all__ = [
    "Access",
    "EmbeddingSettings",
    "FileSettings",
    "FolderSettings",
    "LimitSettings",
    "ModelSettings",
    "OutboxSettings",
    "PageSettings",
    "QueueSettings",
    "RetentionSettings",
    "Settings",
    "SourceFate",
    "SttSettings",
    "VlmSettings",
    "default_models_dir",
]
