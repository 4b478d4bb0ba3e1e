"""What a run records: the quantities and when each is measured."""
