"""Turn problems into verified plans, and plans into training rows."""
