"""Fetching of images from the web: guarded connections, limits of hosts, opt-outs, and recorded outcomes."""
