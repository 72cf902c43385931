"""What goes out: result lines and JSON on stdout, everything for people on stderr."""
