"""What EventFlow does in a second, beside what else there is: `make bench`.

Each program here measures one thing in a process of its own, and says what it found in one line of
JSON. `bench.__main__` lets them take turns, and puts medians, spreads and ratios together.
"""
