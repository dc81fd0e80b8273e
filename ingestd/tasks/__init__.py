"""Tasks that other programs call."""
