"""A sweep of wrong arguments over every public entry point.

`kinds` lists the ways to misuse an argument, `entries` the entry points with right arguments and the
literal references of what they return, `judge` says what became of one call. Run the whole table by

    python tests/misuse/sweep.py --verbose
"""
