"""The build of a dataset, from upstream files to a committed snapshot."""
