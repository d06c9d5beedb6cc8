"""Moving all that a home holds from one database into the other kind, and back."""
