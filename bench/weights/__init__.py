"""Shipped weights: half-precision safetensors, each with a card that says how it was trained."""

from pathlib import Path

SHIPPED = Path(__file__).parent
"""The folder of the shipped weights."""
