"""Runs of any training: phases and resume states, processes that train together, trackers, the record of attempts."""
