"""Many runs over the axes of a recipe: planned, trained and indexed."""
