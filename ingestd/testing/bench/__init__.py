"""Bench: what a frame costs, beside what it costs others, measured from outside in one interleaved run.

`scripts/bench` runs it. Every contender is a process tree that takes the same frames from the same pusher and puts the
same pairs of objects into the same store; who counts reads the kernel's counters and asks the store when the objects
came. Nothing that a contender says about itself is used.
"""
