"""Credit services behind the `Credits` port."""
