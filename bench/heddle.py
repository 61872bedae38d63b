"""Heddle as one more subject of the comparison: real `heddle up` on a mesh of one nginx and one client."""


def available():
    """Why Heddle cannot be measured; None when it can."""
    return "bench/heddle.py does not start Heddle yet"
