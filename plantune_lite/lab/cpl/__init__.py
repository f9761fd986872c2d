"""CPL: search over plan steps, and learn the ones that matter."""
