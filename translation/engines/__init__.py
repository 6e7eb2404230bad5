"""The built-in engines, and the interface for engines of installed packages."""
