"""Keep a run: its folder, its manifest, and what a stage is handed."""
