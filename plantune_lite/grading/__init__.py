"""Find the answer in a reply and judge it."""
