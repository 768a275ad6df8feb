"""Faster twins of the readable operations, each in a file named like its family in ops/. Only dispatch.py uses them."""
