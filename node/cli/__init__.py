"""The command line: one module per noun, one layer for output, everything loaded only when its command runs."""
