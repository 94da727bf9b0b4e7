"""How long a test waits for something before it calls it hung."""

from __future__ import annotations

PATIENCE = 600.0
"""Seconds.

Not a measure of speed: on a machine with ten times the work it can do, everything takes ten times as long.
"""
