"""Experiment trackers: each module needs one library, and is imported only where it is asked for."""
