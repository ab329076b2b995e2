"""What the user asks for: the command line and the functions behind it."""
