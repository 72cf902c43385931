"""From files and stdin to lines, and from lines to records."""
