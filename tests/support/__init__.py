"""What several test files use: strategies, fakes, a virtual event loop."""
