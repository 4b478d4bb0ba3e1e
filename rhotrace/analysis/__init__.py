"""What recorded runs show: transient, fluctuation, claims, verification."""
