"""Helpers of the tests and of ./dev."""
