"""What the service does and knows: its operations, one a file, and their words. No I/O."""
