"""Decisions: pure functions over frozen values. No clock, no chance, no I/O, no event loop.

Time and draws are arguments, so that a test can state every decision exactly. `decide` is the
table of DESIGN's life of a delivery; the other modules are what it is made of.
"""
