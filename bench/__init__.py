"""The harness: command line, configuration, datasets, training, shipped weights, runner, record, tracking."""

__version__ = "0.1.0"
