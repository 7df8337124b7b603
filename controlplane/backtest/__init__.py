"""Replay a labelled stream and ask what drift detection would have said, and when."""
