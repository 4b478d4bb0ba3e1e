"""What ``run.py`` measures, one part in each module; a part yields rows, and ``page`` makes the tables of them.

Ratios are of processor time, of two loops that take turns in one process; whole processes are timed by the clock too.
"""
