"""What each command of the command line does: one module a group, loaded when its command is given."""
