"""The page: what it shows, and its files."""
