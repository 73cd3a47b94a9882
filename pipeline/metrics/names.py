"""What scores are kept by: the names of systems and of our own protocol, for those too that only read scores.

Nothing is imported here, so that whoever refuses a folder by its scores need not wait for what measures them.
"""

MODEL, COPY, HISTOGRAM, LOOKUP = "model", "copy", "histogram matching", "lookup"  # systems; all but the first baselines
OWN = "own"  # our protocol, `pipeline.metrics.protocols.OWN`
