"""Classical planning worlds: simulate, plan, grade."""
