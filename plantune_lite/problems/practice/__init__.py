"""Make word problems: the generator that needs no network."""
