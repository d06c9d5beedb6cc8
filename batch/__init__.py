"""batch: a person's own machine as a dependable AI batch engine."""

__version__ = "0.1.0"
