"""Runners: who applies the gradient of an objective."""
