"""The translation methods, each an engine of its own, behind one small protocol."""
