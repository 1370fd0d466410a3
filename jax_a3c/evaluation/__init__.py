"""Evaluation: play whole episodes, score runs, record videos."""
