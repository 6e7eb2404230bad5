"""Downloads of annotation files: the registry of files and licenses, and guarded, resumable, verified downloads."""
