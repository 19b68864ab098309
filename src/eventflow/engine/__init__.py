"""Engines keep the queues: `protocol` says what they promise, the folders keep it."""
