"""The live demo: a window on the desk, a page in the browser.

A user of the package like any other: it imports what ``detq.__all__`` lists, and nothing else of
detq. ``launch.py`` is what the command line calls; read that first.
"""
