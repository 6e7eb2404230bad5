"""Files from the web: what upstream offers under which license, and one guarded, resumable, verified way to get it."""
