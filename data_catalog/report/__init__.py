"""The report of a build: one HTML file on the contents of a snapshot, its funnel, and its rejected rows."""
