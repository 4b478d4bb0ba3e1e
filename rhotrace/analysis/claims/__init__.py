"""The memo's statements against one run."""
