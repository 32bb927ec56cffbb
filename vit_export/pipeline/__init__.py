"""The use cases: a request, the files that follow from it, and the order of the steps."""
