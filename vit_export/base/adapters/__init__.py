"""What we use of the pinned packages that they do not promise to keep: a module for each package, and nowhere else.

`tests/base/test_adapters.py` holds each function to the behaviour that its callers rely on.
"""
