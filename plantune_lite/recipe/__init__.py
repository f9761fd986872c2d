"""Describe a run: the fields of a recipe, recipes as text, a user's functions in them."""
