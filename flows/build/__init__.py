"""The build: upstream files in, a committed snapshot out."""
