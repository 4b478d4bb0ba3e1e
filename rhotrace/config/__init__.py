"""What a user writes: recipes read strictly, validated, and shipped with the package."""
