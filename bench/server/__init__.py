"""Whole servers under load, beside each other."""
