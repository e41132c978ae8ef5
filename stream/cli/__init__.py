"""The tidewise command."""
