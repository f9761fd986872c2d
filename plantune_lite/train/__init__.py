"""Train adapters: SFT on plans, then GRPO on rewards."""
